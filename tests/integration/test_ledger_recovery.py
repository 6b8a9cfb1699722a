"""After an outage that all gateways saw nothing is granted until each has told what it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
from support.replicas import ask

from fairgate.admission.ledger import Admitted, Ledger, Renewed, settings_of
from fairgate.admission.link import Link
from fairgate.admission.model import EngineReport, Served
from fairgate.config import Queue
from fairgate.config.policy import resolve_policy

CAPACITY = 3
LEASE_S = 5.0
OUTAGE_S = 2.0
QUEUES = {"small": Queue(max_waiting=100)}


class Pool:
    """Three gateways on a clock that stands still unless it is told to go on."""

    def __init__(self, link: Link) -> None:
        self.now = 1_000_000.0
        self._link = link
        self._ledgers: dict[str, Ledger] = {}

    def __getitem__(self, name: str) -> Ledger:
        if name not in self._ledgers:
            self._ledgers[name] = Ledger(self._link, "main", name, clock=lambda: self.now)
        return self._ledgers[name]

    async def renew(self, name: str, *, peers: int = 0, leave: bool = False) -> Renewed:
        return await self[name].renew(
            lease_s=LEASE_S,
            settings=settings_of(resolve_policy("fairserve"), QUEUES),
            queues=QUEUES,
            engines=[EngineReport("small", "e0", up=True, max_num_seqs=CAPACITY)],
            leave=leave,
            peers=peers,
        )

    async def granted(self, name: str) -> bool:
        """Whether a new request runs at once."""
        reply = await self[name].admit(ask())
        assert isinstance(reply, Admitted)
        return bool(reply.engine)

    async def tell(self, name: str, *, peers: int = 3, runs: int = 0) -> float:
        """Come back to the store as :class:`Admission` does. For so many seconds it stays quiet."""
        await self.renew(name, peers=peers)
        for _ in range(runs):
            await self[name].send_adopt(ask(), "small", "e0")
        return (await self.renew(name)).quiet_s


@pytest.fixture
async def pool(valkey: redis.Redis, valkey_server: str) -> AsyncIterator[Pool]:
    link = Link(valkey_server)
    pool = Pool(link)
    for name in ("g0", "g1", "g2"):
        await pool.renew(name)
    pool.now += OUTAGE_S
    yield pool
    await link.close()


@pytest.mark.parametrize("empty", [False, True], ids=["keeps its state", "comes back empty"])
async def test_the_last_one_to_tell_ends_the_quiet(pool, valkey, empty):
    if empty:
        valkey.flushall()
    assert await pool.tell("g0", runs=1) == LEASE_S
    assert not await pool.granted("g0")
    pool.now += 2.0  # far longer than a beat: the third is slow, not dead
    assert await pool.tell("g1", runs=1) > 0
    assert not await pool.granted("g1")
    assert await pool.tell("g2", runs=1) == 0
    lanes = (await pool.renew("g0")).statistics.lanes
    assert (lanes["small"].running, lanes["small"].waiting) == (CAPACITY, 2)


async def test_what_comes_free_meanwhile_is_not_given_away(pool):
    held = ask()
    await pool.renew("g0")
    await pool["g0"].admit(held)
    pool.now += OUTAGE_S
    await pool.tell("g0")
    assert not await pool.granted("g1")
    await pool["g0"].settle(held.id, Served())
    assert not await pool.granted("g1")


async def test_one_that_tells_again_is_waited_for_again(pool):
    await pool.tell("g0")
    await pool.tell("g1")
    await pool.renew("g1", peers=3)
    await pool.renew("g2", peers=3)
    assert (await pool.renew("g2")).quiet_s > 0
    assert (await pool.renew("g1")).quiet_s == 0


async def test_one_that_stays_away_is_waited_for_as_long_as_a_lease(pool):
    await pool.tell("g0")
    await pool.tell("g1")
    assert not await pool.granted("g0")
    for _ in range(5):
        pool.now += LEASE_S / 5 - 0.01
        assert (await pool.renew("g0")).quiet_s > 0
    pool.now += 0.1
    renewed = await pool.renew("g0")
    assert (renewed.quiet_s, len(set(renewed.grants))) == (0, 1)


async def test_one_that_leaves_has_nothing_to_tell(pool):
    await pool.tell("g0")
    await pool.tell("g1")
    await pool.renew("g2", leave=True)
    assert await pool.granted("g0")


async def test_one_that_never_noticed_has_nothing_to_tell(pool):
    await pool.tell("g0")
    await pool.tell("g1")
    assert (await pool.renew("g2")).quiet_s == 0
    assert await pool.granted("g0")


async def test_a_new_one_does_not_stand_for_one_that_is_missing(pool):
    await pool.tell("g0")
    await pool.tell("g1")
    await pool.renew("g3")
    assert (await pool.renew("g3")).quiet_s > 0
    assert not await pool.granted("g0")


async def test_one_alone_waits_for_nobody(pool):
    assert await pool.tell("g0", peers=1) == 0
    assert await pool.granted("g0")
