"""Let one tenant send a multiple of what the others send, for a while."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from loadgen.errors import SpecError

_FORM = re.compile(r"(?P<tenant>.+):(?P<factor>[\d.]+)@(?P<start>[\d.]+)-(?P<end>[\d.]+)")


@dataclass(frozen=True, slots=True)
class Flood:
    """``tenant`` adds ``factor`` times the mean rate of the other tenants, on top of the replay.

    From ``start_s`` until before ``end_s``, seconds of the replay.
    """

    tenant: str
    factor: float
    start_s: float
    end_s: float

    @classmethod
    def parse(cls, text: str, tenants: Collection[str]) -> Flood:
        """Read ``TENANT:FACTOR@START-END``, such as ``initech:10@60-120``."""
        match = _FORM.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            flood = cls(
                match["tenant"], float(match["factor"]), float(match["start"]), float(match["end"])
            )
        except ValueError:
            raise SpecError(
                f"--flood {text}: expected TENANT:FACTOR@START-END in seconds, "
                f"such as initech:10@60-120"
            ) from None
        if flood.tenant not in tenants:
            raise SpecError(f"--flood {text}: no such tenant; they are {', '.join(tenants)}")
        if len(tenants) < 2:
            raise SpecError(f"--flood {text}: needs other tenants to be measured against")
        if flood.factor <= 0 or flood.end_s <= flood.start_s:
            raise SpecError(f"--flood {text}: expected FACTOR > 0 and START < END")
        return flood

    def covers(self, at_s: float) -> bool:
        """Whether it is on at that second of the replay."""
        return self.start_s <= at_s < self.end_s

    def size(self, arrivals: Sequence[tuple[float, str]], tenants: int) -> int:
        """Number of requests to add, given when and from whom the others of ``tenants`` come.

        Raises ``SpecError`` when the others send nothing in its time.
        """
        others = sum(self.covers(at_s) and name != self.tenant for at_s, name in arrivals)
        if others == 0:
            raise SpecError(
                f"--flood: no other tenant sends anything between {self.start_s:g} and "
                f"{self.end_s:g} s of the replay"
            )
        return max(1, round(self.factor * others / (tenants - 1)))
