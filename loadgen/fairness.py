"""How fair a replay was: Jain's index of the satisfied share, and the service difference.

Both divide a tenant's service by its weight, and both look only at times when tenants compete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from loadgen.records import Outcome
from loadgen.service import Accumulated, Interval, Price, backlog, overlap, waiting

WINDOW_S = 10.0


def jain_index(values: Sequence[float]) -> float:
    """Jain's index (Σx)² / (n·Σx²): 1 when all are equal, 1/n when one has everything.

    Jain, Chiu, Hawe 1984 (DEC-TR-301). 1 for no values and for zeros only.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def fair_shares(
    demands: Mapping[str, float], weights: Mapping[str, float], capacity: float
) -> dict[str, float]:
    """Weighted max-min shares: min(demand, level · weight) with one level that uses ``capacity``.

    Max-min fairness as in Bertsekas, Gallager, Data Networks. Where the capacity suffices, each
    gets its demand.
    """
    shares = {}
    hungriest_last = sorted(demands, key=lambda name: demands[name] / weights[name])
    for index, name in enumerate(hungriest_last):
        open_weight = sum(weights[other] for other in hungriest_last[index:])
        shares[name] = min(demands[name], max(0.0, capacity) * weights[name] / open_weight)
        capacity -= shares[name]
    return shares


def satisfied_shares(
    outcomes: Mapping[str, Sequence[Outcome]],
    weights: Mapping[str, float],
    price: Price,
    window_s: float = WINDOW_S,
) -> dict[str, float]:
    """Of what was each tenant's due, the share that it got, 0 to 1; without demand: left out.

    x = served / min(demand, fair share), taken window by window and summed: over a whole replay
    every late answer would count as a timely one. In a window, the capacity is the service that all
    received; a tenant's demand is what it received, plus what it lost (throttled, failed), plus
    what waited, times the part of the window that it waited; its due is the weighted max-min share
    of the capacity. More than its due counts as 1.
    """
    served = {name: _served(calls, price, window_s) for name, calls in outcomes.items()}
    unserved = {name: _unserved(calls, price, window_s) for name, calls in outcomes.items()}
    due: defaultdict[str, float] = defaultdict(float)
    windows = {window for parts in (*served.values(), *unserved.values()) for window in parts}
    for window in sorted(windows):
        demands = {
            name: served[name].get(window, 0.0) + unserved[name].get(window, 0.0)
            for name in outcomes
        }
        capacity = sum(parts.get(window, 0.0) for parts in served.values())
        for name, share in fair_shares(demands, weights, capacity).items():
            due[name] += share
    return {
        name: min(1.0, sum(served[name].values()) / due[name]) if due[name] else 0.0
        for name in outcomes
        if served[name] or unserved[name]
    }


def _served(calls: Sequence[Outcome], price: Price, window_s: float) -> dict[int, float]:
    """Service received, by window."""
    accumulated = Accumulated(calls, price)
    if not accumulated.times:
        return {}
    served = {}
    last = int(accumulated.times[-1] // window_s)
    for window in range(int(accumulated.times[0] // window_s), last + 1):
        amount = accumulated.until((window + 1) * window_s) - accumulated.until(window * window_s)
        if amount > 0:
            served[window] = amount
    return served


def _unserved(calls: Iterable[Outcome], price: Price, window_s: float) -> dict[int, float]:
    """Service that was asked for and not received, by window."""
    unserved: defaultdict[int, float] = defaultdict(float)
    for call in calls:
        demanded = price.demanded(call)
        start_s, end_s = waiting(call)
        for window in range(int(start_s // window_s), int(end_s // window_s) + 1):
            inside_s = min(end_s, (window + 1) * window_s) - max(start_s, window * window_s)
            unserved[window] += demanded * inside_s / window_s
        if call.result != "completed":
            lost_in = int(call.end_s // window_s)
            waited_s = max(0.0, end_s - max(start_s, lost_in * window_s))
            # Its wait in this window is part of the loss, not beside it.
            unserved[lost_in] += demanded * (1 - waited_s / window_s) - price.received(call)
    return unserved


def max_service_difference(
    outcomes: Mapping[str, Sequence[Outcome]], weights: Mapping[str, float], price: Price
) -> float:
    """Largest |W_f(t1, t2)/w_f - W_g(t1, t2)/w_g| over pairs of tenants, in service units.

    W(t1, t2) is the service received between t1 and t2, both from one stretch of time throughout
    which both tenants had calls waiting: what VTC bounds by 2·max(w_in·L_in, w_out·M) (OSDI'24,
    arXiv 2401.00588). 0 when no two tenants ever waited at the same time.
    """
    accumulated = {name: Accumulated(calls, price) for name, calls in outcomes.items()}
    waited = {name: backlog(calls) for name, calls in outcomes.items()}
    return max(
        (
            service_spread(accumulated[f], weights[f], accumulated[g], weights[g], stretch)
            for f, g in combinations(outcomes, 2)
            for stretch in overlap(waited[f], waited[g])
        ),
        default=0.0,
    )


def service_spread(
    f: Accumulated, f_weight: float, g: Accumulated, g_weight: float, stretch: Interval
) -> float:
    """How far the difference of two weighted services moves within ``stretch``: the largest
    |W_f(t1, t2)/w_f - W_g(t1, t2)/w_g| with t1 and t2 in it.

    It is piecewise linear, so its extremes lie at the ends or at either side of a change.
    """
    start_s, end_s = stretch
    differences = [
        f.through(start_s) / f_weight - g.through(start_s) / g_weight,
        f.until(end_s) / f_weight - g.until(end_s) / g_weight,
    ]
    for at_s in (*f.between(start_s, end_s), *g.between(start_s, end_s)):
        differences.append(f.until(at_s) / f_weight - g.until(at_s) / g_weight)
        differences.append(f.through(at_s) / f_weight - g.through(at_s) / g_weight)
    return max(differences) - min(differences)
