"""The report as one HTML page that needs nothing else: tables, and charts as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from loadgen.report import Rows
from loadgen.simulation.campaign import Result
from loadgen.simulation.charts import bar_chart, line_chart
from loadgen.simulation.figures import Run
from loadgen.simulation.goals import goal_rows, goals
from loadgen.simulation.table import COLUMNS, Column, grouped, spread_of, table_of

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto;
       padding: 0 1rem; color: #1c2430; background: #fff; }
h1 { font-size: 1.6rem; }
h2 { margin-top: 2.6rem; border-top: 1px solid #d8dee6; padding-top: 1rem; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e4e8ee; }
th { vertical-align: bottom; font-weight: 600; }
td:first-child, th:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 1rem; }
figure { margin: .5rem 0; border: 1px solid #e4e8ee; border-radius: 6px; padding: .6rem; }
figcaption { font-weight: 600; font-size: 13px; }
svg { width: 100%; height: auto; } svg text { font: 10px system-ui, sans-serif; fill: #4a5565; }
.line { fill: none; stroke-width: 1.8; } .grid { stroke: #e9edf2; }
.bound { stroke: #b00; stroke-dasharray: 5 4; } .whisker { stroke: #1c2430; stroke-width: 1.4; }
svg .tick, svg .end { text-anchor: end; } svg .middle, svg .value { text-anchor: middle; }
svg .value { font-weight: 600; fill: #1c2430; } svg .name { text-anchor: end; }
.legend { font-size: 12px; } .legend span { margin-right: .9rem; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 4px; }
nav a { margin-right: 1rem; } a { color: #2b5f93; }
.goals td:nth-child(2), .goals th:nth-child(2) { text-align: left; }
.goals td.no { color: #b00; font-weight: 600; }
.note { color: #5a6675; font-size: 13px; }
"""

_SHOWN_TENANTS = 8


def page(
    title: str, runs: Sequence[Run], *, about: Mapping[str, str] | None = None,
    results: Sequence[Result] = (),
) -> str:  # fmt: skip
    """The whole page. ``about`` says what each scenario isolates; ``results`` have the curves."""
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    seeds = len({run.seed for run in runs})
    note = (
        f"Medians over {seeds} seeds, with 95 % bootstrap intervals in brackets and as whiskers. "
        "All policies are settings of the same scripts."
    )
    sections = (_section(name, (about or {}).get(name, ""), runs, results) for name in scenarios)
    return whole_page(title, note, _overview(scenarios, runs) + "".join(sections))


def _overview(scenarios: Sequence[str], runs: Sequence[Run]) -> str:
    """Where to find what, and how every promise stands."""
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in scenarios)
    rows = goal_rows(goals(runs))
    told = html_table(rows) if len(rows) > 1 else ""
    return f'<nav>{links}</nav><h2>Promises</h2><div class="goals">{told}</div>' if told else ""


def whole_page(title: str, note: str, body: str) -> str:
    """A page around ``body``, which is HTML; ``title`` and ``note`` are text."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(note)}</p>{body}</body></html>\n'
    )


def _section(name: str, about: str, runs: Sequence[Run], results: Sequence[Result]) -> str:
    mine = [run for run in runs if run.scenario == name]
    first = [r for r in results if r.run.scenario == name and r.run.seed == 0]
    charts = [_bars(mine, column) for column in COLUMNS if column.chart]
    charts += _headrooms(mine)
    charts += _differences(first)
    charts += _services(first)
    return (
        f'<h2 id="{escape(name)}">{escape(name)}</h2><p>{escape(about)}</p>'
        f"{html_table(_by_figure(mine))}"
        f'<div class="charts">{"".join(charts)}</div>'
    )


def _by_figure(runs: Sequence[Run]) -> Rows:
    """The table of one scenario, turned: a row for each figure, a column for each policy."""
    turned = [list(row) for row in zip(*table_of(runs), strict=True)]
    policies = [policy for _, policy in grouped(runs)]
    return [["", *policies], *turned[1:]]


def html_table(rows: Rows) -> str:
    """Header row first."""
    header, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"


def _cell(text: str) -> str:
    return f'<td class="no">{text}</td>' if text == "NO" else f"<td>{escape(text)}</td>"


def _bars(runs: Sequence[Run], column: Column) -> str:
    bars = {
        policy: spread
        for (_, policy), members in grouped(runs).items()
        if (spread := spread_of(members, column)) is not None
    }
    return bar_chart(column.title, bars, f"{column.better} is better")


def _headrooms(runs: Sequence[Run]) -> list[str]:
    """What a lane's headroom gives the victims against what it costs."""
    groups = [members for members in grouped(runs).values() if members[0].victim_slowdown]
    if len({members[0].headroom for members in groups}) < 2:
        return []
    lines: dict[str, list[tuple[float, float]]] = {}
    for members in sorted(groups, key=lambda members: members[0].headroom):
        slowdown = median(run.victim_slowdown or 0.0 for run in members)
        policy = members[0].policy.partition("+")[0]
        tokens = median(run.steady_tokens_per_s for run in members)
        lines.setdefault(policy, []).append((tokens, slowdown))
    costs = {
        policy: [(100 * (1 - tokens / points[0][0]), slowdown) for tokens, slowdown in points]
        for policy, points in lines.items()
        if points[0][0]
    }
    title = "Headroom: victim slowdown against the throughput it costs"
    return [line_chart(title, costs, x_name="throughput lost, %", y_name="victim slowdown")]


def _differences(results: Sequence[Result]) -> list[str]:
    """Accumulated service: how far the tenants are apart, and VTC's bound."""
    if not results or max(len(r.curves.accumulated) for r in results) < 2:
        return []
    lines = {result.run.policy: result.curves.difference for result in results}
    bound = max(result.run.service_bound for result in results)
    title = "Accumulated service per weight: largest minus smallest tenant"
    where = "seconds; the bound is for tenants that both wait"
    return [line_chart(title, lines, x_name=where, y_name="service units", bound=bound)]


def _services(results: Sequence[Result]) -> list[str]:
    """What the largest tenants received under each policy, all in the same scale."""
    shown = []
    for result in results:
        tenants, windowed = result.run.tenants, result.curves.windowed
        largest = sorted(windowed, key=lambda name: -tenants[name].service)[:_SHOWN_TENANTS]
        shown.append({name: points for name, points in windowed.items() if name in largest})
    values = [y for lines in shown for points in lines.values() for _, y in points]
    return [
        line_chart(
            f"Service over time under {result.run.policy}", lines,
            x_name="seconds", y_name="service units per second", top=max(values, default=None),
        )
        for result, lines in zip(results, shown, strict=True)
    ]  # fmt: skip
