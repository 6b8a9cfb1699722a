"""Real and simulated runs side by side: as a table, a page and a JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import msgspec

from loadgen.measurement.calibration import Calibration
from loadgen.measurement.campaign import Measured
from loadgen.measurement.order import NOISE_SHARE, Agreement, agreements
from loadgen.report import Rows, markdown_table, plain_table
from loadgen.simulation.campaign import Result
from loadgen.simulation.charts import bar_chart, line_chart
from loadgen.simulation.figures import Run
from loadgen.simulation.output import RunsFile
from loadgen.simulation.page import html_table, whole_page
from loadgen.simulation.statistics import Spread
from loadgen.simulation.table import COLUMNS, Column, spread_of

_TITLE = "fairgate: policies on real engines and in simulation"


class MeasuredFile(RunsFile, frozen=True):
    """What ``--json`` writes: the runs of both kinds (``real`` tells which), and how they agree."""

    about: str
    calibrations: list[Calibration]
    orders: list[Agreement]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was measured so far. ``about`` is the text that stands above it."""

    measured: Sequence[Measured]
    about: str
    scenarios: Mapping[str, str]
    """What each scenario isolates, by its name."""
    noise: float = NOISE_SHARE
    """Of policies that differ by no more; or than the capacity changed during the runs."""

    @property
    def names(self) -> list[str]:
        """Of the scenarios that were measured."""
        return list(dict.fromkeys(one.calibration.scenario for one in self.measured))

    def calibrations(self, scenario: str) -> list[Calibration]:
        """Of all seeds."""
        return [m.calibration for m in self.measured if m.calibration.scenario == scenario]

    def real(self, scenario: str) -> list[Result]:
        """Of all seeds and policies."""
        return [r for m in self.measured for r in m.real if r.run.scenario == scenario]

    def simulated(self, scenario: str) -> list[Result]:
        """Of all seeds and policies."""
        return [r for m in self.measured for r in m.simulated if r.run.scenario == scenario]

    def orders(self, scenario: str) -> list[Agreement]:
        """Figure by figure."""
        real, simulated = self.real(scenario), self.simulated(scenario)
        runs = [r.run for r in real], [r.run for r in simulated]
        drifts = [abs(calibration.drift) for calibration in self.calibrations(scenario)]
        return agreements(scenario, *runs, noise=max(self.noise, *drifts))

    @property
    def agrees(self) -> bool:
        """No pair of policies is ordered in opposite ways, in no figure of any scenario."""
        return not any(order.disagreeing for name in self.names for order in self.orders(name))

    def verdict(self, scenario: str) -> str:
        """In a line."""
        orders = self.orders(scenario)
        against = [order for order in orders if order.disagreeing]
        pairs = sum(order.agreeing for order in orders)
        ties = sum(order.undecided for order in orders)
        if against:
            causes = "; ".join(f"{order.figure}: {order.text}" for order in against)
            return f"the order of the policies DISAGREES: {causes}"
        if not pairs:
            return "the order of the policies stays open: every pair is a tie, real or simulated"
        return f"the order of the policies agrees: {pairs} pairs in all figures, {ties} ties"


def rows(comparison: Comparison, scenario: str) -> Rows:
    """Header and a row per figure: each policy's real and simulated value, and the order."""
    real = [result.run for result in comparison.real(scenario)]
    simulated = [result.run for result in comparison.simulated(scenario)]
    policies = list(dict.fromkeys(run.policy for run in real))
    orders = {order.figure: order for order in comparison.orders(scenario)}
    header = [f"{policy} {kind}" for policy in policies for kind in ("real", "simulated")]
    table = [[scenario, *header, "order"]]
    for column in COLUMNS:
        spreads = [
            _spread(runs, policy, column) for policy in policies for runs in (real, simulated)
        ]
        if any(spreads):
            order = orders.get(column.title)
            cells = [_cell(spread, column.form) for spread in spreads]
            table.append([column.title, *cells, order.text if order else "-"])
    return table


def text(comparison: Comparison, *, markdown: bool) -> str:
    """All tables, each with its calibration and verdict."""
    table = markdown_table if markdown else plain_table
    parts = []
    for name in comparison.names:
        lines = [calibration.text for calibration in comparison.calibrations(name)]
        lines.append(comparison.verdict(name))
        parts.append(table(rows(comparison, name)) + "".join(f"{line}\n" for line in lines))
    return "\n".join(parts)


def write_json(comparison: Comparison, path: Path) -> None:
    """A :class:`MeasuredFile`."""
    results = [r for m in comparison.measured for r in (*m.real, *m.simulated)]
    file = MeasuredFile(
        [result.run for result in results],
        comparison.about,
        [m.calibration for m in comparison.measured],
        [order for name in comparison.names for order in comparison.orders(name)],
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(file)) + b"\n")


def write_report(comparison: Comparison, folder: Path) -> None:
    """``report.html``, ``report.json`` and ``report.md`` in ``folder``, which is there."""
    write_json(comparison, folder / "report.json")
    body = "".join(_section(comparison, name) for name in comparison.names)
    (folder / "report.html").write_text(whole_page(_TITLE, comparison.about, body))
    tables = text(comparison, markdown=True)
    (folder / "report.md").write_text(f"# {_TITLE}\n\n{comparison.about}\n\n{tables}")


def _section(comparison: Comparison, scenario: str) -> str:
    real, simulated = comparison.real(scenario), comparison.simulated(scenario)
    charts = [_bars(real, simulated, column) for column in COLUMNS if column.chart]
    for one, other in zip(real, simulated, strict=True):
        if one.run.seed == real[0].run.seed:
            charts += [_services(one), _services(other)]
    notes = [c.text for c in comparison.calibrations(scenario)] + [comparison.verdict(scenario)]
    return (
        f"<h2>{escape(scenario)}</h2><p>{escape(comparison.scenarios.get(scenario, ''))}</p>"
        f"{html_table(rows(comparison, scenario))}"
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes)}"
        f'<div class="charts">{"".join(charts)}</div>'
    )


def _bars(real: Sequence[Result], simulated: Sequence[Result], column: Column) -> str:
    bars = {}
    for policy in dict.fromkeys(result.run.policy for result in real):
        for kind, results in (("real", real), ("simulated", simulated)):
            spread = _spread([result.run for result in results], policy, column)
            if spread is not None:
                bars[f"{policy} {kind}"] = spread
    return bar_chart(column.title, bars, f"{column.better} is better")


def _services(result: Result) -> str:
    run = result.run
    title = f"Service over time under {run.policy}, {'real' if run.real else 'simulated'}"
    lines = result.curves.windowed
    return line_chart(title, lines, x_name="seconds", y_name="service units per second")


def _spread(runs: Sequence[Run], policy: str, column: Column) -> Spread | None:
    return spread_of([run for run in runs if run.policy == policy], column)


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    middle, low, high = (format(v, form) for v in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} [{low}, {high}]"
