"""Whether the ledger charged what was served: its counters beside what gateways settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from tests.faults.ledger import Look
from tests.faults.site import Gate


class Balance(msgspec.Struct, frozen=True):
    """One tenant's tokens since the ledger last began from nothing."""

    tenant: str
    charged: float
    """By the ledger, today."""
    settled: float
    """By the gateways' logs."""
    swept: float
    """Estimates of requests that died with their gateway: charged, and never settled."""
    unsure: float
    """Of requests under way when the ledger began, or when their gateway was killed."""

    @property
    def holds(self) -> bool:
        return abs(self.charged - self.settled - self.swept) <= self.unsure


def balances(
    seen: Look, gates: Iterable[Gate], swept: Mapping[str, float], began: float, kills: list[float]
) -> list[Balance]:
    """``began``: when the ledger last did (seconds since the epoch, as are ``kills``)."""
    settled, unsure = Counter[str](), Counter[str]()
    for gate in gates:
        for line in gate.lines("request"):
            tokens = line["prompt_tokens"] + line["output_tokens"]
            ended = datetime.fromisoformat(line["timestamp"]).timestamp()
            sent = ended - line["total_ms"] / 1000
            if sent >= began:
                settled[line["tenant"]] += tokens
            elif ended >= began:
                unsure[line["tenant"]] += tokens
            if any(ended <= at <= ended + _UNSENT_S for at in kills):
                unsure[line["tenant"]] += tokens
    return [
        Balance(name, account.du, settled[name], swept.get(name, 0.0), unsure[name])
        for name, account in sorted(seen.tenants.items())
    ]


_UNSENT_S = 0.5  # a settlement that was logged so shortly before a kill may not have been sent
