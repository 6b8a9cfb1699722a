"""Labels a file of prompts: answers where they are missing, then a score for each model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from fairgate.errors import EngineError
from fairgate.labelling import judge as judges
from fairgate.labelling.choosing import chosen
from fairgate.labelling.engine import Asked
from fairgate.labelling.exact import Check, matches, passes
from fairgate.scoring.base import Answer, Scorer

By = Literal["exact", "unit", "judge", "pairwise"]


class Prompt(Struct):
    """One line of the input; other fields are passed over."""

    prompt: Annotated[str, Meta(min_length=1)]
    task: str | int | None = None
    expected: str | float | None = None
    """The right answer, for ``exact``."""
    check: Check | None = None
    """For ``unit``."""
    answers: dict[str, str | list[str]] = field(default_factory=dict)
    """By model, one or several; what is missing is asked for."""


class Label(Struct, omit_defaults=True):
    """One line of the output: what ``fairgate router train`` reads."""

    prompt: str
    scores: dict[str, float | list[float]]
    """By model, 0 to 1; where several answers were asked for, of each."""
    task: str | int | None = None
    answers: dict[str, str | list[str]] = field(default_factory=dict)
    chosen: dict[str, list[list[float]]] = field(default_factory=dict)
    """By model, for 1, 2, … answers: how often each is the one that the scorer picks."""
    scorer: str = ""


@dataclass(frozen=True, slots=True)
class Several:
    """Several answers of each model to each prompt, among which a scorer picks."""

    samples: int
    """Answers asked for."""
    most: int
    """Most of them that are picked among."""
    scorer: Scorer
    name: str
    """The scorer's, in the configuration."""
    temperature: float = 1.0


class Labeller:
    """Labels prompts by one method.

    ``engines`` answer, by the name of their model; ``judge`` is asked where ``by`` needs one. A
    pairwise label compares every model with the last one of ``engines``, or of the answers.
    """

    def __init__(
        self,
        by: By,
        engines: Mapping[str, Asked],
        judge: Asked | None = None,
        *,
        several: Several | None = None,
        max_tokens: int = 512,
        at_once: int = 8,
    ) -> None:
        self._by = by
        self._engines = engines
        self._judge = judge
        self._several = several
        self._max_tokens = max_tokens
        self._at_once = asyncio.Semaphore(at_once)

    async def labels(self, prompts: Sequence[Prompt]) -> AsyncIterator[Label | EngineError]:
        """A label for each of ``prompts``, in their order; an error where an engine gave none."""
        tasks = [asyncio.create_task(self._guarded(prompt)) for prompt in prompts]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    async def _guarded(self, prompt: Prompt) -> Label | EngineError:
        async with self._at_once:
            try:
                return await self.label(prompt)
            except EngineError as error:
                return error

    async def label(self, prompt: Prompt) -> Label:
        """Raises ``EngineError``, also for a prompt that says nothing to score its answers by."""
        answers = {model: await self._answers(prompt, model) for model in self._models(prompt)}
        last = (list(self._engines) or list(answers) or [""])[-1]
        reference = answers[last][0].text if last in answers else ""
        scores = {
            model: [await self._score(prompt, answer.text, reference) for answer in of]
            for model, of in answers.items()
        }
        texts = {model: [answer.text for answer in of] for model, of in answers.items()}
        several = self._several
        if several is None:
            one = {model: of[0] for model, of in scores.items()}
            return Label(prompt.prompt, {**one}, prompt.task, {m: t[0] for m, t in texts.items()})
        chances = {
            model: await chosen(several.scorer, prompt.prompt, of, several.most)
            for model, of in answers.items()
        }
        return Label(prompt.prompt, {**scores}, prompt.task, {**texts}, chances, several.name)

    def _models(self, prompt: Prompt) -> list[str]:
        return [*prompt.answers, *(m for m in self._engines if m not in prompt.answers)]

    async def _answers(self, prompt: Prompt, model: str) -> list[Answer]:
        several = self._several
        count = 1 if several is None else several.samples
        known = prompt.answers.get(model)
        if known is not None:
            texts = [known] if isinstance(known, str) else known
            if len(texts) != count:
                raise EngineError(
                    f"answers.{model}: expected {count} for the prompt {prompt.prompt[:40]!r}, "
                    f"got {len(texts)}"
                )
            return [Answer(text) for text in texts]
        return await self._engines[model].answers(
            prompt.prompt,
            count,
            max_tokens=self._max_tokens,
            temperature=0.0 if several is None else several.temperature,
            logprobs=several is not None and several.scorer.needs_logprobs,
        )

    async def _score(self, prompt: Prompt, answer: str, reference: str) -> float:
        if self._by == "exact":
            if prompt.expected is None:
                raise EngineError(f"no 'expected' for the prompt {prompt.prompt[:40]!r}")
            return float(matches(_text(prompt.expected), answer))
        if self._by == "unit":
            if prompt.check is None:
                raise EngineError(f"no 'check' for the prompt {prompt.prompt[:40]!r}")
            return float(passes(prompt.check, answer))
        if self._judge is None:
            raise EngineError(f"labelling by {self._by} needs a judge")
        if self._by == "judge":
            return await judges.mark(self._judge, prompt.prompt, answer)
        return await judges.compare(self._judge, prompt.prompt, answer, reference)


def _text(expected: str | float) -> str:
    return expected if isinstance(expected, str) else f"{expected:.15g}"


decode_prompt = msgspec.json.Decoder(Prompt).decode
encode_label = msgspec.json.Encoder().encode
