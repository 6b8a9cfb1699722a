"""What a gateway that does not hear from the store may grant by itself, nobody else is granted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from support.records import read_record
from support.replicas import ask

from fairgate.admission.ledger import Admitted, Ledger, Renewed, settings_of
from fairgate.admission.link import Link
from fairgate.admission.model import EngineReport, Served
from fairgate.admission.share import share_of_engines
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy

LEASE_S = 5.0
BEAT_S = LEASE_S / 5
SERVED = Served(cost=10.0, tokens=10, void=False)
QUEUES = {"small": Queue(max_waiting=100)}
TEN = EngineReport("small", "e0", up=True, max_num_seqs=10)


class Pool:
    """Gateways on a clock that stands still unless it is told to go on.

    A gateway is called by its rank; each tells its share of the engines in every heartbeat.
    """

    def __init__(self, link: Link, gateways: int = 2) -> None:
        self.now = 1_000_000.0
        self.engines = [TEN]
        self.ledgers = [
            Ledger(link, "main", f"g{rank}", clock=lambda: self.now) for rank in range(gateways)
        ]
        self.heard = ["-inf"] * gateways
        """When each gateway's last heartbeat was whose reply it got."""
        self.running: list[set[str]] = [set() for _ in self.ledgers]
        """By grants of the store that their gateways know of."""

    async def beat(
        self, rank: int, *, hears: bool = True, told: bool = True, leaves: bool = False
    ) -> Renewed:
        """One heartbeat; ``hears`` its reply, and has ``told`` the store all that it runs."""
        renewed = await self.ledgers[rank].renew(
            lease_s=LEASE_S,
            settings=settings_of(resolve_policy("fairserve"), QUEUES),
            queues=QUEUES,
            engines=self.engines,
            since_ms=self.heard[rank] if told else "-inf",
            leave=leaves,
            peers=0 if told else len(self.ledgers),
            share=share_of_engines(self.engines, replicas=len(self.ledgers), rank=rank),
        )
        if hears:
            self.heard[rank] = renewed.now_ms
        return renewed

    async def begin(self) -> None:
        await self.beats(*range(len(self.ledgers)), count=3)

    async def beats(self, *ranks: int, count: int, hears: bool = True) -> None:
        """So many, one after each beat's time, of these gateways only."""
        for _ in range(count):
            self.now += BEAT_S
            for rank in ranks:
                await self.beat(rank, hears=hears)

    async def fill(self, rank: int, most: int = 100, **wishes: object) -> int:
        """Ask until a request has to wait; it gives its place up. How many were granted."""
        for count in range(most):
            wish = ask(**wishes)
            reply = await self.ledgers[rank].admit(wish)
            assert isinstance(reply, Admitted)
            if not reply.engine:
                await self.ledgers[rank].cancel(wish.id)
                return count
            self.running[rank].add(wish.id)
        return most

    async def end(self, rank: int, count: int) -> None:
        for _ in range(count):
            await self.ledgers[rank].settle(self.running[rank].pop(), SERVED)


@pytest.fixture
async def link(valkey: redis.Redis, valkey_server: str) -> AsyncIterator[Link]:
    link = Link(valkey_server)
    yield link
    await link.close()


@pytest.fixture
async def pool(link: Link) -> Pool:
    pool = Pool(link)
    await pool.begin()
    return pool


async def test_nobody_who_is_on_time_costs_the_others_anything(pool):
    await pool.beats(0, 1, count=10)
    pool.now += 1.4 * BEAT_S
    assert await pool.fill(1) == 10


async def test_the_share_of_a_silent_one_is_set_aside(pool):
    pool.now += 1.6 * BEAT_S
    await pool.beat(1)
    assert await pool.fill(1) == 5


async def test_it_is_so_before_the_next_grant_whoever_looks(pool):
    """Also where no heartbeat came since: a settlement hands places to those in line, too."""
    assert await pool.fill(1) == 10
    waiting = ask()
    await pool.ledgers[1].admit(waiting)
    pool.now += 1.6 * BEAT_S
    granted = await pool.ledgers[1].settle(pool.running[1].pop(), SERVED)
    assert granted == ()
    await pool.end(1, 5)
    assert await pool.fill(1) == 0  # five more places, and who waits had the first
    assert len(pool.running[1]) == 4


async def test_one_whose_calls_arrive_and_whose_replies_do_not_is_late(pool):
    for _ in range(3):
        await pool.beats(1, count=1)
        await pool.beat(0, hears=False)
    assert await pool.fill(1) == 5


async def test_what_it_runs_by_grants_of_the_store_counts_only_once(pool):
    assert await pool.fill(0, most=3) == 3
    await pool.beats(1, count=2)
    assert await pool.fill(1) == 10 - 5


async def test_more_than_its_share_is_nothing_to_set_aside(pool):
    assert await pool.fill(0, most=8) == 8
    await pool.beats(1, count=2)
    assert await pool.fill(1) == 2


async def test_places_that_it_gives_back_meanwhile_stay_its_own_up_to_its_share(pool):
    """Its calls arrive, so its requests end in the store; it may have put others in their place."""
    assert await pool.fill(0, most=7) == 7
    await pool.beats(1, count=2)
    await pool.beats(0, count=1, hears=False)
    assert await pool.fill(1) == 3
    await pool.end(0, 2)  # 5 left
    assert await pool.fill(1) == 2
    await pool.end(0, 5)
    assert await pool.fill(1) == 0


