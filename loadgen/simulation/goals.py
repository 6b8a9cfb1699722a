"""What the policies promise, beside what the runs at hand show of it. Nothing fails by it.

Figures are medians over seeds, ratios medians of each seed's own ratio, since the same seed sends
the same calls under every policy; what must never happen is counted over all of them. Of a promise
whose figure no run has, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadgen.report import Rows
from loadgen.simulation.figures import Run
from loadgen.simulation.table import throttled_share, useful_tokens

OURS, VTC, FCFS, RPM = "fairserve", "vtc", "fcfs", "rpm"
_LIMITED = ("azure-apps", "agents")

Policies = Mapping[str, Sequence[Run]]
"""The runs of one scenario, by policy."""

_Figure = Callable[[Run], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise and how it stands."""

    scenario: str
    what: str
    figure: float
    limit: str
    holds: bool


def goals(runs: Iterable[Run]) -> list[Goal]:
    """Every promise of which ``runs`` have the scenario and the policies."""
    scenarios: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        scenarios.setdefault(run.scenario, {}).setdefault(run.policy, []).append(run)
    return [goal for name, found in scenarios.items() for goal in _of(name, found)]


def goal_rows(found: Iterable[Goal]) -> Rows:
    """Header and one row each."""
    rows = [["scenario", "promise", "figure", "limit", ""]]
    rows += [
        [g.scenario, g.what, _short(g.figure), g.limit, "yes" if g.holds else "NO"] for g in found
    ]
    return rows


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def _of(name: str, found: Policies) -> Iterator[Goal]:
    if name == "abuser":
        yield from _abuser(found)
    elif name == "heavy-app":
        yield from _heavy_app(found)
    elif name == "weights":
        yield from _at_most(name, "distance from shares 1:2:3:4", found, OURS, _share_error, 0.03)
    if name in _LIMITED:
        yield from _limited(name, found)
    yield from _always(name, found)


def _abuser(found: Policies) -> Iterator[Goal]:
    """The release interval, which the slowdown leaves out, is among the figures of the runs."""
    yield from _at_most("abuser", "victims' slowdown", found, OURS, _slowdown, 1.3)
    slowdown = _median(found.get(FCFS, ()), _slowdown)
    if slowdown is not None:
        yield Goal("abuser", "victims' slowdown: fcfs", slowdown, "≥ 10", slowdown >= 10)


def _heavy_app(found: Policies) -> Iterator[Goal]:
    what = "users' distance from an equal normalised service"
    yield from _at_most("heavy-app", what, found, OURS, _user_spread, 0.05)
    spread = _median(found.get(VTC, ()), _user_spread)
    if spread is not None:
        yield Goal("heavy-app", f"{what}: vtc", spread, "> 0.05", spread > 0.05)
    what = "tenants' distance from equal shares, whatever app they name"
    yield from _at_most("heavy-app", what, found, OURS, _share_error, 0.03)


def _limited(name: str, found: Policies) -> Iterator[Goal]:
    """Where users have limits: little is refused while there is room on average, and under a
    lasting overload more of what was begun is finished."""
    if OURS not in found:
        return
    ours = found[OURS]
    wasted = sum(run.wasted_tokens for run in ours)
    yield Goal(name, "wasted tokens", wasted, "0", wasted == 0)
    broken = sum(run.interactions_broken for run in ours)
    yield Goal(name, "interactions broken", broken, "0", broken == 0)
    if RPM in found:
        wasted = min(run.wasted_tokens for run in found[RPM])
        yield Goal(name, "wasted tokens: rpm", wasted, "> 0", wasted > 0)
    if ours[0].load <= 1 and RPM in found:
        share = median(map(throttled_share, found[RPM]))
        yield Goal(name, "share refused: rpm", share, "0.2 to 0.4", 0.2 <= share <= 0.4)
        ratio = median(map(throttled_share, ours)) / max(share, 1e-9)
        yield Goal(name, "calls refused, of those under rpm", ratio, "≤ 0.1", ratio <= 0.1)
    if ours[0].load > 1:
        yield from _overloaded(name, found)


def _overloaded(name: str, found: Policies) -> Iterator[Goal]:
    if FCFS in found:
        lost = median(map(throttled_share, found[FCFS]))
        yield Goal(name, "an overload that lasts: share lost under fcfs", lost, "> 0", lost > 0)
    for policy in (RPM, FCFS):
        for what, figure in _FINISHED.items():
            ratio = _ratio(found[OURS], found.get(policy, ()), figure)
            if ratio is not None:
                yield Goal(name, f"{what}, of those under {policy}", ratio, "> 1", ratio > 1)


def _always(name: str, found: Policies) -> Iterator[Goal]:
    for policy in (VTC, OURS):
        if policy in found:
            violations = sum(run.bound_violations for run in found[policy])
            what = f"violations of VTC's bound: {policy}"
            yield Goal(name, what, violations, "0", violations == 0)
    if OURS not in found:
        return
    if idle := [s for run in found[OURS] if (s := run.idle_while_waiting_s) is not None]:
        what = "seconds idle while the head of a line fits"
        yield Goal(name, what, sum(idle), "0", sum(idle) == 0)
    for what, figure in _THROUGHPUT.items():
        ratio = _ratio(found[OURS], found.get(FCFS, ()), figure)
        if ratio is not None:
            holds = round(ratio, 3) >= 0.99
            yield Goal(name, f"{what}, of those under fcfs", ratio, "≥ 0.99", holds)


def _at_most(
    name: str, what: str, found: Policies, policy: str, figure: _Figure, limit: float
) -> Iterator[Goal]:
    value = _median(found.get(policy, ()), figure)
    if value is not None:
        yield Goal(name, what, value, f"≤ {limit:g}", value <= limit)


def _median(runs: Sequence[Run], figure: _Figure) -> float | None:
    """Of the runs that have it."""
    known = [value for run in runs if (value := figure(run)) is not None]
    return median(known) if known else None


def _ratio(runs: Sequence[Run], others: Sequence[Run], figure: _Figure) -> float | None:
    """Of the seeds that both have."""
    beside = {other.seed: figure(other) for other in others}
    ratios = [
        value / max(other, 1e-9)
        for run in runs
        if (value := figure(run)) is not None and (other := beside.get(run.seed)) is not None
    ]
    return median(ratios) if ratios else None


def _slowdown(run: Run) -> float | None:
    return run.victim_slowdown


def _share_error(run: Run) -> float | None:
    return run.share_error


def _user_spread(run: Run) -> float | None:
    return run.user_spread


_FINISHED: Mapping[str, _Figure] = {
    "interactions completed": lambda run: run.interactions_completed,
    "goodput": lambda run: run.goodput_per_s,
    "useful tokens": useful_tokens,
    "useful engine time": lambda run: run.useful_work_s,
}
_THROUGHPUT: Mapping[str, _Figure] = {
    "tokens/s to the end": lambda run: run.throughput_tokens_per_s,
    "tokens/s while calls come": lambda run: run.steady_tokens_per_s,
    "work/s while calls come": lambda run: run.capacity_use,
    "work/s while calls wait": lambda run: run.capacity_use_waiting,
}
