"""What calls of an app cost so far: the unit in which normalised service is measured."""

from __future__ import annotations

from fairgate.policy import ResolvedPolicy
from loadgen.records import Call
from loadgen.service import Price


class TypicalCosts:
    """Running means over completed calls, in service units.

    As FairServe's W_a (arXiv 2411.15997), of all calls of an app; each tenant has means of its own
    where the policy compares users only within their tenant.
    """

    def __init__(self, policy: ResolvedPolicy) -> None:
        self._apart = policy.levels != "user"
        self._means: dict[tuple[str, str | None], tuple[int, float]] = {}
        self._price = Price(policy.input_weight, policy.output_weight)

    def of(self, call: Call) -> float:
        """The mean so far; before the first call has ended, what this one costs."""
        _, mean = self._means.get(self._key(call), (0, self._cost(call)))
        return mean

    def learn(self, call: Call) -> None:
        """A call was completed."""
        samples, mean = self._means.get(self._key(call), (0, 0.0))
        mean += (self._cost(call) - mean) / (samples + 1)
        self._means[self._key(call)] = samples + 1, mean

    def _key(self, call: Call) -> tuple[str, str | None]:
        return (call.tenant if self._apart else "", call.app)

    def _cost(self, call: Call) -> float:
        return self._price.cost(call.prompt_tokens, call.output_tokens)
