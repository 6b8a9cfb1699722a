"""The routers' shared state on a real Valkey: notes for feedback, debts, weights, places."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import numpy as np
import pytest
import redis
from support.live_routing import words

from fairgate.admission.link import Link
from fairgate.routing.debts import CAUTION, FIRST_DEBT, Debt, Debts, Unsent
from fairgate.routing.satisfaction import SIZE, Satisfaction
from fairgate.routing.store import Judged, News, RoutingStore, _script
from tests.bench.mess_plus.run import run
from tests.bench.mess_plus.stream import made_up

POOL = "routes"


@pytest.fixture
async def store(valkey: redis.Redis, valkey_server: str) -> AsyncIterator[RoutingStore]:
    link = Link(valkey_server)
    yield RoutingStore(link, POOL)
    await link.close()


async def note(store: RoutingStore, request_id: str, tenant: str = "acme", **limits: float) -> int:
    bounds = {"kept_s": 60.0, "most": 100, **limits}
    kept = store.note(
        tenant, request_id, b"\x00note", kept_s=bounds["kept_s"], most=int(bounds["most"])
    )
    return int(await kept)


async def judge(
    store: RoutingStore, request_id: str, score: float = 1.0, tenant: str = "acme"
) -> Judged | None:
    return await store.feedback(tenant, request_id, score, agreed=0.8, kept_s=60.0)


async def test_feedback_finds_its_note_once_and_for_its_tenant_only(store: RoutingStore) -> None:
    await note(store, "one")
    assert await judge(store, "one", tenant="globex") is None
    found = await judge(store, "one")
    assert found is not None
    assert found.note == b"\x00note"
    assert await judge(store, "one") is None
    assert await judge(store, "unknown") is None


async def test_notes_are_bounded_by_number_and_by_age(
    store: RoutingStore, valkey: redis.Redis
) -> None:
    for n in range(250):
        assert await note(store, str(n), most=100) <= 100
    assert valkey.hlen(f"fg:{{{POOL}}}:notes:acme") == 100
    assert await judge(store, "149") is None
    assert await judge(store, "150") is not None
    await note(store, "old", kept_s=0.05)
    await asyncio.sleep(0.1)
    assert await store.feedback("acme", "old", 1.0, agreed=0.8, kept_s=0.05) is None
    ttl = valkey.pttl(f"fg:{{{POOL}}}:notes:acme")
    assert ttl == -2  # the whole hash went with its last note


async def test_the_script_keeps_the_debt_that_the_formula_says(store: RoutingStore) -> None:
    rng = random.Random(7)
    expected = Debt()
    for n in range(200):
        requests = rng.choice([0, 1, 3])
        if requests:
            moved = rng.choice([0.0, -0.3, 0.2, -40.0])
            news = News(rows={}, places={}, requests={"acme": Unsent(requests, moved)})
            known = await store.sync("v", news, version=0, place="")
            owed = max(0.0, expected.debt + moved)
            expected = Debt(owed, expected.requests + requests, expected.judged)
            found = known.debts["acme"]
            assert (found.requests, found.judged) == (expected.requests, expected.judged)
            assert found.debt == pytest.approx(expected.debt, rel=1e-12)
        score = rng.random()
        expected = expected.judge(score, 0.8)
        await note(store, str(n))
        judged = await judge(store, str(n), score)
        assert judged is not None
        assert judged.debt.debt == pytest.approx(expected.debt, rel=1e-12)
        assert judged.debt.judged == expected.judged
    assert expected.debt != FIRST_DEBT


async def test_what_replicas_expect_of_a_tenant_whom_nobody_judges_adds_up(
    store: RoutingStore,
) -> None:
    here, there = Debts(), Debts()
    for number in range(100):
        for replica in (here, there):
            replica.count("acme")
            replica.expect("acme", 0.9, 0.5, labels=1000)
            if number % 10 == 9:
                news = News(rows={}, places={}, requests=replica.news())
                replica.take_in((await store.sync("v", news, version=0, place="")).debts)
    known = await store.sync("v", News({}, {}, {"acme": Unsent()}), version=0, place="")
    assert known.debts["acme"].requests == 200
    # Both began to expect when they knew of 100 requests, some 60 of each ago.
    assert FIRST_DEBT - 100 * 0.4 <= known.debts["acme"].debt < FIRST_DEBT - 80 * 0.38 or (
        known.debts["acme"].debt == 0
    )


async def test_replicas_add_up_what_they_learn(store: RoutingStore) -> None:
    here, there = Satisfaction(("a", "b")), Satisfaction(("a", "b"))
    x = words("how long is a piece of string")
    for _ in range(50):
        here.learn("a", x, 1.0)
        there.learn("b", x, 0.0)
    for learner in (here, there, here):
        news = News(rows=learner.news(), places={}, requests={})
        known = await store.sync("v1", news, version=learner.version, place="")
        assert known.rows is not None
        learner.version = known.version
        learner.take_in(known.rows)
    for lane in ("a", "b"):
        assert here.predict(x)[lane] == pytest.approx(there.predict(x)[lane], abs=1e-5)
        assert here.labels(lane) == there.labels(lane) == 50
    assert here.predict(x)["b"] < here.predict(x)["a"]
    again = await store.sync("v1", News({}, {}, {}), version=here.version, place="")
    assert again.rows is None
    other = await store.sync("v2", News({}, {}, {}), version=-1, place="")
    assert other.rows == {}


async def test_what_was_learned_while_rows_travel_is_not_lost(store: RoutingStore) -> None:
    learner, x = Satisfaction(("a", "b")), words("x y z")
    learner.learn("a", x, 1.0)
    sent = learner.news()
    learner.learn("a", x, 1.0)
    unsent = learner.predict(x)["a"]
    known = await store.sync("v", News(sent, {}, {}), version=-1, place="")
    assert known.rows is not None
    learner.take_in(known.rows)
    assert learner.predict(x)["a"] == pytest.approx(unsent, abs=1e-6)
    assert learner.labels("a") == 2


async def test_places_are_told_from_where_one_left_off(store: RoutingStore) -> None:
    first = await store.sync("v", News({}, {"x": "small"}, {}), version=0, place="")
    assert first.places == {"x": "small"}
    second = await store.sync(
        "v", News({}, {"y": "large", "x": "large"}, {}), version=0, place=first.place
    )
    assert second.places == {"y": "large", "x": "large"}
    third = await store.sync("v", News({}, {}, {}), version=0, place=second.place)
    assert third.places == {}
    everything = await store.sync("v", News({}, {}, {}), version=0, place="")
    assert everything.places == {"y": "large", "x": "large"}


async def test_a_store_that_forgot_is_read_from_its_beginning(
    store: RoutingStore, valkey: redis.Redis
) -> None:
    places = {str(n): "small" for n in range(20)}
    known = await store.sync("v", News({}, places, {}), version=0, place="")
    valkey.flushall()
    await store.sync("v", News({}, {"x": "large"}, {}), version=0, place=known.place)
    after = await store.sync("v", News({}, {}, {}), version=0, place=known.place)
    assert after.places == {"x": "large"}


def test_debts_count_what_the_store_was_not_told_yet() -> None:
    debts = Debts()
    debts.count("acme")
    debts.count("acme")
    news = debts.news()
    assert news == {"acme": Unsent(2)}
    debts.count("acme")
    debts.take_in({"acme": Debt(3.0, requests=10, judged=4)})
    assert debts.of("acme") == Debt(3.0, requests=11, judged=4)
    debts.put_back(news)
    assert debts.news() == {"acme": Unsent(3)}


def test_what_was_expected_while_news_travel_is_not_lost() -> None:
    debts = Debts()
    debts.take_in({"acme": Debt(20.0, requests=1000)})
    debts.expect("acme", 1.0, 0.5, labels=10_000)
    (unsent,) = debts.news().values()
    assert unsent.moved == pytest.approx(-0.5, abs=0.01)
    debts.expect("acme", 1.0, 0.5, labels=10_000)
    debts.take_in({"acme": Debt(20.0 + unsent.moved, requests=1000)})
    assert debts.of("acme").debt == pytest.approx(19.0, abs=0.01)
    debts.put_back({"acme": unsent})
    assert debts.news()["acme"].moved == pytest.approx(-1.0, abs=0.02)


def test_features_have_one_length_and_norm() -> None:
    for prompt in ("", "a b", "how long is a piece of string " * 300):
        x = words(prompt)
        assert x.shape == (SIZE,)
        assert x[0] == 1
        assert np.linalg.norm(x[1:]) == pytest.approx(1.0 if prompt else 0.0)


def test_levels_are_kept_with_the_debts_that_the_scripts_keep(valkey: redis.Redis) -> None:
    """The unit tests' stream, each feedback through the shipped scripts."""
    note, feedback = (valkey.register_script(_script(n).text) for n in ("note", "feedback"))

    def judge(debts: Debts, tenant: str, score: float, agreed: float) -> None:
        keys = [f"fg:{{{POOL}}}:{kind}:{tenant}" for kind in ("notes", "noted", "debt")]
        valkey.hset(keys[2], "requests", debts.of(tenant).requests)
        debts.news()
        note(keys[:2], ["id", "note", 60_000, 100])
        reply = feedback(keys, ["id", score, agreed, 60_000, FIRST_DEBT, CAUTION, 60_000])
        debts.take_in({tenant: Debt(float(reply[1]), int(reply[2]), int(reply[3]))})

    stream, levels = made_up(3000, seed=1), {"usual": 0.6, "strict": 0.7}
    by_script = run(stream, levels, feedback=0.5, seed=2, judge=judge)
    by_formula = run(stream, levels, feedback=0.5, seed=2)
    for tenant, result in by_script.items():
        assert result.last() >= -0.01
        assert result.cost <= 0.6
        assert result.good == by_formula[tenant].good
