"""``loadgen profile``: how fast engines are, from calls that they served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.commands.common import EXIT_USAGE, say
from loadgen.errors import SpecError
from loadgen.measurement.fitting import Fit, fit_profile
from loadgen.records import Outcome
from loadgen.report import read_record


def profile(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="As written by replay --record.")
    ],
    lane: Annotated[str, typer.Option(help="Only the calls that this lane served.")] = "",
) -> None:
    """Fit a timing profile of the simulated engine to a replay against real engines.

    The best replay has times when calls are alone and times when they fill the engines, prompts and
    answers of different lengths, and a quiet machine. Prints the profile as
    ``fairgate/engines/simulated/timing.py`` holds it, and how well it fits. Ends with 0, or 2 for a
    file that is no record or says too little.
    """
    try:
        fit = fit_profile(_calls(record, lane))
    except SpecError as error:
        say(f"loadgen: {record}: {error}")
        raise typer.Exit(EXIT_USAGE) from error
    typer.echo(_text(fit))


def _calls(record: Path, lane: str) -> list[Outcome]:
    try:
        outcomes = read_record(record)
    except (OSError, msgspec.DecodeError) as error:
        raise SpecError(f"not a record of replay: {error}") from error
    lanes = sorted({o.lane for o in outcomes if o.lane})
    if lane and lane not in lanes:
        raise SpecError(f"--lane {lane}: served nothing; the lanes are {', '.join(lanes)}")
    if not lane and len(lanes) > 1:
        raise SpecError(f"has calls of the lanes {', '.join(lanes)}: choose one with --lane")
    return [o for o in outcomes if o.lane == lane] if lane else outcomes


def _text(fit: Fit) -> str:
    p = fit.profile
    numbers = (p.base_ns, p.per_prefill_token_ns, p.per_sequence_ns, p.per_kv_token_ns)
    lines = [
        f"TimingProfile({', '.join(f'{number:_}' for number in numbers)})",
        f"fitted to {fit.calls} calls, median error of the time per output token {fit.error:.1%}",
    ]
    for what, pace in (("alone", fit.alone_ms), ("fullest tenth", fit.full_ms)):
        if pace is not None:
            lines.append(
                f"time per output token, {what}: {pace[0]:.1f} ms, fitted {pace[1]:.1f} ms"
            )
    return "\n".join(lines)
