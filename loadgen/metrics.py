"""Turn the outcomes of a run, real or simulated, into the figures of its report.

Pure functions over :class:`~loadgen.records.Outcome`. Latencies count from the intended start of a
call, as open-loop measuring demands, and cover completed calls only: read them beside the numbers
of throttled and failed ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from loadgen.fairness import jain_index, max_service_difference, satisfied_shares
from loadgen.records import Outcome
from loadgen.service import Price


class Percentiles(Struct, frozen=True):
    """``None`` where there was nothing to measure."""

    p50: float | None
    p90: float | None
    p99: float | None


class Lag(Struct, frozen=True):
    """How late the generator itself sent: high values mean that it, not the target, was slow."""

    p50: float | None
    p99: float | None


class TenantSummary(Struct, frozen=True):
    """One tenant's part of a run. ``requests`` = ``completed`` + ``throttled`` + ``errors``."""

    requests: int
    completed: int
    throttled: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    service: float
    """``w_in`` · prompt tokens + ``w_out`` · completion tokens, delivered."""
    ttft_ms: Percentiles
    """From the intended start to the first token."""
    e2e_ms: Percentiles
    """From the intended start to the end."""
    queue_ms: Percentiles
    """In the target's line, as ``x-fairgate-queue-ms`` tells."""


class Summary(Struct, frozen=True):
    """What ``--json`` writes."""

    tenants: dict[str, TenantSummary]
    jain: float
    """Jain's index of the satisfied shares (:func:`~loadgen.fairness.satisfied_shares`)."""
    max_service_difference: float
    """See :func:`~loadgen.fairness.max_service_difference`."""
    throughput_tokens_per_s: float
    """Prompt and completion tokens delivered, over ``duration_s``."""
    wasted_tokens: int
    """Prompt and completion tokens of completed calls whose interaction lost a call."""
    schedule_lag_ms: Lag
    duration_s: float
    """From the start of the replay to its last answer."""


def summarise(
    outcomes: Sequence[Outcome],
    weights: Mapping[str, float],
    *,
    price: Price | None = None,
) -> Summary:
    """Figures of a run; every tenant in ``weights`` is in it, with or without requests."""
    price = price or Price()
    by_tenant = group_by_tenant(outcomes, weights)
    duration_s = max((outcome.end_s for outcome in outcomes), default=0.0)
    tokens = sum(outcome.prompt_tokens + outcome.completion_tokens for outcome in outcomes)
    # A timer of the event loop may fire up to a millisecond early, which is no lag.
    lags_ms = [max(0.0, 1000 * (outcome.sent_s - outcome.intended_s)) for outcome in outcomes]
    return Summary(
        tenants={name: summarise_tenant(calls, price) for name, calls in by_tenant.items()},
        jain=jain_index(list(satisfied_shares(by_tenant, weights, price).values())),
        max_service_difference=max_service_difference(by_tenant, weights, price),
        throughput_tokens_per_s=tokens / duration_s if duration_s else 0.0,
        wasted_tokens=wasted_tokens(outcomes),
        schedule_lag_ms=Lag(percentile(lags_ms, 50), percentile(lags_ms, 99)),
        duration_s=duration_s,
    )


def group_by_tenant(
    outcomes: Iterable[Outcome], tenants: Collection[str]
) -> dict[str, list[Outcome]]:
    """Outcomes of each of ``tenants``, in the order of ``tenants``."""
    grouped: dict[str, list[Outcome]] = {name: [] for name in tenants}
    for outcome in outcomes:
        grouped[outcome.tenant].append(outcome)
    return grouped


def summarise_tenant(calls: Sequence[Outcome], price: Price) -> TenantSummary:
    """Figures of one tenant's calls."""
    results = Counter(call.result for call in calls)
    done = [call for call in calls if call.result == "completed"]
    return TenantSummary(
        requests=len(calls),
        completed=results["completed"],
        throttled=results["throttled"],
        errors=results["error"],
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        service=sum(price.received(call) for call in calls),
        ttft_ms=percentiles_ms(
            call.first_token_s - call.intended_s for call in done if call.first_token_s is not None
        ),
        e2e_ms=percentiles_ms(call.end_s - call.intended_s for call in done),
        queue_ms=percentiles_ms(call.queue_s for call in done if call.queue_s is not None),
    )


def tpot_ms(calls: Iterable[Outcome]) -> Percentiles:
    """Time per output token after the first, of completed calls."""
    return percentiles_ms(
        (call.end_s - call.first_token_s) / (call.completion_tokens - 1)
        for call in calls
        if call.result == "completed"
        and call.first_token_s is not None
        and call.completion_tokens > 1
    )


def wasted_tokens(outcomes: Iterable[Outcome]) -> int:
    """Tokens of completed calls whose interaction lost a call: nobody has a use for them.

    FairServe (arXiv 2411.15997): served work of interactions that were broken.
    """
    spent: defaultdict[str, int] = defaultdict(int)
    broken = set()
    for outcome in outcomes:
        if outcome.interaction is None:
            continue
        if outcome.result == "completed":
            spent[outcome.interaction] += outcome.prompt_tokens + outcome.completion_tokens
        else:
            broken.add(outcome.interaction)
    return sum(spent[interaction] for interaction in broken & spent.keys())


def percentiles_ms(seconds: Iterable[float]) -> Percentiles:
    """p50, p90 and p99 in milliseconds."""
    values = sorted(1000 * value for value in seconds)
    return Percentiles(percentile(values, 50), percentile(values, 90), percentile(values, 99))


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks (as numpy's default); ``None`` of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
