"""What calls of an app cost so far: the unit in which normalised service is measured."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.config.policy import ResolvedPolicy
from loadgen.records import Outcome
from loadgen.service import Price


def typical_costs(outcomes: Sequence[Outcome], policy: ResolvedPolicy) -> list[float]:
    """Beside each outcome: the running mean of its app's completed calls when it was granted.

    As FairServe's W_a (arXiv 2411.15997), in service units; each tenant has means of its own where
    the policy compares users only within their tenant. Before the first call has ended, and for
    calls that came to nothing before, it is what the call itself would have cost.
    """
    apart = policy.levels != "user"
    price = Price(policy.input_weight, policy.output_weight)
    means: dict[tuple[str, str | None], tuple[int, float]] = {}
    ended = [(o.end_s, 0, index) for index, o in enumerate(outcomes) if o.result == "completed"]
    granted = [
        (o.sent_s if o.granted_s is None else o.granted_s, 1, index)
        for index, o in enumerate(outcomes)
    ]
    units = [0.0] * len(outcomes)
    for _, is_grant, index in sorted(ended + granted):
        o = outcomes[index]
        key = (o.tenant if apart else "", o.app)
        own = price.cost(o.wanted_prompt_tokens, o.wanted_output_tokens)
        samples, mean = means.get(key, (0, own))
        if is_grant:
            units[index] = mean
        else:
            means[key] = samples + 1, (mean * samples + own) / (samples + 1)
    return units
