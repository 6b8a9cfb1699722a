"""VTC's bound, checked at every step of a run.

Two clients that both have requests waiting throughout t1 to t2 have received, at any two such
times, services that differ by at most U = 2·max(w_in·L_in, w_out·M) (VTC, OSDI'24, arXiv
2401.00588, theorem 4.4), L_in being the longest prompt and M the tokens that a batch can hold.
Two levels are checked, as the ledger keeps two: tenants, and the users within a tenant. Service is
divided by the weight; where the policy normalises by app, by the expected cost of the request's
app when it came (W_a), and the bound with it. M is taken as the most that the running requests held
at once in this run, which is at most what the engines can hold: a stricter bound than the paper's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fairgate.config.policy import ResolvedPolicy
from loadgen.fairness import service_spread
from loadgen.records import Outcome
from loadgen.service import Accumulated, Price, backlog, overlap


@dataclass(frozen=True, slots=True)
class BoundCheck:
    """What one level showed, in service units or, where normalised, in typical requests."""

    bound: float
    worst: float
    """Largest difference of a backlogged pair."""
    violations: int
    """Pairs and stretches of common backlog that exceed the bound."""
    pairs: int
    """Pairs that were backlogged at the same time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An outcome, and the unit that its service is measured in."""

    outcome: Outcome
    unit: float


def check_tenants(
    outcomes: Sequence[Outcome], expected: Sequence[float], weights: Mapping[str, float],
    policy: ResolvedPolicy, prices: Mapping[str, float],
) -> BoundCheck:  # fmt: skip
    """Between tenants."""
    normalised = policy.normalise_tenant == "app"
    measured = _measured(outcomes, expected, weights, prices, normalised=normalised)
    groups: defaultdict[Hashable, list[Measured]] = defaultdict(list)
    for one in measured:
        groups[one.outcome.tenant].append(one)
    return _check(list(groups.values()), _bound(measured))


def check_users(
    outcomes: Sequence[Outcome], expected: Sequence[float], policy: ResolvedPolicy,
    prices: Mapping[str, float],
) -> BoundCheck:  # fmt: skip
    """Between the users of each tenant; of all tenants where the policy knows only users."""
    everyone = dict.fromkeys((o.tenant for o in outcomes), 1.0)
    normalised = policy.normalise_user == "app"
    measured = _measured(outcomes, expected, everyone, prices, normalised=normalised)
    bound = _bound(measured)
    across = policy.levels == "user"
    families: defaultdict[str, defaultdict[Hashable, list[Measured]]]
    families = defaultdict(lambda: defaultdict(list))
    for one in measured:
        o = one.outcome
        families["" if across else o.tenant][o.tenant, o.user].append(one)
    checks = [_check(list(users.values()), bound) for users in families.values()]
    return BoundCheck(
        bound,
        max((check.worst for check in checks), default=0.0),
        sum(check.violations for check in checks),
        sum(check.pairs for check in checks),
    )


def _measured(
    outcomes: Sequence[Outcome], expected: Sequence[float], weights: Mapping[str, float],
    prices: Mapping[str, float], *, normalised: bool,
) -> list[Measured]:  # fmt: skip
    return [
        Measured(
            o, weights[o.tenant] * (unit if normalised else 1.0) / prices.get(o.lane or "", 1.0)
        )
        for o, unit in zip(outcomes, expected, strict=True)
    ]


def _bound(measured: Sequence[Measured]) -> float:
    price = Price()
    longest = max((price.prompt * m.outcome.prompt_tokens / m.unit for m in measured), default=0.0)
    return 2 * max(longest, _most_held(measured, price.output))


def _most_held(measured: Sequence[Measured], weight: float) -> float:
    """The most tokens, times ``weight`` and in units, that ran at once."""
    changes = []
    for m in measured:
        o = m.outcome
        if o.granted_s is not None:
            held = weight * (o.prompt_tokens + o.completion_tokens) / m.unit
            changes += [(o.granted_s, held), (o.end_s, -held)]
    most = now = 0.0
    for _, change in sorted(changes):  # what ends at a time leaves before what begins then
        now += change
        most = max(most, now)
    return most


def _check(groups: Sequence[Sequence[Measured]], bound: float) -> BoundCheck:
    price = Price()
    services = [Accumulated([m.outcome for m in g], price, [m.unit for m in g]) for g in groups]
    waited = [backlog(m.outcome for m in g) for g in groups]
    worst, violations, pairs = 0.0, 0, 0
    for f, g in combinations(range(len(groups)), 2):
        stretches = overlap(waited[f], waited[g])
        pairs += bool(stretches)
        for stretch in stretches:
            # No difference exceeds what both got: a cheap answer for most pairs.
            if _within(services[f], stretch) + _within(services[g], stretch) <= worst:
                continue
            spread = service_spread(services[f], 1.0, services[g], 1.0, stretch)
            worst = max(worst, spread)
            violations += spread > bound
    return BoundCheck(bound, worst, violations, pairs)


def _within(service: Accumulated, stretch: tuple[float, float]) -> float:
    return service.through(stretch[1]) - service.until(stretch[0])
