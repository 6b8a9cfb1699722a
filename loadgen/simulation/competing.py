"""Who got how much while all competed: shares of tenants, service of users."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec import Struct

from loadgen.metrics import percentile
from loadgen.records import Outcome
from loadgen.service import Accumulated, Price
from loadgen.simulation.workload import Workload

_WARM_UP = 0.1
"""Part of the time that shares leave out: profiles are learned and lines fill."""

_SHOWN_USERS = 20


class UserFigures(Struct, frozen=True):
    """One user, within the time in which all compete (after the first tenth, until calls end)."""

    service: float
    """Service units."""
    normalised: float
    """The same in typical requests: divided by what calls of the app cost its tenant on average."""
    ttft_p99_ms: float | None


def _competing(outcomes: Sequence[Outcome], span_s: float, units: Sequence[float]) -> float:
    service = Accumulated(outcomes, Price(), units)
    return service.through(span_s) - service.until(_WARM_UP * span_s)


def shares(outcomes: Sequence[Outcome], workload: Workload) -> dict[str, float]:
    """Each tenant's part of the service."""
    got = {}
    for name in workload.weights:
        calls = [o for o in outcomes if o.tenant == name]
        got[name] = _competing(calls, workload.span_s, [1.0] * len(calls))
    total = sum(got.values()) or 1.0
    return {name: service / total for name, service in got.items()}


def share_error(shares: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Largest relative distance of a share from its weight's."""
    total = sum(weights.values())
    return max(abs(shares[name] * total / weight - 1) for name, weight in weights.items())


def user_spread(users: Mapping[str, UserFigures]) -> float:
    """Largest relative distance of a user's normalised service from its tenant's mean."""
    return max((abs(value / mean - 1) for value, mean in _beside_means(users)), default=0.0)


def user_gap(users: Mapping[str, UserFigures]) -> float:
    """The same distance in typical requests: what was in flight when time began and ended keeps it
    above 0, however long the run."""
    return max((abs(value - mean) for value, mean in _beside_means(users)), default=0.0)


def _beside_means(users: Mapping[str, UserFigures]) -> list[tuple[float, float]]:
    """Each user's normalised service and its tenant's mean; of tenants that got any."""
    tenants: defaultdict[str, list[float]] = defaultdict(list)
    for name, user in users.items():
        tenants[name.partition("/")[0]].append(user.normalised)
    return [
        (value, sum(values) / len(values))
        for values in tenants.values()
        if sum(values)
        for value in values
    ]


def users_of(outcomes: Sequence[Outcome], span_s: float) -> dict[str, UserFigures]:
    """The users with most calls."""
    price = Price()
    costs: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)
    by_user: defaultdict[tuple[str, str | None], list[Outcome]] = defaultdict(list)
    for o in outcomes:
        costs[o.tenant, o.app].append(price.cost(o.wanted_prompt_tokens, o.wanted_output_tokens))
        by_user[o.tenant, o.user].append(o)
    typical = {app: sum(values) / len(values) for app, values in costs.items()}
    shown = sorted(by_user, key=lambda user: (-len(by_user[user]), str(user)))[:_SHOWN_USERS]
    return {
        f"{tenant}/{user}": _user(by_user[tenant, user], span_s, typical)
        for tenant, user in sorted(shown, key=str)
    }


def _user(
    calls: Sequence[Outcome], span_s: float, typical: dict[tuple[str, str | None], float]
) -> UserFigures:
    ttfts = [o.first_token_s - o.intended_s for o in calls if o.first_token_s is not None]
    p99 = percentile(ttfts, 99)
    return UserFigures(
        service=_competing(calls, span_s, [1.0] * len(calls)),
        normalised=_competing(calls, span_s, [typical[o.tenant, o.app] for o in calls]),
        ttft_p99_ms=None if p99 is None else 1000 * p99,
    )
