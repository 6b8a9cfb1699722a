"""Labels a file of prompts: answers where they are missing, then a score for each model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from fairgate.errors import EngineError
from fairgate.labelling import judge as judges
from fairgate.labelling.engine import Asked
from fairgate.labelling.exact import Check, matches, passes

By = Literal["exact", "unit", "judge", "pairwise"]


class Prompt(Struct):
    """One line of the input; other fields are passed over."""

    prompt: Annotated[str, Meta(min_length=1)]
    task: str | int | None = None
    expected: str | float | None = None
    """The right answer, for ``exact``."""
    check: Check | None = None
    """For ``unit``."""
    answers: dict[str, str] = field(default_factory=dict)
    """By model; what is missing is asked for."""


class Label(Struct, omit_defaults=True):
    """One line of the output: what ``fairgate router train`` reads."""

    prompt: str
    scores: dict[str, float]
    """By model, 0 to 1."""
    task: str | int | None = None
    answers: dict[str, str] = field(default_factory=dict)


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
        max_tokens: int = 512,
        at_once: int = 8,
    ) -> None:
        self._by = by
        self._engines = engines
        self._judge = judge
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
        answers = dict(prompt.answers)
        for model, engine in self._engines.items():
            if model not in answers:
                answers[model] = await engine.answer(prompt.prompt, max_tokens=self._max_tokens)
        last = (list(self._engines) or list(answers) or [""])[-1]
        scores = {
            model: await self._score(prompt, answer, answers.get(last, ""))
            for model, answer in answers.items()
        }
        return Label(prompt.prompt, scores, prompt.task, answers)

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
