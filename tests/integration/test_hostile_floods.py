"""A flood of names: what distinct users and interactions cost the store, and that it is bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
import redis
from support.ledger_driver import POOL, PREFIX, LedgerDriver

from fairgate.admission.ledger import STATE_TTL_S, Ledger
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Served

IDENTITIES = int(os.environ.get("FAIRGATE_IDENTITIES", "4000"))
"""Distinct users, then interactions. Measure with: FAIRGATE_IDENTITIES=100000 pytest -s FILE."""
MOST_BYTES = 400
"""That one user or one interaction costs the store."""
MOST_USERS = 100_000
"""Of one tenant that the store keeps apart; see accounts.lua."""
AT_ONCE = 500


@pytest.fixture
def driver(valkey_server: str) -> Iterator[LedgerDriver]:
    it = LedgerDriver(valkey_server, engines=(EngineReport("small", "e0", True, 2 * AT_ONCE),))
    yield it
    it.close()


def serve_all(url: str, asks: Iterator[Ask]) -> None:
    """Admit and settle ``asks``, many in one pipeline, as a gateway under load does."""

    async def one(ledger: Ledger, ask: Ask) -> None:
        await ledger.admit(ask)
        await ledger.settle(ask.id, Served(cost=1.0, tokens=1, void=False))

    async def run() -> None:
        link = Link(url, timeout_s=60.0)
        ledger = Ledger(link, POOL, "g0", clock=lambda: 1_700_000_000.0)
        try:
            while batch := [ask for _, ask in zip(range(AT_ONCE), asks, strict=False)]:
                await asyncio.gather(*(one(ledger, ask) for ask in batch))
        finally:
            await link.close()

    asyncio.run(run())


def asks(count: int, *, interactions: bool) -> Iterator[Ask]:
    for i in range(count):
        name = f"{i:032x}"  # as long as the digests that clients' ids become
        yield Ask(
            id=f"r{i}", tenant="acme", user="u" if interactions else name, app="chat",
            lanes=(("small", 1.0),), cost=1.0, tokens=1, kv_tokens=1,
            interaction=name if interactions else "",
        )  # fmt: skip


def memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


@pytest.mark.parametrize("kind", ["user", "interaction"])
def test_each_name_costs_little_and_goes_again(
    driver: LedgerDriver, valkey_server: str, kind: str
) -> None:
    before = memory(driver.client)
    serve_all(valkey_server, asks(IDENTITIES, interactions=kind == "interaction"))
    each = (memory(driver.client) - before) / IDENTITIES
    print(f"\n{kind}: {each:.0f} bytes each, {each:.0f} MB a million, {IDENTITIES} measured")
    keys = list(driver.client.scan_iter(f"{PREFIX}{kind}:*", count=10_000))
    assert len(keys) == IDENTITIES
    assert each < MOST_BYTES
    assert all(0 < driver.client.pttl(key) <= STATE_TTL_S * 1000 for key in keys[:1000])
    others = {key.split(":")[2] for key in driver.client.scan_iter(f"{PREFIX}*", count=10_000)}
    assert "request" not in others  # nothing is left of the requests themselves


def test_users_beyond_the_most_share_one_account(driver: LedgerDriver) -> None:
    for first in range(0, MOST_USERS + 5000, 5000):
        driver.client.pfadd(f"{PREFIX}users:acme", *(f"x{i}" for i in range(first, first + 5000)))
    for i in range(50):
        driver.admit(f"r{i}", user=f"new-{i}")
        driver.settle(f"r{i}")
    driver.admit("calm", tenant="globex", user="ann")
    users = {
        key.removeprefix(f"{PREFIX}user:") for key in driver.client.scan_iter(f"{PREFIX}user:*")
    }
    assert users == {"acme:~", "globex:ann"}
    assert float(driver.record("user", "acme:~")["rc"]) == 50  # their limits hold for all of them


def test_a_known_user_stays_itself_in_a_crowd(driver: LedgerDriver) -> None:
    driver.admit("first", user="ann")
    for first in range(0, MOST_USERS + 5000, 5000):
        driver.client.pfadd(f"{PREFIX}users:acme", *(f"x{i}" for i in range(first, first + 5000)))
    driver.admit("second", user="ann")
    assert float(driver.record("user", "acme:ann")["rc"]) == 2
    assert 0 < driver.client.pttl(f"{PREFIX}users:acme") <= STATE_TTL_S * 1000
