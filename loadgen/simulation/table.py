"""The figures of many runs as a table: medians over seeds, one row per scenario and policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loadgen.report import Rows
from loadgen.simulation.figures import Run
from loadgen.simulation.statistics import Spread, over_seeds


@dataclass(frozen=True, slots=True)
class Column:
    """One figure; ``better`` says which direction is good, for the charts' captions."""

    title: str
    value: Callable[[Run], float | None]
    form: str
    better: str = ""
    chart: bool = False


def throttled_share(run: Run) -> float:
    """Refused requests over all that were sent."""
    sent = sum(tenant.requests for tenant in run.tenants.values())
    return sum(tenant.throttled for tenant in run.tenants.values()) / max(1, sent)


def useful_tokens(run: Run) -> float:
    """Delivered, less what belongs to interactions that lost a call."""
    return run.throughput_tokens_per_s * run.duration_s - run.wasted_tokens


def _release_interval(run: Run) -> float | None:
    """Where it matters: it is the part of a victim's wait that no policy can save."""
    return None if run.victim_slowdown is None else run.release_interval_s


def _chained(field: str) -> Callable[[Run], float | None]:
    """A figure that means something only where calls belong to interactions."""

    def value(run: Run) -> float | None:
        some = run.interactions_completed + run.interactions_broken + run.interactions_refused
        figure: float | None = getattr(run, field) if some else None
        return figure

    return value


def _least_done(run: Run) -> float | None:
    shares = run.interactions_done_share.values()
    return 100 * min(shares) if shares else None


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _over_bound(run: Run) -> float | None:
    return run.worst_difference / run.service_bound if run.service_bound else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


COLUMNS = (
    Column("tokens/s", lambda r: r.steady_tokens_per_s, ",.0f", "higher"),
    Column("tokens/s to the end", lambda r: r.throughput_tokens_per_s, ",.0f", "higher"),
    Column("capacity used %", lambda r: _percent(r.capacity_use), ".1f"),
    Column("capacity used while calls wait %", lambda r: _percent(r.capacity_use_waiting), ".1f"),
    Column("sequences used %", lambda r: _percent(r.sequences_use), ".1f"),
    Column("Jain", lambda r: r.jain, ".3f", "higher", chart=True),
    Column(
        "TTFT p99 of the worst tenant, s",
        lambda r: _seconds(r.worst_ttft_p99_ms), ".1f", "lower", chart=True,
    ),
    Column("goodput/s", lambda r: r.goodput_per_s, ".3f", "higher", chart=True),
    Column("throttled %", lambda r: 100 * throttled_share(r), ".2f", "lower", chart=True),
    Column("queue timeouts", lambda r: r.throttled_by_cause.get("queue_timeout", 0), ",.0f"),
    Column("interactions done", _chained("interactions_completed"), ",.0f", "higher"),
    Column("interactions done/s", _chained("interactions_per_s"), ".3f", "higher"),
    Column("interactions within the SLO", _chained("interactions_in_slo"), ",.0f", "higher"),
    Column("interactions broken", _chained("interactions_broken"), ",.0f", "lower"),
    Column("worst tenant's interactions done %", _least_done, ".0f", "higher"),
    Column("engine s per interaction done", lambda r: r.work_per_interaction_s, ".3f"),
    Column("engine s per interaction offered", lambda r: r.work_per_offered_interaction_s, ".3f"),
    Column("interactions at most", _chained("interactions_possible"), ",.0f"),
    Column("useful engine s", _chained("useful_work_s"), ",.0f", "higher"),
    Column("wasted tokens", _chained("wasted_tokens"), ",.0f", "lower", chart=True),
    Column("useful tokens", useful_tokens, ",.0f", "higher"),
    Column("victim slowdown", lambda r: r.victim_slowdown, ".2f", "lower", chart=True),
    Column("share error %", lambda r: _percent(r.share_error), ".1f", "lower", chart=True),
    Column("user spread %", lambda r: _percent(r.user_spread), ".1f", "lower", chart=True),
    Column("user spread, requests", lambda r: r.user_gap, ".1f"),
    Column("release interval, s", _release_interval, ".2f"),
    Column("bound violations", lambda r: r.bound_violations, ".0f", "lower"),
    Column("service difference / bound", _over_bound, ".2f", "lower", chart=True),
    Column("idle while waiting s", lambda r: r.idle_while_waiting_s, ".2f", "lower"),
)  # fmt: skip

Groups = dict[tuple[str, str], list[Run]]


def grouped(runs: Iterable[Run]) -> Groups:
    """Runs by scenario and policy, in the order in which they come."""
    groups: Groups = {}
    for run in runs:
        groups.setdefault((run.scenario, run.policy), []).append(run)
    return groups


def spread_of(runs: Sequence[Run], column: Column) -> Spread | None:
    """Median and interval of one figure over the seeds; ``None`` where it has no meaning."""
    return over_seeds([value for run in runs if (value := column.value(run)) is not None])


def table_of(runs: Iterable[Run]) -> Rows:
    """Header and rows; columns that say nothing anywhere are left out."""
    groups = grouped(runs)
    cells = {
        column: [spread_of(members, column) for members in groups.values()] for column in COLUMNS
    }
    shown = [column for column, spreads in cells.items() if any(spreads)]
    rows = [["scenario: policy", *(column.title for column in shown)]]
    for index, (scenario, policy) in enumerate(groups):
        row = [_cell(cells[column][index], column.form) for column in shown]
        rows.append([f"{scenario}: {policy}", *row])
    return rows


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    middle, low, high = (format(v, form) for v in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} [{low}, {high}]"
