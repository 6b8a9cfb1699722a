"""Writes the files of a report: HTML, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from loadgen.report import markdown_table
from loadgen.simulation.campaign import Result
from loadgen.simulation.figures import Run
from loadgen.simulation.goals import goal_rows, goals
from loadgen.simulation.page import page
from loadgen.simulation.table import table_of


class RunsFile(msgspec.Struct, frozen=True):
    """What ``--json`` writes."""

    runs: list[Run]


def write_runs(runs: Sequence[Run], path: Path) -> None:
    """All runs, one object per scenario, policy and seed."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(RunsFile(list(runs)))) + b"\n")


def write_report(
    title: str, runs: Sequence[Run], folder: Path, about: Mapping[str, str],
    results: Sequence[Result],
) -> None:  # fmt: skip
    """``report.html``, ``report.json`` and ``report.md``; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_runs(runs, folder / "report.json")
    (folder / "report.html").write_text(page(title, runs, about=about, results=results))
    tables = (markdown_table(rows) for rows in (goal_rows(goals(runs)), table_of(runs)))
    (folder / "report.md").write_text("\n".join((f"# {title}\n", *tables)))
