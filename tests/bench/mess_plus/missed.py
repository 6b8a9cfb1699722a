"""How much satisfaction is missed after so many requests, beside what the theory allows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairgate.config.routing import MessPlus as Settings
from loadgen.simulation.charts import line_chart
from loadgen.simulation.page import whole_page
from tests.bench.mess_plus.run import Result

POINTS = 40
FROM = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """After ``requests``, over several orders: ``max(0, agreed - running satisfaction)``."""

    requests: int
    mean: float
    largest: float
    theory: float
    """V/T + 1/sqrt(T), which arXiv 2505.19947 gives but for a constant."""


def violations(
    results: Sequence[Result], settings: Settings, at: Sequence[int]
) -> Iterator[Violation]:
    """What ``results`` missed after each number of requests in ``at``."""
    for t in at:
        missed = [max(0.0, r.agreed - float(r.running[t - 1])) for r in results]
        theory = settings.thrift / t + 1 / math.sqrt(t)
        yield Violation(t, float(np.mean(missed)), max(missed), theory)


def plot(cases: Mapping[str, Sequence[Result]], settings: Settings, folder: Path) -> Path:
    """Write a page with a chart for each of ``cases`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "violation.html"
    body = "".join(_chart(name, results, settings) for name, results in cases.items())
    note = "python -m tests.bench.mess_plus: satisfaction missed, over random orders of requests"
    file.write_text(whole_page("MESS+: what was missed, and the theory", note, body))
    return file


def _chart(name: str, results: Sequence[Result], settings: Settings) -> str:
    last = min(len(result.good) for result in results)
    at = sorted({round(t) for t in np.geomspace(FROM, last, POINTS).tolist()})
    found = list(violations(results, settings, at))
    lines = {
        "V/T + 1/sqrt(T)": [(v.requests, v.theory) for v in found],
        "largest": [(v.requests, v.largest) for v in found],
        "mean": [(v.requests, v.mean) for v in found],
    }
    return line_chart(name, lines, x_name="requests", y_name="missed", powers=True)
