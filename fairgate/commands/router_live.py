"""``fairgate router record`` and ``label``: live traffic and prompts become training data."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, cast, get_args

import aiohttp
import msgspec
import orjson
import typer

from fairgate.config import reading
from fairgate.errors import EngineError
from fairgate.labelling.choosing import MOST_ANSWERS
from fairgate.labelling.engine import Asked
from fairgate.labelling.feedback import joined
from fairgate.labelling.run import By, Labeller, Prompt, Several, decode_prompt, encode_label
from fairgate.routing.listening import listen
from fairgate.runtime import EMBEDDED
from fairgate.scoring.agreement import Agreement
from fairgate.scoring.base import Scorer
from fairgate.scoring.log_probability import LogProbability
from fairgate.scoring.self_consistency import SelfConsistency

_METHODS = (*get_args(By), "feedback")


class _Event(msgspec.Struct):
    event: str = ""


_decode_event = msgspec.json.Decoder(_Event).decode

ScorerName = Literal["log-probability", "self-consistency", "agreement"]
_SCORERS: Mapping[ScorerName, Callable[[], Scorer]] = {
    "log-probability": LogProbability,
    "self-consistency": SelfConsistency,
    "agreement": Agreement,
}


def record(
    config: Annotated[Path, typer.Option(help="The gateways' configuration file.")],
    out: Annotated[Path, typer.Option(help="JSON lines are added to this file.")],
    pool: Annotated[str, typer.Option(help="Which pool; default: the first.")] = "",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the interactions.")] = 1.0,
    prompts: Annotated[
        bool, typer.Option(help="Also the text, where the pool's routing.record.prompts allows it.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="End after so long; default: on SIGINT.")
    ] = None,
) -> None:
    """Write what all gateways of a pool decide, and what comes of it, while this runs."""
    found = reading.load(config)
    if found.store.url == EMBEDDED:
        raise typer.BadParameter(
            "store.url is 'embedded', which only the gateway reaches: set routing.record.file",
            param_hint="--config",
        )
    name = pool or next(iter(found.pools))
    if name not in found.pools:
        raise typer.BadParameter(f"no pool is named '{name}'", param_hint="--pool")
    with out.open("ab") as file:
        work = listen(
            found.store.url, name, file.write, share=share, prompts=prompts, seconds=seconds
        )
        try:
            lines = asyncio.run(work)
        except KeyboardInterrupt:
            lines = None
    typer.echo(f"ended, {lines} lines" if lines is not None else "ended", err=True)


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
        ScorerName, typer.Option(help="With several answers: the pool's best_of.scorer.")
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
    with out.open("wb") as file:
        if by == "feedback":
            found = list(joined(orjson.loads(line) for _, line in lines))
            file.writelines(orjson.dumps(x, option=orjson.OPT_APPEND_NEWLINE) for x in found)
            done, failed = len(found), 0
        else:
            prompts = [_prompt(number, line) for number, line in lines if not _is_feedback(line)]
            engines = dict(_named(text, "--engine") for text in engine or ())
            asked = _named(judge, "--judge") if judge else None
            several = None
            if samples > 1:
                made = _SCORERS[scorer]()
                several = Several(samples, min(most, samples), made, scorer, temperature)
            work = _label(
                file,
                cast("By", by),
                prompts,
                engines,
                asked,
                several,
                max_tokens=max_tokens,
                at_once=at_once,
            )
            done, failed = asyncio.run(work)
    typer.echo(f"labelled {done} of {len(lines)} lines", err=True)
    if failed:
        raise typer.Exit(1)


async def _label(
    file: BinaryIO,
    by: By,
    prompts: list[Prompt],
    engines: dict[str, str],
    judge: tuple[str, str] | None,
    several: Several | None,
    *,
    max_tokens: int,
    at_once: int,
) -> tuple[int, int]:
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=600)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        labeller = Labeller(
            by,
            {model: Asked(session, url, model) for model, url in engines.items()},
            Asked(session, judge[1], judge[0]) if judge else None,
            several=several,
            max_tokens=max_tokens,
            at_once=at_once,
        )
        done = failed = 0
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


def _named(text: str, option: str) -> tuple[str, str]:
    model, found, url = text.partition("=")
    if not found or not model or not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"expected MODEL=URL, got '{text}'", param_hint=option)
    return model, url
