"""Figures of replays and simulations side by side: what both can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from loadgen.errors import SpecError
from loadgen.metrics import Summary
from loadgen.report import Rows
from loadgen.simulation.charts import bar_chart
from loadgen.simulation.figures import Run
from loadgen.simulation.output import RunsFile
from loadgen.simulation.page import html_table, whole_page
from loadgen.simulation.statistics import Spread, over_seeds
from loadgen.simulation.table import grouped

Figure = Callable[[Summary], float | None]


class Compared(msgspec.Struct, frozen=True):
    """One replay, or the seeds of one simulated scenario and policy."""

    name: str
    summaries: list[Summary]


def _total(field: str) -> Figure:
    return lambda s: sum(getattr(tenant, field) for tenant in s.tenants.values())


def _worst(field: str) -> Figure:
    def worst_s(summary: Summary) -> float | None:
        p99s = [getattr(tenant, field).p99 for tenant in summary.tenants.values()]
        return max((p99 / 1000 for p99 in p99s if p99 is not None), default=None)

    return worst_s


_FIGURES: tuple[tuple[str, Figure, str], ...] = (
    ("requests", _total("requests"), ",.0f"),
    ("completed", _total("completed"), ",.0f"),
    ("throttled", _total("throttled"), ",.0f"),
    ("errors", _total("errors"), ",.0f"),
    ("tokens/s", lambda s: s.throughput_tokens_per_s, ",.0f"),
    ("Jain", lambda s: s.jain, ".3f"),
    ("max service difference", lambda s: s.max_service_difference, ",.0f"),
    ("TTFT p99 of the worst tenant, s", _worst("ttft_ms"), ".2f"),
    ("queue p99 of the worst tenant, s", _worst("queue_ms"), ".2f"),
    ("wasted tokens", lambda s: s.wasted_tokens, ",.0f"),
)


def read_figures(path: Path) -> list[Compared]:
    """What ``replay``, ``simulate`` or ``measure`` wrote. Raises ``SpecError`` for other files."""
    try:
        data = path.read_bytes()
        kind = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "runs" in kind:
            return _groups(path, msgspec.json.decode(data, type=RunsFile).runs)
        return [Compared(path.stem, [msgspec.json.decode(data, type=Summary)])]
    except (OSError, msgspec.DecodeError) as error:
        raise SpecError(f"{path}: not figures of replay or simulate: {error}") from error


def comparison_rows(compared: Sequence[Compared]) -> Rows:
    """Header and one row each."""
    rows = [["run", *(title for title, _, _ in _FIGURES)]]
    for one in compared:
        spreads = [(_spread(one, figure), form) for _, figure, form in _FIGURES]
        cells = ["-" if spread is None else format(spread.median, form) for spread, form in spreads]
        rows.append([one.name, *cells])
    return rows


def comparison_page(title: str, compared: Sequence[Compared]) -> str:
    """Table and a bar chart for each figure, in one HTML page."""
    charts = "".join(
        bar_chart(name, {one.name: s for one in compared if (s := _spread(one, figure))})
        for name, figure, _ in _FIGURES
    )
    body = f'{html_table(comparison_rows(compared))}<div class="charts">{charts}</div>'
    return whole_page(title, "Medians over seeds where there are several.", body)


def _groups(path: Path, runs: Sequence[Run]) -> list[Compared]:
    """The seeds of each scenario and policy; real runs apart from simulated ones."""
    return [
        Compared(f"{path.stem}: {scenario}, {policy}{', real' if real else ''}", list(members))
        for real in (True, False)
        for (scenario, policy), members in grouped(r for r in runs if r.real is real).items()
    ]


def _spread(compared: Compared, figure: Figure) -> Spread | None:
    return over_seeds([v for s in compared.summaries if (v := figure(s)) is not None])
