"""The scripts, rule by rule, on a real Valkey server under a clock of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.ledger_driver import LEASE_S, PREFIX, LedgerDriver, limits, rates

from fairgate.admission.ledger import STATE_TTL_S, Admitted, Denied, Down, Unknown
from fairgate.admission.model import EngineReport
from fairgate.config import Interactions, Policy, Queue

ONE = (EngineReport("small", "e0", True, 1),)
AT_ONCE = Policy(patience_s=0)  # limits bite as soon as somebody must wait
Make = Callable[..., LedgerDriver]


@pytest.fixture
def make(valkey_server: str) -> Iterator[Make]:
    made: list[LedgerDriver] = []

    def build(**kw: Any) -> LedgerDriver:
        made.append(LedgerDriver(valkey_server, **kw))
        return made[-1]

    yield build
    for driver in made:
        driver.close()


def granted(reply: object) -> bool:
    return isinstance(reply, Admitted) and bool(reply.engine)


def queued(reply: object) -> bool:
    return isinstance(reply, Admitted) and not reply.engine


def order_of_grants(driver: LedgerDriver, waiting: int) -> list[str]:
    """Settle whatever runs until the line is empty; ids in the order in which they were granted."""
    order: list[str] = []
    for _ in range(waiting):
        before = set(driver.granted)
        driver.settle(driver.running()[0])
        order += [i for i in driver.granted if i not in before]
    return order


# Grants and the line


def test_a_free_engine_grants_at_once_and_a_full_one_queues(make: Make) -> None:
    driver = make(engines=ONE)
    assert granted(driver.admit("r1"))
    reply = driver.admit("r2")
    assert queued(reply)
    assert isinstance(reply, Admitted)
    assert reply.position == 1
    driver.settle("r1")
    assert driver.running() == ["r2"]


def test_tenants_alternate_however_many_requests_one_of_them_sends(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("run")
    for i in range(4):
        driver.admit(f"flood{i}", "acme", user=f"u{i}")
    for i in range(2):
        driver.admit(f"calm{i}", "globex")
    order = order_of_grants(driver, 6)
    assert sorted(order[:4]) == ["calm0", "calm1", "flood0", "flood1"]


def test_a_larger_weight_means_more_service(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("run", "initech")
    for i in range(6):
        driver.admit(f"heavy{i}", "acme", tenant_weight=2.0)
        driver.admit(f"light{i}", "globex", tenant_weight=1.0)
    first = order_of_grants(driver, 6)
    assert sum(i.startswith("heavy") for i in first) == 4


def test_users_of_one_tenant_alternate_too(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("run", user="other")
    for i in range(4):
        driver.admit(f"a{i}", user="ann")
    for i in range(2):
        driver.admit(f"b{i}", user="bob")
    assert sorted(order_of_grants(driver, 6)[:4]) == ["a0", "a1", "b0", "b1"]


def test_fcfs_serves_in_the_order_of_arrival(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(preset="fcfs"))
    driver.admit("run")
    ids = []
    for i, tenant in enumerate(["acme", "acme", "globex", "acme", "globex"]):
        ids.append(f"r{i}")
        driver.admit(ids[-1], tenant)
    assert order_of_grants(driver, 5) == ids


def test_idle_time_earns_no_credit(make: Make) -> None:
    """Lift: who returns starts level with those who wait, and wins only the tie."""
    driver = make(engines=ONE)
    for i in range(20):
        driver.admit(f"past{i}", "acme")
        driver.settle(f"past{i}")
    driver.admit("run", "acme")
    for i in range(3):
        driver.admit(f"acme{i}", "acme")
        driver.admit(f"new{i}", "globex")
    order = order_of_grants(driver, 6)
    assert order[0] == "new0"
    assert sorted(order[:4]) == ["acme0", "acme1", "new0", "new1"]


@pytest.mark.parametrize(("app", "cost"), [("code", 1000.0), ("chat", 100.0)])
def test_users_pay_relative_to_a_typical_request_of_the_app(
    make: Make, app: str, cost: float
) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 8),))
    for i in range(30):
        driver.admit(f"r{i}", app=app, cost=cost)
        driver.settle(f"r{i}", cost, learn=True)
    before = float(driver.record("user", "acme:u")["s"])
    driver.admit("typical", app=app, cost=cost)
    driver.admit("double", app=app, cost=2 * cost)
    after = float(driver.record("user", "acme:u")["s"])
    assert after - before == pytest.approx(3.0, rel=0.01)


def test_the_estimate_is_charged_at_admission_and_corrected_at_settlement(make: Make) -> None:
    driver = make()
    driver.admit("r1", cost=100.0)
    assert driver.counter("acme") == pytest.approx(100.0)
    driver.settle("r1", 30.0)
    assert driver.counter("acme") == pytest.approx(30.0)


def test_settling_twice_changes_nothing(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("r1")
    driver.admit("r2")
    driver.admit("r3")
    driver.settle("r1", 10.0)
    counter = driver.counter("acme")
    driver.settle("r1", 10.0)
    assert driver.counter("acme") == counter
    assert driver.running() == ["r2"]


def test_admitting_twice_is_one_request(make: Make) -> None:
    driver = make()
    driver.admit("r1")
    again = driver.admit("r1")
    assert granted(again)
    assert driver.record("engine", "small:e0")["seqs"] == "1"
    assert driver.counter("acme") == pytest.approx(100.0)


def test_a_cancelled_request_leaves_no_trace(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(idle_credit=0))
    driver.admit("r1")
    driver.cancel("r1")
    driver.admit("run", "globex")
    driver.admit("r2", interaction="i1")
    driver.cancel("r2")
    account = driver.record("tenant", "acme")
    assert float(account["s"]) == pytest.approx(200.0)  # lifted to globex, not charged
    assert [account[f] for f in ("waiting", "flight", "rc", "tc", "du")] == [0] * 5
    assert driver.record("interaction", "acme:i1") == {}


def test_the_line_moves_when_a_head_that_did_not_fit_leaves(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 8, kv_cache_tokens=100),))
    driver.admit("run", kv_tokens=60)
    driver.admit("big", "globex", kv_tokens=90)
    assert queued(driver.admit("little", "initech", kv_tokens=30, cost=1.0))
    driver.cancel("big")
    assert driver.running() == ["run", "little"]


def test_backfill_lets_small_requests_pass_within_its_bound(make: Make) -> None:
    engine = EngineReport("small", "e0", True, 8, kv_cache_tokens=100)
    driver = make(engines=(engine,), policy=Policy(backfill=15.0))
    driver.admit("run", kv_tokens=60)
    driver.admit("big", "globex", kv_tokens=90)
    assert granted(driver.admit("small1", "initech", kv_tokens=10, cost=10.0))
    assert queued(driver.admit("small2", "umbrella", kv_tokens=10, cost=10.0))


def test_headroom_is_kept_for_tenants_below_their_share(make: Make) -> None:
    engine = EngineReport("small", "e0", True, 8)
    driver = make(engines=(engine,), headroom={"small": 0.25})
    assert granted(driver.admit("calm", "globex"))
    driver.settle("calm")
    driver.beat()
    flood = [driver.admit(f"flood{i}") for i in range(10)]
    assert [granted(reply) for reply in flood] == [True] * 6 + [False] * 4
    assert granted(driver.admit("calm1", "globex")), "it need not wait, though others do"
    assert granted(driver.admit("calm2", "globex")), "also while its counter is above the flood's"
    assert queued(driver.admit("calm3", "globex")), "nothing is left"
    driver.settle("calm1")
    assert sorted(driver.running())[:2] == ["calm2", "calm3"]


def test_headroom_costs_nothing_once_a_tenant_has_been_alone_for_a_minute(make: Make) -> None:
    engine = EngineReport("small", "e0", True, 8)
    driver = make(engines=(engine,), headroom={"small": 0.25})
    driver.admit("calm", "globex")
    driver.settle("calm")
    driver.wait(61)
    assert all(granted(driver.admit(f"r{i}")) for i in range(8))
    for i in range(8):
        driver.settle(f"r{i}")
    assert driver.client.hgetall("fg:{test}:running:small") == {}


def test_kv_tokens_bound_what_runs_at_once(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 8, kv_cache_tokens=100),))
    assert granted(driver.admit("r1", kv_tokens=60))
    assert queued(driver.admit("r2", kv_tokens=60))


def test_a_request_larger_than_the_cache_waits_for_an_empty_engine(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 8, kv_cache_tokens=100),))
    driver.admit("r1", kv_tokens=10)
    assert queued(driver.admit("huge", kv_tokens=10_000))
    driver.settle("r1")
    assert driver.running() == ["huge"]


def test_the_engine_with_most_room_is_taken_and_the_avoided_one_last(make: Make) -> None:
    driver = make(
        engines=(EngineReport("small", "a", True, 4), EngineReport("small", "b", True, 2))
    )
    engines = []
    for i in range(2):
        reply = driver.admit(f"r{i}", avoid="a" if i else "")
        assert isinstance(reply, Admitted)
        engines.append(reply.engine)
    assert engines == ["a", "b"]


def test_the_first_preferred_lane_with_room_is_taken(make: Make) -> None:
    engines = (EngineReport("small", "e", True, 1), EngineReport("large", "e", True, 1))
    driver = make(lanes=("small", "large"), engines=engines)
    both = (("small", 1.0), ("large", 4.0))
    lanes = []
    for i in range(3):
        reply = driver.admit(f"r{i}", lanes=both)
        assert isinstance(reply, Admitted)
        lanes.append((reply.lane, bool(reply.engine)))
    assert lanes == [("small", True), ("large", True), ("small", False)]
    assert driver.counter("acme") == pytest.approx(100 + 400)


# Throttling


def test_rate_limits_do_not_bite_while_there_is_room(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 100),))
    for i in range(50):
        assert granted(driver.admit(f"r{i}", tenant_limits=limits(rpm=5, tpm=100)))


@pytest.mark.parametrize(
    ("kw", "limit"),
    [
        ({"tenant_limits": limits(rpm=2)}, "tenant.rpm"),
        ({"tenant_limits": limits(tpm=130)}, "tenant.tpm"),
        ({"user_limits": limits(rpm=2)}, "user.rpm"),
        ({"user_limits": limits(tpm=130)}, "user.tpm"),
        ({"app_limits": rates(rpm=2)}, "app.rpm"),
        ({"app_limits": rates(tpm=130)}, "app.tpm"),
    ],
)
def test_rate_limits_bite_under_overload(make: Make, kw: dict[str, Any], limit: str) -> None:
    driver = make(engines=ONE, policy=AT_ONCE)
    assert granted(driver.admit("r1", **kw))
    assert queued(driver.admit("r2", **kw))
    reply = driver.admit("r3", **kw)
    assert isinstance(reply, Denied)
    assert reply.limit == limit
    assert 0 < reply.retry_after_s <= 120
    driver.now += reply.retry_after_s + 0.001
    driver.beat()
    assert queued(driver.admit("r3", **kw))


def test_a_burst_waits_and_a_standing_queue_is_throttled(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(patience_s=5))
    own = {"tenant_limits": limits(rpm=10)}
    for i in range(9):
        driver.admit(f"burst{i}", **own)
    for _ in range(4):  # the line moves by one a second: 5 wait, the next would wait 6 s
        driver.now += 1
        driver.beat()
        driver.settle(driver.running()[0])
    assert queued(driver.admit("r9", "acme", **own))
    driver.admit("more", "globex")
    assert isinstance(driver.admit("r10", **own), Denied)
    for _ in range(3):
        driver.now += 1
        driver.beat()
        driver.settle(driver.running()[0])
    assert queued(driver.admit("r11", **own))


def test_a_line_that_stalls_is_an_overload(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(patience_s=5))
    own = {"tenant_limits": limits(rpm=2)}
    driver.admit("r0", **own)
    assert queued(driver.admit("r1", **own))
    assert queued(driver.admit("r2", **own))
    driver.now += 4
    assert isinstance(driver.admit("r3", **own), Denied)


def test_a_tenants_measure_of_an_app_is_its_own_from_the_first_request(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 8),))
    driver.admit("chat", "posing", app="documents", cost=100.0)
    driver.settle("chat", cost=100.0, learn=True)
    driver.admit("document", "acme", app="documents", user="reader", cost=4000.0)
    assert float(driver.record("user", "acme:reader")["s"]) == pytest.approx(1.0)


def test_idling_saves_up_a_bounded_credit(make: Make) -> None:
    engine = EngineReport("small", "e0", True, 10)
    driver = make(engines=(engine,), policy=Policy(idle_credit=0.2))
    driver.admit("known", "acme", cost=100.0)
    driver.settle("known", cost=100.0)
    for i in range(40):
        driver.admit(f"busy{i}", "globex", cost=100.0)
    driver.settle("busy0")
    for i in range(6):
        driver.admit(f"back{i}", "acme", cost=100.0)
    before = len(driver.granted)
    for _ in range(7):
        driver.settle(driver.running()[0])
    order = [name[:4] for name in list(driver.granted)[before:]]
    assert order == ["back", "back", "back", "busy", "back", "busy", "back"]


def test_a_new_name_has_saved_up_nothing(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(idle_credit=5.0))
    driver.admit("run", cost=1000.0)
    driver.admit("wait")
    driver.admit("first", "invented")
    assert float(driver.record("tenant", "invented")["s"]) == pytest.approx(1000.0)


def test_those_with_credit_keep_their_order_and_do_not_undercut_each_other(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(idle_credit=5.0))
    for i in range(20):
        driver.admit(f"old{i}", f"n{i}")
        driver.settle(f"old{i}", cost=100.0)
    for i in range(5):
        driver.admit(f"past{i}", "t", cost=1000.0)
        driver.settle(f"past{i}", cost=1000.0)
    driver.admit("run", "t")
    driver.admit("wait", "t")
    for i in range(20):
        driver.admit(f"new{i}", f"n{i}")
    floor = float(driver.record("tenant", "n0")["s"])
    assert float(driver.record("tenant", "n19")["s"]) == pytest.approx(floor, abs=0.01)
    assert order_of_grants(driver, 20) == [f"new{i}" for i in range(20)]


def test_what_one_gives_back_does_not_lower_the_level_for_the_next(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(idle_credit=5.0))
    for name in ("acme", "globex"):
        driver.admit(f"old-{name}", name)
        driver.settle(f"old-{name}", cost=100.0)
    for i in range(5):
        driver.admit(f"past{i}", "t", cost=1000.0)
        driver.settle(f"past{i}", cost=1000.0)
    driver.admit("run", "t")
    driver.admit("wait", "t")
    for i in range(3):
        driver.admit(f"acme{i}", "acme")
    driver.settle("run", cost=100.0)
    driver.settle("acme0", cost=1.0)
    assert driver.running() == ["acme1"]
    driver.admit("globex0", "globex")
    assert driver.counter("globex") == pytest.approx(driver.counter("t") - 500, abs=1)


def test_always_throttles_without_overload_and_never_never_does(make: Make) -> None:
    always = make(policy=Policy(preset="rpm"), engines=(EngineReport("small", "e0", True, 9),))
    assert granted(always.admit("r1", tenant_limits=limits(rpm=1)))
    assert isinstance(always.admit("r2", tenant_limits=limits(rpm=1)), Denied)
    never = make(policy=Policy(throttle="never"), engines=ONE)
    never.admit("r1", tenant_limits=limits(rpm=1))
    assert queued(never.admit("r2", tenant_limits=limits(rpm=1)))


def test_a_running_interaction_is_never_throttled_and_a_refused_one_is_refused_whole(
    make: Make,
) -> None:
    driver = make(engines=ONE, policy=AT_ONCE)
    two = limits(rpm=2)
    driver.admit("r1", tenant_limits=two, interaction="agent")
    driver.admit("r2", tenant_limits=two)
    assert queued(driver.admit("r3", tenant_limits=two, interaction="agent"))
    first = driver.admit("r4", tenant_limits=two, interaction="other")
    assert isinstance(first, Denied)
    counted = driver.record("tenant", "acme")
    later = driver.admit("r5", tenant_limits=two, interaction="other")
    assert isinstance(later, Denied)
    assert later.limit == "interaction"
    assert driver.record("tenant", "acme") == counted, "a refusal costs nothing"


def test_the_privilege_of_an_interaction_is_bounded(make: Make) -> None:
    policy = Policy(
        patience_s=0, interactions=Interactions(max_calls=2, max_tokens=1000, idle_s=10)
    )
    driver = make(engines=ONE, policy=policy)
    one = limits(rpm=1)
    driver.admit("r1", tenant_limits=one, interaction="agent")
    assert queued(driver.admit("r2", tenant_limits=one, interaction="agent"))
    third = driver.admit("r3", tenant_limits=one, interaction="agent")
    assert isinstance(third, Denied)
    driver.admit("r4", "globex", tenant_limits=one, interaction="big")
    driver.settle("r1")
    driver.settle("r2")
    driver.settle("r4", tokens=2000)
    driver.admit("run", "initech")
    assert isinstance(driver.admit("r5", "globex", tenant_limits=one, interaction="big"), Denied)


def test_the_privilege_ends_when_the_interaction_idles(make: Make) -> None:
    policy = Policy(patience_s=0, interactions=Interactions(idle_s=10))
    driver = make(engines=ONE, policy=policy)
    one = limits(rpm=1)
    driver.admit("r1", tenant_limits=one, interaction="agent")
    driver.settle("r1")
    driver.admit("run", "initech")
    driver.wait(9)
    assert queued(driver.admit("r2", tenant_limits=one, interaction="agent"))
    driver.cancel("r2")
    driver.wait(11)
    assert isinstance(driver.admit("r3", tenant_limits=one, interaction="agent"), Denied)


def test_a_chain_of_responses_is_one_interaction_with_its_bounds(make: Make) -> None:
    policy = Policy(patience_s=0, interactions=Interactions(max_calls=2))
    driver = make(engines=ONE, policy=policy)
    one = limits(rpm=1)
    driver.admit("r1", tenant_limits=one)
    driver.settle("r1", continues_as="after-r1")
    driver.admit("run", "initech")
    assert queued(driver.admit("r2", tenant_limits=one, interaction="after-r1"))
    driver.settle("run")
    driver.settle("r2", continues_as="after-r2")
    driver.admit("run2", "initech")
    assert isinstance(driver.admit("r3", tenant_limits=one, interaction="after-r2"), Denied)
    assert isinstance(driver.admit("r4", "globex", tenant_limits=one), Admitted)
    other = driver.admit("r5", "globex", tenant_limits=one, interaction="after-r2")
    assert isinstance(other, Denied), "another tenant's chain gains nothing"


def test_another_tenants_interaction_gives_no_privilege(make: Make) -> None:
    driver = make(engines=ONE, policy=AT_ONCE)
    driver.admit("r1", "acme", interaction="agent")
    driver.admit("r2", "globex", tenant_limits=limits(rpm=1))
    reply = driver.admit("r3", "globex", tenant_limits=limits(rpm=1), interaction="agent")
    assert isinstance(reply, Denied)


def with_handicap(
    make: Make, handicap_s: float, calls: Sequence[int] = (), queue: Queue | None = None
) -> LedgerDriver:
    """Interactions of so many ``calls`` have ended, ``run`` has had one, ``last`` three, and then
    the only sequence is taken."""
    driver = make(engines=ONE, policy=Policy(handicap_s=handicap_s), queue=queue)
    for name, length in (("run", 1), ("last", 3), *((f"ended{k}", n) for k, n in enumerate(calls))):
        for _ in range(length):
            serve(driver, name)
    driver.admit("occupied", "globex")
    return driver


def serve(driver: LedgerDriver, interaction: str) -> None:
    name = f"{interaction} {len(driver.asks)}"
    driver.admit(name, interaction=interaction)
    driver.settle(name, learn=True)


def test_where_all_interactions_are_of_one_length_who_is_nearest_to_the_end_goes_first(
    make: Make,
) -> None:
    driver = with_handicap(make, 60, calls=[4] * 20)
    driver.admit("second", interaction="run")
    driver.wait(10)
    driver.admit("fourth", interaction="last")
    assert order_of_grants(driver, 2) == ["fourth", "second"]


def test_where_most_interactions_are_short_who_is_new_goes_first(make: Make) -> None:
    driver = with_handicap(make, 60, calls=[1] * 40 + [9] * 5)
    driver.admit("next", interaction="run")
    driver.wait(10)
    driver.admit("first", interaction="new")
    assert order_of_grants(driver, 2) == ["first", "next"]


def test_where_interactions_go_on_the_short_requests_of_a_user_go_first(make: Make) -> None:
    driver = with_handicap(make, 60, calls=[2] * 20)
    driver.admit("long", interaction="new", cost=2000.0)
    driver.wait(20)
    driver.admit("short")
    assert order_of_grants(driver, 2) == ["short", "long"]


def test_nobody_is_passed_by_what_comes_later_than_the_handicap(make: Make) -> None:
    driver = with_handicap(make, 60, calls=[1] * 40 + [9] * 5)
    driver.admit("next", interaction="run", cost=1e6)
    driver.wait(45)
    driver.admit("first", interaction="new")
    driver.wait(20)
    driver.admit("late", interaction="newer")
    assert order_of_grants(driver, 3) == ["first", "next", "late"]


def test_a_handicap_breaks_no_interaction(make: Make) -> None:
    """A continuation is held back for half of the time that it may wait, at most."""
    waits = Queue(timeout_s=10, continuation_timeout_s=40)
    driver = with_handicap(make, 300, calls=[1] * 40 + [9] * 5, queue=waits)
    driver.admit("next", interaction="run", cost=1e6)
    driver.wait(21)
    driver.admit("late", interaction="new", cost=1.0)
    assert order_of_grants(driver, 2) == ["next", "late"]


def test_what_stands_alone_keeps_the_order_of_arrival_whatever_its_size(make: Make) -> None:
    driver = make(engines=ONE, policy=Policy(handicap_s=60))
    for _ in range(20):
        serve(driver, "")
    driver.admit("occupied", "globex")
    for name, cost in (("long", 2000.0), ("short", 1.0), ("typical", 100.0)):
        driver.admit(name, cost=cost)
        driver.wait(1)
    assert order_of_grants(driver, 3) == ["long", "short", "typical"]


def test_a_call_that_was_not_served_tells_nothing_of_how_long_interactions_are(make: Make) -> None:
    driver = with_handicap(make, 60, calls=[1] * 4)
    before = driver.record("profile", "acme:chat")
    driver.admit("gone", interaction="run")
    driver.admit("failed", interaction="other")
    driver.cancel("gone")
    driver.settle("occupied")
    driver.settle("failed", 0.0, tokens=0, void=True)
    assert driver.record("profile", "acme:chat") == before
    assert before["served"] == [6, 1, 1]
    assert before["went_on"] == [1, 1, 0]


def test_without_a_handicap_continuations_go_first(make: Make) -> None:
    driver = with_handicap(make, 60, calls=[1] * 40 + [9] * 5)
    driver.admit("long", interaction="new", cost=2000.0)
    driver.wait(1)
    driver.admit("short")
    driver.admit("next", interaction="run")
    driver.policy = Policy(handicap_s=0)
    driver.wait(1)
    driver.admit("after", cost=1.0)
    assert order_of_grants(driver, 4) == ["next", "long", "short", "after"]


def test_a_continuation_has_a_bounded_head_start_over_other_users(make: Make) -> None:
    """One typical request: it passes a user who is level, not one who is two requests behind."""
    driver = make(engines=ONE)
    for i in range(3):
        driver.admit(f"past{i}", user="agent", interaction="run")
        driver.settle(f"past{i}")
    driver.admit("occupied", user="agent", interaction="run")
    driver.admit("calm1", user="calm")
    driver.admit("calm2", user="calm")
    driver.admit("calm3", user="calm")
    driver.admit("cont", user="agent", interaction="run")
    assert order_of_grants(driver, 4).index("cont") in (0, 1)


# Hard quotas and full lines


def test_daily_tokens_bite_always_and_come_back_with_the_day(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 9),))
    daily = limits(daily_tokens=100)
    assert granted(driver.admit("r1", tenant_limits=daily, tokens=60))
    refused = driver.admit("r2", tenant_limits=daily, tokens=60)
    assert isinstance(refused, Denied)
    assert refused.limit == "tenant.daily_tokens"
    driver.settle("r1", tokens=30)
    assert granted(driver.admit("r3", tenant_limits=daily, tokens=60))
    driver.now += refused.retry_after_s
    driver.beat()
    assert granted(driver.admit("r4", tenant_limits=daily, tokens=60))


def test_what_runs_over_midnight_changes_todays_quota_only_by_what_it_used_more(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 9),))
    daily = limits(daily_tokens=100)

    def today() -> float:
        return float(driver.record("tenant", "acme")["du"])

    driver.now += 86400 - driver.now % 86400 - 1  # the day ends in a second
    driver.beat()
    assert granted(driver.admit("less", tenant_limits=daily, tokens=60))
    assert granted(driver.admit("more", tenant_limits=daily, tokens=30))
    assert isinstance(driver.admit("late", tenant_limits=daily, tokens=60), Denied)
    driver.now += 2
    driver.beat()
    assert granted(driver.admit("today", tenant_limits=daily, tokens=90))
    driver.settle("less", tokens=10)
    assert today() == 90
    assert isinstance(driver.admit("beyond", tenant_limits=daily, tokens=20), Denied)
    driver.settle("more", tokens=35)
    assert today() == 95
    driver.settle("today", tokens=20)
    assert today() == 25


def test_a_daily_quota_outlives_an_idle_day(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 9),))
    idle_s, until_midnight_s = STATE_TTL_S, 86400 - driver.now % 86400
    driver.now += until_midnight_s + 1  # a day begins
    driver.beat()
    driver.admit("r1", user="ann", tenant_limits=limits(daily_tokens=100), tokens=60)
    driver.admit("r2", "globex", user_limits=limits(daily_tokens=100), tokens=60)
    for request_id in ("r1", "r2"):
        driver.settle(request_id)
    for kind, name in (("tenant", "acme"), ("user", "globex:u")):
        assert driver.client.pttl(f"{PREFIX}{kind}:{name}") > (86400 - 10) * 1000
    for kind, name in (("user", "acme:ann"), ("tenant", "globex")):
        assert 0 < driver.client.pttl(f"{PREFIX}{kind}:{name}") <= idle_s * 1000
    driver.now += 86400 - 60  # the day ends soon: as long as any other
    driver.beat()
    driver.admit("r3", tenant_limits=limits(daily_tokens=100), tokens=10)
    assert driver.client.pttl(f"{PREFIX}tenant:acme") > (idle_s - 10) * 1000


def test_concurrency_counts_waiting_requests_and_is_freed(make: Make) -> None:
    driver = make(engines=ONE)
    two = limits(concurrency=2)
    driver.admit("r1", tenant_limits=two)
    driver.admit("r2", tenant_limits=two)
    refused = driver.admit("r3", tenant_limits=two)
    assert isinstance(refused, Denied)
    assert refused.limit == "tenant.concurrency"
    driver.settle("r1")
    assert queued(driver.admit("r3", tenant_limits=two))


def test_a_full_line_refuses_the_flood_but_not_a_tenant_below_its_part(make: Make) -> None:
    driver = make(engines=ONE, queue=Queue(max_waiting=4, max_waiting_per_tenant=100))
    driver.admit("run")
    for i in range(4):
        assert queued(driver.admit(f"flood{i}"))
    refused = driver.admit("flood4")
    assert isinstance(refused, Denied)
    assert refused.limit == "queue"
    assert queued(driver.admit("calm", "globex"))


def test_a_full_line_takes_back_who_was_admitted_before(make: Make) -> None:
    driver = make(engines=ONE, queue=Queue(max_waiting=1, max_waiting_per_tenant=1))
    driver.admit("run")
    driver.admit("r1")
    assert isinstance(driver.admit("r2"), Denied)
    assert queued(driver.admit("moved", exempt=True))


def test_a_late_settlement_corrects_the_apps_tokens_too(make: Make) -> None:
    driver = make(gateways=("g0", "g1"))
    driver.admit("late", gateway="g1", tokens=60, app_limits=rates(tpm=1000))
    driver.now += LEASE_S + 1
    driver.beat("g0")
    driver.settle("late", gateway="g1", tokens=20)
    assert driver.record("rates", "chat")["tc"] == 20


def test_a_tenant_has_its_own_bound_of_waiting_requests(make: Make) -> None:
    driver = make(engines=ONE, queue=Queue(max_waiting=100, max_waiting_per_tenant=1))
    driver.admit("run")
    driver.admit("r1")
    assert isinstance(driver.admit("r2"), Denied)
    assert queued(driver.admit("r3", "globex"))


# Gateways and engines


def test_an_unknown_gateway_must_renew_first(make: Make) -> None:
    driver = make(gateways=("g0", "g1"))
    driver.now += LEASE_S + 1
    assert isinstance(driver.admit("r1"), Unknown)
    driver.beat()
    assert granted(driver.admit("r1"))


def test_a_dead_gateways_capacity_goes_to_those_who_wait(make: Make) -> None:
    driver = make(engines=ONE, gateways=("g0", "g1"))
    driver.admit("dead", gateway="g1")
    driver.admit("dead-waiting", gateway="g1")
    driver.now += LEASE_S - 0.5
    driver.beat("g0")
    assert queued(driver.admit("alive", "globex"))
    driver.now += 1.0
    driver.beat("g0")
    assert driver.running() == ["alive"]
    assert driver.record("request", "dead-waiting") == {}


def test_a_late_settlement_of_a_swept_lease_corrects_the_charge_only(make: Make) -> None:
    driver = make(engines=ONE, gateways=("g0", "g1"))
    driver.admit("late", gateway="g1", cost=100.0)
    driver.now += LEASE_S + 1
    driver.beat("g0")
    driver.admit("next", "globex")
    assert driver.counter("acme") == pytest.approx(100.0)
    driver.settle("late", 40.0, gateway="g1")
    assert driver.counter("acme") == pytest.approx(40.0)
    assert driver.record("engine", "small:e0")["seqs"] == "1"
    assert driver.record("tenant", "acme")["flight"] == 0


def test_who_was_granted_while_its_gateway_stood_still_pays_once(make: Make) -> None:
    """The gateway returns, never heard of the grant, and has it line up again."""
    driver = make(policy=Policy(preset="fcfs"), engines=ONE, gateways=("g0", "g1"))
    driver.admit("before", "globex")
    driver.admit("still", gateway="g1", cost=100.0, tokens=60)
    driver.now += LEASE_S * 0.6
    driver.beat("g0")
    driver.settle("before")
    assert driver.running() == ["still"]
    driver.now += LEASE_S * 0.6
    driver.beat("g0")
    driver.beat("g1")
    assert driver.record("request", "still")["state"] == "swept"
    assert granted(driver.admit_again("still"))
    driver.settle("still", 40.0, gateway="g1", tokens=50)
    account = driver.record("tenant", "acme")
    assert (account["s"], account["du"]) == (pytest.approx(40.0), 50)
    assert driver.record("engine", "small:e0")["seqs"] == "0"


def test_what_is_given_back_for_a_lost_lease_may_let_somebody_else_go(make: Make) -> None:
    """In another lane too, and though the lane of that lease is down by now."""
    small, large = EngineReport("small", "e0", True, 2, 100), EngineReport("large", "e0", True, 1)
    driver = make(engines=(small, large), gateways=("g0", "g1"))
    lanes = (("large", 1.0),)
    driver.admit("still", gateway="g1", user="bob", lanes=lanes, cost=400.0)
    driver.now += LEASE_S * 0.6
    driver.beat("g0")
    driver.now += LEASE_S * 0.6
    driver.engines = [small, EngineReport("large", "e0", False, 1)]
    driver.beat("g0")
    driver.beat("g1")
    driver.admit("runs", "globex", kv_tokens=60)
    assert queued(driver.admit("too-large", user="ann", kv_tokens=90))
    assert queued(driver.admit("fits", user="bob", kv_tokens=10))
    assert isinstance(driver.admit_again("still"), Down)
    assert sorted(driver.running()) == ["fits", "runs"]


def test_a_leaving_gateway_gives_everything_up_at_once(make: Make) -> None:
    driver = make(engines=ONE, gateways=("g0", "g1"))
    driver.admit("leaving", gateway="g1")
    driver.admit("staying", "globex")
    driver.beat("g1", leave=True)
    assert driver.running() == ["staying"]


def test_no_engine_up_is_said_at_once_and_recovery_moves_the_line(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("r1")
    driver.admit("r2")
    driver.engines = [EngineReport("small", "e0", False, 1)]
    driver.beat()
    assert isinstance(driver.admit("r3"), Down)
    driver.settle("r1")
    assert driver.running() == []
    driver.engines = list(ONE)
    driver.beat()
    assert driver.running() == ["r2"]


def test_an_engine_that_nobody_reports_any_more_takes_no_requests(make: Make) -> None:
    driver = make(engines=ONE)
    driver.engines = []
    for _ in range(3):
        driver.now += LEASE_S - 1
        driver.beat()
    assert isinstance(driver.admit("r1"), Down)


def test_the_limit_falls_under_pressure_and_climbs_back(make: Make) -> None:
    driver = make(engines=(EngineReport("small", "e0", True, 10),))

    def report(pressure: float) -> int:
        driver.now += 1
        driver.engines = [EngineReport("small", "e0", True, 10, pressure=pressure)]
        return driver.beat().statistics.lanes["small"].limit

    assert [report(2.0) for _ in range(3)] == [9, 8, 7]
    assert report(0.9) == 7, "between the thresholds it rests"
    assert report(0.1) == 7, "it does not bind, so there is nothing to learn"
    for i in range(7):
        driver.admit(f"r{i}")
    assert report(0.1) == 8
    assert report(-1.0) == 8, "unknown changes nothing"


def test_counters_are_rebased_long_before_they_lose_precision(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairgate.admission.ledger.MAX_SCORE", 1000)
    driver = make(engines=ONE)
    driver.admit("big", cost=5000.0)
    driver.admit("a1", "acme", cost=10.0)
    driver.admit("b1", "globex", cost=10.0)
    driver.settle("big", 5000.0)
    assert driver.counter("acme") < 1000
    driver.settle(driver.running()[0], 10.0)
    driver.settle(driver.running()[0], 10.0)
    assert sorted(driver.granted) == ["a1", "b1", "big"]
    assert abs(driver.counter("acme") - driver.counter("globex")) <= 5000


def test_a_place_whose_record_is_gone_does_not_hold_up_the_line(make: Make) -> None:
    driver = make(engines=ONE)
    for i, user in enumerate(["ann", "ann", "bob"]):
        driver.admit(f"r{i}", user=user)
    driver.admit("next", "globex")
    for gone in ("r1", "r2"):
        driver.client.delete(f"fg:{{test}}:request:{gone}")
    driver.settle("r0")
    assert driver.running() == ["next"]
    driver.settle("next")
    assert driver.record("lane", "small")["waiting"] == 0
    assert granted(driver.admit("later"))


def test_what_another_version_left_counts_as_nothing(make: Make) -> None:
    driver = make()
    prefix = "fg:{test}:"
    driver.client.hset(f"{prefix}tenant:acme", "s", 5)
    driver.client.set(f"{prefix}user:acme:u", "?")
    driver.client.delete(f"{prefix}lane:small")
    driver.client.hset(f"{prefix}lane:small", "waiting", 7)
    driver.client.hset(f"{prefix}app:chat", "samples", 7)
    driver.client.hset(f"{prefix}request:r1", "state", "granted")
    assert granted(driver.admit("r1", cost=100.0))
    driver.settle("r1", 100.0, learn=True)
    assert driver.counter("acme") == pytest.approx(100.0)
    assert driver.beat().statistics.apps["chat"].samples == 1


def test_who_waits_keeps_the_order_of_arrival_when_the_policy_changes(make: Make) -> None:
    driver = make(engines=ONE)
    driver.admit("run")
    ids = [f"r{i}" for i in range(6)]
    for i, request_id in enumerate(ids):
        driver.admit(request_id, ("acme", "globex")[i < 4], user=f"u{i % 3}")
    driver.policy = Policy(preset="fcfs")
    driver.beat()
    assert driver.record("lane", "small")["waiting"] == 6
    assert order_of_grants(driver, 6) == ids


def test_headroom_follows_the_weights_of_those_who_were_there_within_a_minute(make: Make) -> None:
    driver = make(headroom={"small": 0.25})

    def active_weight() -> float:
        return float(driver.record("lane", "small")["active_weight"])

    for name, weight in (("acme", 0.1), ("globex", 0.2), ("initech", 3.0)):
        driver.admit(name, name, tenant_weight=weight)
        driver.settle(name)
    driver.admit("changed", "initech", tenant_weight=1.0)
    driver.settle("changed")
    assert active_weight() == pytest.approx(1.3)
    driver.wait(30)
    driver.admit("again", "globex", tenant_weight=0.2)
    driver.wait(40)
    assert active_weight() == pytest.approx(0.2)
    driver.wait(30)
    assert active_weight() == 0


def test_the_view_tells_the_tightest_limit(make: Make) -> None:
    driver = make()
    reply = driver.admit(
        "r1", tenant_limits=limits(rpm=10, tpm=1000), user_limits=limits(rpm=3), tokens=60
    )
    assert isinstance(reply, Admitted)
    view = reply.limits
    assert view is not None
    assert (view.limit_requests, view.remaining_requests) == (3, 2)
    assert (view.limit_tokens, view.remaining_tokens) == (1000, 940)
    assert 0 < view.reset_requests_s <= 120
