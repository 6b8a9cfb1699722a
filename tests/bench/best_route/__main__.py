"""``python -m tests.bench.best_route``: the drop of quality at equal cost, one answer or more."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadgen.report import markdown_table, plain_table
from tests.bench.best_route.curves import CUTS, Drops, Setting, simulate
from tests.bench.best_route.records import SOURCES, Recorded, load, synthetic, two_engines
from tests.bench.best_route.world import pair_concentration


def main(
    data: Annotated[Path, typer.Option(help="Folder of the recorded outcomes.")] = Path(
        "../shared/data/routing"
    ),
    splits: Annotated[int, typer.Option(min=2, help="Random splits and draws.")] = 5,
    accuracy: Annotated[float, typer.Option(help="Of the verifier, on pairs.")] = 0.85,
    price_ratio: Annotated[float, typer.Option(help="Reference to small.")] = 10.0,
    prompts: Annotated[int, typer.Option(min=200, help="Of the synthetic records.")] = 6000,
    only: Annotated[str, typer.Option(help="Records, with commas between; default: all.")] = "",
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
) -> None:
    """Compare routers that ask small lanes for one answer with those that choose among up to 5.

    ``kappa``: how much repeated answers to a prompt vary; marked * where it is fitted to the
    records (see world.py). Drops are relative to the reference's quality, means over the splits
    with 95 % intervals; ``ratio`` is of the two at a cost cut of 60 %, as a mean of its splits.
    """
    rows = [["records", "kappa", "quality", "rule", *_HEADINGS]]
    for records in _all_records(data, prompts, only.split(",") if only else _NAMES):
        fitted = pair_concentration(records) if records.small.shape[1] > 1 else None
        for kappa in _concentrations(records.name, fitted):
            setting = Setting(kappa, accuracy, price_ratio)
            runs = [simulate(records, setting, seed) for seed in range(splits)]
            for key in runs[0]:
                shown = f"{kappa:.2f}{'*' * (kappa == fitted)}"
                rows.append([records.name, shown, *key, *_cells([run[key] for run in runs])])
            typer.echo(f"{records.name}, kappa {kappa:.2f}: done", err=True)
    typer.echo(markdown_table(rows) if markdown else plain_table(rows))


_HEADINGS = [
    *(f"{who} -{cut:.0%}" for cut in CUTS for who in ("one", "best of n")),
    "ratio -60%",
]


_WIDE = ("synthetic", "mmlu-pro")
"""Records for which more concentrations are tried."""

_MEASURED = {"two-engines": 6.0}
"""Concentrations of the small model's real answers, rounded (``routing_real several``)."""


def _concentrations(records: str, fitted: float | None) -> Sequence[float]:
    if records in _WIDE:
        return (0.25, 0.5, 1.0, *([] if fitted is None else [fitted]), 4.0)
    return (0.5, 2.0, *([_MEASURED[records]] if records in _MEASURED else []))


_NAMES = ("synthetic", "two-engines", *SOURCES)


def _all_records(data: Path, prompts: int, names: Sequence[str]) -> Iterator[Recorded]:
    made = {"synthetic": lambda: synthetic(prompts, seed=0), "two-engines": two_engines}
    for name in names:
        if name in made:
            yield made[name]()
        elif name not in SOURCES:
            raise typer.BadParameter(f"--only {name}: expected any of {', '.join(_NAMES)}")
        elif (data / SOURCES[name][0]).exists():
            yield load(name, data)
        else:
            typer.echo(f"{name}: left out, no {data / SOURCES[name][0]}", err=True)


def _cells(runs: list[Drops]) -> list[str]:
    cells = []
    for at in range(len(CUTS)):
        cells += [_interval([100 * r.single[at] for r in runs], "%")]
        cells += [_interval([100 * r.best_of[at] for r in runs], "%")]
    return [*cells, _interval([run.ratio(0.6) for run in runs], "", digits=2)]


def _interval(values: list[float], unit: str, digits: int = 1) -> str:
    """Mean and half the width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.{digits}f}{unit} ±{half:.{digits}f}"


if __name__ == "__main__":
    typer.run(main)