async def test_grants_that_it_did_not_hear_of_make_its_share_no_larger(pool):
    await pool.beats(1, count=2)
    pool.now += 0.1
    assert await pool.fill(0, most=4) == 4
    await pool.end(0, 4)
    assert await pool.fill(1) == 5


async def test_its_share_is_free_again_once_it_has_told(pool):
    await pool.beats(1, count=2)
    local = [ask() for _ in range(4)]
    renewed = await pool.beat(0, told=False)
    assert renewed.aside
    assert await pool.fill(1, most=3) == 3
    for request in local:
        await pool.ledgers[0].send_adopt(request, "small", "e0")
    assert await pool.fill(1) == 0
    renewed = await pool.beat(0)
    assert not renewed.aside
    assert await pool.fill(1) == 3


async def test_one_that_comes_back_is_told_of_each_grant_once(pool):
    """Its heartbeat frees its own share, and grants from it to one of its own that waits."""
    await pool.beats(1, count=2)
    assert await pool.fill(1) == 5
    waiting = ask()
    reply = await pool.ledgers[0].admit(waiting)
    assert not reply.engine
    renewed = await pool.beat(0)
    assert [note.id for note in renewed.grants] == [waiting.id]


async def test_who_is_granted_a_place_as_its_gateway_dies_holds_nothing_and_is_charged_once(
    pool, valkey
):
    """The return of a late one frees its share, for who waits at another that is silent by then."""
    await pool.beats(1, count=2)  # 0 is late
    assert await pool.fill(1) == 5
    waiting = ask("unlucky", cost=30.0)
    await pool.ledgers[1].admit(waiting)

    def account() -> dict[str, Any]:
        return read_record(valkey, "fg:{main}:", "tenant", "unlucky")

    lifted = account()["s"]
    pool.now += 2 * BEAT_S  # 1 is late as well
    for _ in range(2):
        await pool.beat(0)
    assert waiting.id in valkey.zrange("fg:{main}:held:g1", 0, -1)
    await pool.beats(0, count=4)  # 1 is dead
    assert await pool.fill(0) == 10
    assert account()["flight"] == account()["waiting"] == 0
    assert account()["s"] == lifted + 30.0  # what it really was is not known
    for _ in range(2):
        await pool.ledgers[1].settle(waiting.id, Served(cost=12.0, tokens=12, void=False))
    assert account()["s"] == lifted + 12.0


@pytest.mark.parametrize("silent_before", [0, 2])
async def test_a_clock_that_is_set_back_hides_nobodys_death(pool, silent_before):
    """Neither of one that was late by then, nor of one that falls silent as it happens."""
    assert await pool.fill(0, most=3) == 3
    await pool.beats(1, count=silent_before)
    pool.now -= 3600
    await pool.beats(1, count=4)
    assert await pool.fill(1) == 5
    await pool.beats(1, count=5)
    assert await pool.fill(1) == 5


async def test_one_that_dies_or_leaves_has_no_share(pool):
    await pool.beats(1, count=4)
    assert await pool.fill(1) == 5
    await pool.beats(1, count=2)
    assert await pool.fill(1) == 5


async def test_one_that_leaves_has_no_share(pool):
    await pool.beats(1, count=2)
    await pool.beat(0, told=False, leaves=True)
    assert await pool.fill(1) == 10


async def test_kv_tokens_are_set_aside_as_well(pool):
    pool.engines = [EngineReport("small", "e0", up=True, max_num_seqs=10, kv_cache_tokens=100)]
    await pool.begin()
    assert await pool.fill(0, most=1, kv_tokens=20) == 1
    await pool.beats(1, count=2)
    assert await pool.fill(1, kv_tokens=25) == 2  # of 100, 20 in use and 30 aside
    await pool.beat(0, told=False)
    await pool.beat(0)
    assert await pool.fill(1, kv_tokens=15) == 2


async def test_an_engine_that_has_gone_and_come_back_has_all_its_places(pool):
    await pool.beats(1, count=2)
    pool.engines = []
    await pool.beats(1, count=11)
    pool.engines = [TEN]
    await pool.begin()
    assert await pool.fill(1) == 10


async def test_several_that_are_late_have_their_shares_each(link):
    pool = Pool(link, gateways=4)  # of 3, 3, 2 and 2
    await pool.begin()
    assert await pool.fill(1, most=1) == 1
    await pool.beats(2, 3, count=2)
    assert await pool.fill(3) == 4
    await pool.beat(0, told=False)
    await pool.beat(0)
    assert await pool.fill(3) == 3
    await pool.beat(1, told=False)
    await pool.beat(1)
    assert await pool.fill(3) == 2


async def test_together_they_never_run_more_than_there_is(link):
    """All that each may grant by itself, and all that the others are granted."""
    pool = Pool(link, gateways=3)
    await pool.begin()
    for rank, count in ((0, 5), (1, 2), (2, 1)):
        assert await pool.fill(rank, most=count) == count
    await pool.beats(2, count=2)  # two are late
    await pool.end(0, 4)
    await pool.end(1, 1)
    alone = []
    for rank in (0, 1):
        share = share_of_engines(pool.engines, replicas=3, rank=rank)[0].max_num_seqs
        alone.append(max(0, share - len(pool.running[rank])))
    await pool.fill(2)
    assert sum(alone) + sum(map(len, pool.running)) == 10
