"""Gateways that are late, as rules of a machine that models the ledger."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from support.ledger_driver import LEASE_S, PREFIX
from support.ledger_faults import LedgerFaults

BEAT_S = LEASE_S / 5


class LateGateways(LedgerFaults):
    """The same with faults, where each gateway tells its share in each heartbeat."""

    def __init__(self) -> None:
        super().__init__()
        self.driver.heard = dict.fromkeys(self.driver.ledgers, "-inf")
        for _ in range(2):
            self.all_beat()

    @rule(which=st.integers(0, 1))
    def one_is_silent(self, which: int) -> None:
        """Until somebody has all gateways beat, which is before it is dead."""
        silent = list(self.driver.ledgers)[which]
        self.all_beat()
        self.driver.now += BEAT_S
        self.all_beat()
        for _ in range(2):
            self.driver.now += 0.95 * BEAT_S
            for name in self.driver.ledgers:
                if name != silent:
                    self.driver.beat(name)
        self.take_grants()  # type: ignore[attr-defined]
        assert self.late() == {silent}

    @rule(seconds=st.floats(0, LEASE_S / 2))
    def the_clock_steps(self, seconds: float) -> None:
        """Ahead only: after a step back the store takes older grants for ones that came since."""
        super().the_clock_steps(seconds)

    def late(self) -> set[str]:
        return set(self.driver.client.smembers(f"{PREFIX}late"))

    @invariant()
    def what_late_gateways_lack_of_their_shares_is_set_aside(self) -> None:
        """Less what they run by older grants: they may never hear of those that came since."""
        client = self.driver.client
        seqs: Counter[tuple[str, str]] = Counter()
        kv: Counter[tuple[str, str]] = Counter()
        for gateway in self.late():
            since = client.hget(f"{PREFIX}late:{gateway}", "since")
            held = client.zrangebyscore(f"{PREFIX}held:{gateway}", "-inf", f"({since}")
            records = [self.driver.record("request", request_id) for request_id in held]
            for part in self.driver.share_of(gateway):
                place = part.lane, part.name
                mine = [r for r in records if (r["lane"], r["engine"]) == place]
                if part.name == "c" or not part.max_num_seqs:
                    continue  # it changed since
                seqs[place] += max(0, part.max_num_seqs - len(mine))
                kv[place] += max(0, part.kv_cache_tokens - sum(int(r["held_kv"]) for r in mine))
        for engine in self.driver.engines:
            if engine.name != "c":
                e = self.driver.record("engine", f"{engine.lane}:{engine.name}")
                place = engine.lane, engine.name
                assert int(e.get("aside_seqs", 0)) == seqs[place], (engine.name, self.late())
                assert int(e.get("aside_kv", 0)) == kv[place], (engine.name, self.late())
