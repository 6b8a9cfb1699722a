"""FairGate mounted in each framework: the ``openai`` client streams, two tenants contend."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from support.gateway import LedgerView, Program, eventually, key_of, tenant
from support.mounted import app_config, serving

FRAMEWORKS = ("starlette", "fastapi", "litestar", "quart")
TOKENS = 20
ANSWERS = 90
WORKERS = 8


@pytest.fixture(params=FRAMEWORKS)
def app(request: pytest.FixtureRequest, tmp_path: Path, valkey_server: str) -> Iterator[Program]:
    """Four sequences; ``heavy`` has twice the weight of ``light``."""
    tenants = {"heavy": tenant("heavy", weight=2), "light": tenant("light")}
    config = app_config(valkey_server, {"app": 4}, tenants)
    target = f"support.framework_apps:{request.param}"
    with serving(tmp_path, target, config, factory=True) as it:
        yield it


@pytest.fixture(autouse=True)
def ledger(valkey_server: str) -> Iterator[LedgerView]:
    with LedgerView(valkey_server) as view:
        yield view


def client_of(app: Program, name: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key_of(name), base_url=f"{app.url}/v1", max_retries=0)


async def ask(client: openai.AsyncOpenAI) -> str:
    """One streamed answer."""
    stream = await client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=TOKENS,
        stream=True,
    )
    return " ".join([event.choices[0].delta.content or "" async for event in stream])


async def test_streams_to_the_openai_client_and_charges_what_the_handler_reports(
    app: Program, ledger: LedgerView
) -> None:
    async with client_of(app, "light") as client:
        assert await ask(client) == "light" + " word" * (TOKENS - 1)
    await eventually(ledger.idle)
    assert ledger.service("light") == pytest.approx(3 + 2 * TOKENS)
    assert ledger.tokens("light") == 3 + TOKENS


async def test_an_unknown_key_never_reaches_the_app(app: Program) -> None:
    async with client_of(app, "stranger") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask(client)
    assert refused.value.code == "invalid_api_key"


async def test_two_contending_tenants_get_their_shares(app: Program, ledger: LedgerView) -> None:
    answered: Counter[str] = Counter()

    async def keep_asking(client: openai.AsyncOpenAI, name: str) -> None:
        while answered.total() < ANSWERS:
            await ask(client)
            if answered.total() < ANSWERS:
                answered[name] += 1

    async with (
        client_of(app, "heavy") as heavy,
        client_of(app, "light") as light,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(WORKERS):
            group.create_task(keep_asking(heavy, "heavy"))
            group.create_task(keep_asking(light, "light"))
    # Two thirds and one third, to within what runs at once on either side of the window.
    assert answered["heavy"] == pytest.approx(ANSWERS * 2 / 3, abs=8)
    await eventually(ledger.idle)
