"""Adds usage records up by tenant, exactly."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from msgspec import Struct

from fairgate.billing.records import UsageRecord


class UsageSum(Struct, frozen=True):
    """What one tenant used."""

    tenant: str
    requests: int
    """Lines but for corrections."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens: int
    """All that was charged; of lost requests, the estimate."""
    cost: float


class _Sum:
    def __init__(self) -> None:
        self.requests = self.prompt = self.cached = self.output = self.tokens = 0
        self.cost = Fraction()


class Sums:
    """Running sums by tenant."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def add(self, records: Iterable[UsageRecord]) -> None:
        """Count these as well."""
        for record in records:
            s = self._sums.setdefault(record.tenant, _Sum())
            s.requests += record.status != "corrected"
            s.prompt += record.prompt_tokens or 0
            s.cached += record.cached_tokens or 0
            s.output += record.output_tokens or 0
            s.tokens += record.tokens
            s.cost += Fraction(record.cost)

    def by_tenant(self) -> list[UsageSum]:
        """Of each tenant, by name."""
        return [
            UsageSum(name, s.requests, s.prompt, s.cached, s.output, s.tokens, float(s.cost))
            for name, s in sorted(self._sums.items())
        ]
