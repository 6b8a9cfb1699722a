"""``fairgate router label``: prompts and answers become training data."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import aiohttp
import msgspec
import orjson
import typer

from fairgate.config.sampling import Scorer
from fairgate.errors import ConfigError, EngineError
from fairgate.labelling import scorers
from fairgate.labelling.choosing import MOST_ANSWERS
from fairgate.labelling.engine import Asked
from fairgate.labelling.feedback import joined
from fairgate.labelling.run import By, Labeller, Prompt, Several, decode_prompt, encode_label
from fairgate.scoring.build import build_scorer

_METHODS = (*get_args(By), "feedback")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How prompts are to be labelled; engines and judge by model and URL."""

    by: By
    engines: Mapping[str, str]
    judge: tuple[str, str] | None
    samples: int
    most: int
    scorer: Scorer
    temperature: float
    max_tokens: int
    at_once: int

    def labeller(self, session: aiohttp.ClientSession) -> Labeller:
        """One that asks by ``session``. Raises ``ConfigError`` for a function that is none."""
        return Labeller(
            self.by,
            {model: Asked(session, url, model) for model, url in self.engines.items()},
            Asked(session, self.judge[1], self.judge[0]) if self.judge else None,
            several=self._several(session) if self.samples > 1 else None,
            max_tokens=self.max_tokens,
            at_once=self.at_once,
        )

    def _several(self, session: aiohttp.ClientSession) -> Several:
        scorer = build_scorer(self.scorer, session)
        kind = scorers.kind_of(self.scorer)
        return Several(self.samples, self.most, scorer, kind, self.temperature)


class _Event(msgspec.Struct):
    event: str = ""


_decode_event = msgspec.json.Decoder(_Event).decode


def label(
    data: Annotated[Path, typer.Argument(help="JSON lines: prompt, expected or check, answers.")],
    out: Annotated[Path, typer.Option(help="Where the labels go, as JSON lines.")],
    by: Annotated[str, typer.Option(help=f"How: {', '.join(_METHODS)}.")] = "exact",
    engine: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=URL of an engine that answers (may be repeated)."),
    ] = None,
    judge: Annotated[str, typer.Option(help="MODEL=URL of the judging model.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 512,
    at_once: Annotated[int, typer.Option(min=1, help="Prompts in work at a time.")] = 8,
    samples: Annotated[
        int, typer.Option(min=1, max=MOST_ANSWERS, help="Answers of each model to each prompt.")
    ] = 1,
    scorer: Annotated[
        str, typer.Option(help=f"With several answers, the pool's best_of.scorer: {scorers.NAMES}.")
    ] = "log-probability",
    most: Annotated[int, typer.Option(min=1, help="Most answers that it picks among.")] = 5,
    temperature: Annotated[float, typer.Option(min=0, help="Of several answers.")] = 1.0,
) -> None:
    """Score models' answers to the prompts in DATA; asks engines for the answers that are missing.

    With --samples also says how often the scorer picks which: what heads for best of n learn from.
    DATA may be what `router record --prompts` wrote. ``--by feedback`` joins such records with the
    feedback they were given. Exits with 1 if a prompt could not be labelled.
    """
    if by not in _METHODS:
        raise typer.BadParameter(f"expected {', '.join(_METHODS)}, got '{by}'", param_hint="--by")
    lines = list(_lines(data))
    if by == "feedback":
        done, failed = _join(lines, out), 0
    else:
        wanted = _Wanted(
            by=cast("By", by),
            engines=dict(_named(text, "--engine") for text in engine or ()),
            judge=_named(judge, "--judge") if judge else None,
            samples=samples,
            most=min(most, samples),
            scorer=_section(scorer),
            temperature=temperature,
            max_tokens=max_tokens,
            at_once=at_once,
        )
        prompts = [_prompt(number, line) for number, line in lines if not _is_feedback(line)]
        done, failed = asyncio.run(_label(out, prompts, wanted))
    typer.echo(f"labelled {done} of {len(lines)} lines", err=True)
    if failed:
        raise typer.Exit(1)


def _join(lines: Sequence[tuple[int, bytes]], out: Path) -> int:
    """Labels of what was served and judged; how many there are."""
    found = list(joined(orjson.loads(line) for _, line in lines))
    out.write_bytes(b"".join(orjson.dumps(x, option=orjson.OPT_APPEND_NEWLINE) for x in found))
    return len(found)


async def _label(out: Path, prompts: list[Prompt], wanted: _Wanted) -> tuple[int, int]:
    """How many were labelled, and how many not."""
    done = failed = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        try:
            labeller = wanted.labeller(session)
        except ConfigError as error:
            raise typer.BadParameter(str(error), param_hint="--scorer") from None
        with out.open("wb") as file:
            async for found in labeller.labels(prompts):
                if isinstance(found, EngineError):
                    failed += 1
                    typer.echo(f"not labelled: {found}", err=True)
                    continue
                file.write(encode_label(found) + b"\n")
                file.flush()
                done += 1
    return done, failed


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") if str(file) != "-" else sys.stdin.buffer as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _is_feedback(line: bytes) -> bool:
    """A line of `router record` that tells a score, and holds no prompt."""
    with contextlib.suppress(msgspec.DecodeError):
        return _decode_event(line).event == "scored"
    return False


def _prompt(number: int, line: bytes) -> Prompt:
    try:
        return decode_prompt(line)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"line {number}: {error}", param_hint="DATA") from None


def _section(scorer: str) -> Scorer:
    try:
        return scorers.scorer_section(scorer)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scorer") from None


def _named(text: str, option: str) -> tuple[str, str]:
    model, found, url = text.partition("=")
    if not found or not model or not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"expected MODEL=URL, got '{text}'", param_hint=option)
    return model, url
