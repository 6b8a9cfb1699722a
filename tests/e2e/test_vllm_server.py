"""FairGate inside vLLM's own server: two real servers, one Valkey, real clients and aborts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import openai
import pytest
import yaml
from starlette.types import Message
from support.gateway import (
    LedgerView,
    Program,
    bearer,
    chat,
    config,
    engine_metric,
    eventually,
    key_of,
    long_chat,
    metrics,
    running,
    tenant,
)

from fairgate.config import VllmEngine
from fairgate.engines.process import free_port
from fairgate.engines.vllm import vllm_command

# What vLLM and the libraries under it warn about is not ours.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

SEQS = 2
START_S = 400.0
POOL = "shared"
ROOT = Path(__file__).parents[2]
VLLM_KEY = "the-door-key-of-vllm"


class Server(Program):
    """``python -m vllm.entrypoints.openai.api_server`` with FairGate inside."""

    def __init__(
        self, folder: Path, model: Path, file: Path, *, priority: bool, args: tuple[str, ...]
    ):
        port = free_port()
        # The first middleware is the inner one: it sees what FairGate hands to vLLM.
        middleware = ("--middleware", "support.seen.Seen")
        middleware += ("--middleware", "fairgate.integrations.vllm.FairGate")
        settings = VllmEngine(
            model=str(model),
            max_num_seqs=SEQS,
            priority=priority,
            args=("--enforce-eager", "--max-model-len", "1024", *middleware, *args),
            env={
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "FAIRGATE_CONFIG": str(file),
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            },
        )
        command = vllm_command(settings, "tiny", port)
        log = folder / f"vllm-{port}.log"
        super().__init__(list(command.argv[1:]), port, log, env=command.env)

    def wait_until_up(self) -> None:
        self.wait_for(lambda: "Application startup complete" in self.text(), START_S)

    @property
    def lane(self) -> str:
        """As it calls itself."""
        found = re.search(r"lane=(\S+)", re.sub(r"\x1b\[[0-9;]*m", "", self.text()))
        assert found is not None
        return found[1]


@contextmanager
def ended(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.send(signal.SIGTERM)
        try:
            server.wait()
        finally:
            try:
                os.killpg(server.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # nothing is left of it, as it should be


@dataclass(frozen=True)
class Site:
    """Two servers and their ledger: ``open`` schedules by priority, ``guarded`` has a key."""

    open: Server
    guarded: Server
    ledger: LedgerView


@pytest.fixture(scope="module")
def site(
    smollm2: Path, valkey_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("vllm-server")
    file = folder / "fairgate.yaml"
    settings = config(
        {"chat": {"engines": [{"type": "app"}]}},
        store=valkey_server,
        pool=POOL,
        tenants={
            "acme": tenant("acme"),
            "globex": tenant("globex"),
            "single": tenant("single", limits={"concurrency": 1}),
        },
    )
    file.write_text(yaml.safe_dump(settings))
    with LedgerView(valkey_server, POOL) as ledger, ExitStack() as stack:
        first = stack.enter_context(ended(Server(folder, smollm2, file, priority=True, args=())))
        guarded = Server(folder, smollm2, file, priority=False, args=("--api-key", VLLM_KEY))
        second = stack.enter_context(ended(guarded))
        first.wait_until_up()
        second.wait_until_up()
        yield Site(first, second, ledger)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{site.open.url}/v1", api_key=key_of("acme"), max_retries=0
    ) as made:
        yield made


def both_keys(name: str = "acme") -> dict[str, str]:
    return {"authorization": f"Bearer {VLLM_KEY}", "x-api-key": key_of(name)}


def url_of(server: Server) -> str:
    return f"{server.url}/v1/chat/completions"


async def test_a_chat_is_answered_and_charged_what_vllm_counted(
    site: Site, client: openai.AsyncOpenAI
) -> None:
    before = site.ledger.tokens()
    raw = await client.chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": "What is 17 + 25?"}], max_tokens=16
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    total = answer.usage.total_tokens
    assert raw.headers["x-fairgate-lane"] == site.open.lane
    await eventually(lambda: site.ledger.idle() and site.ledger.tokens() == before + total)


async def test_a_stream_carries_usage_only_if_asked(client: openai.AsyncOpenAI) -> None:
    for asked in (False, True):
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Count to five."}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True} if asked else openai.omit,
        )
        chunks = [chunk async for chunk in stream]
        assert len(chunks) > 5, "part by part"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert [c.usage.completion_tokens for c in chunks if c.usage] == ([12] if asked else [])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_lease_and_vllms_slot(
    site: Site, http: aiohttp.ClientSession, stream: bool
) -> None:
    before = site.ledger.tokens()
    body = long_chat(900, stream=stream)
    post = http.post(url_of(site.open), json=body, headers=bearer())
    if stream:
        async with post as answer:
            assert answer.status == 200
            await answer.content.readuntil(b"\n\n")
            await answer.content.readuntil(b"\n\n")
    else:
        request = asyncio.ensure_future(post)
        await eventually(lambda: running(http, site.open.url))
        request.cancel()
    await eventually(lambda: _none_running(http, site.open.url))
    await eventually(site.ledger.idle)
    charged = site.ledger.tokens() - before
    assert 0 < charged < 900, "it pays for what it got"


async def _none_running(http: aiohttp.ClientSession, url: str) -> bool:
    return not await running(http, url)


async def test_vllms_own_4xx_passes_unchanged(site: Site, http: aiohttp.ClientSession) -> None:
    long = chat("fern " * 2000, max_tokens=8)
    async with http.post(url_of(site.open), json=long, headers=bearer()) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert "1024" in error["message"]
    unknown = chat() | {"model": "no-such-model"}
    async with http.post(url_of(site.open), json=unknown, headers=bearer()) as answer:
        assert answer.status == 404
        assert await answer.json() == {
            "error": {
                "message": "The model `no-such-model` does not exist. Valid aliases: tiny.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
        }
    await eventually(site.ledger.idle)


async def test_its_other_routes_are_untouched(site: Site, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{site.open.url}/health") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert not any(name.lower().startswith("x-") for name in answer.headers)
    async with http.get(f"{site.open.url}/metrics") as answer:
        text = await answer.text()
    assert "vllm:num_requests_running" in text
    assert "fairgate" not in text
    async with http.get(f"{site.open.url}/v1/models") as answer:
        assert (await answer.json())["data"][0]["id"] == "tiny"
    samples = await metrics(http, site.open.url + "/fairgate")
    lane = f"lane={site.open.lane},pool={POOL}"
    assert samples[f"fairgate_lane_limit_sequences{{{lane}}}"] == SEQS, "as vLLM tells itself"


async def test_the_ledger_sets_the_priority_and_the_clients_is_dropped(
    site: Site, http: aiohttp.ClientSession
) -> None:
    bold = chat(max_tokens=2, priority=-1_000_000)
    header = {"X-Vllm-Priority": "-1000000"}

    async def seen(server: Server, headers: dict[str, str]) -> str:
        async with http.post(url_of(server), json=bold, headers=headers | header) as answer:
            assert answer.status == 200, await answer.text()
            return answer.headers["x-seen-priority"]

    first = int(await seen(site.open, bearer("globex")))
    again = int(await seen(site.open, bearer("globex")))
    assert first >= 0
    assert again > first, "who has had more goes later"
    assert await seen(site.guarded, both_keys("globex")) == "none"


@pytest.mark.parametrize("stream", [True, False])
async def test_nobody_passes_the_line_by_another_api(
    site: Site, http: aiohttp.ClientSession, stream: bool
) -> None:
    before = site.ledger.tokens("globex")
    body = chat(max_tokens=40, stream=stream)
    url = f"{site.open.url}/v1/messages"
    async with http.post(url, json=body) as answer:
        assert answer.status == 401
    async with http.post(url, json=body, headers=bearer("globex")) as answer:
        assert answer.status == 200
        assert answer.headers["x-fairgate-lane"] == site.open.lane
        assert await answer.read()
    await eventually(site.ledger.idle)
    charged = site.ledger.tokens("globex") - before
    assert 60 < charged < 400, "40 tokens of weight 2 and a short prompt, about"


async def test_no_more_run_in_vllm_than_it_may(site: Site, http: aiohttp.ClientSession) -> None:
    async def ask(number: int) -> int:
        body = chat(f"Tell me about ferns, part {number}.", max_tokens=24)
        async with http.post(url_of(site.open), json=body, headers=bearer()) as answer:
            await answer.read()
            return answer.status

    asked = asyncio.gather(*(ask(number) for number in range(4 * SEQS)))
    while not asked.done():
        assert await running(http, site.open.url) <= SEQS
        assert await engine_metric(http, site.open.url, "num_requests_waiting") <= SEQS
        await asyncio.sleep(0.05)
    assert await asked == [200] * 4 * SEQS
    await eventually(site.ledger.idle)


async def test_vllms_own_key_comes_first_and_another_tells_the_tenant(
    site: Site, http: aiohttp.ClientSession
) -> None:
    async def post(headers: dict[str, str]) -> tuple[int, Any]:
        body = chat(max_tokens=3)
        async with http.post(url_of(site.guarded), json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    unauthorized = (401, {"error": "Unauthorized"})
    assert await post({}) == unauthorized
    assert await post({"x-api-key": key_of("acme")}) == unauthorized
    assert await post(bearer()) == unauthorized
    status, body = await post({"authorization": f"Bearer {VLLM_KEY}"})
    assert (status, body["error"]["code"]) == (401, "invalid_api_key"), "it names no tenant"
    before = site.ledger.tokens()
    status, body = await post(both_keys())
    assert status == 200
    total = body["usage"]["total_tokens"]
    await eventually(lambda: site.ledger.tokens() == before + total)
    models = f"{site.guarded.url}/v1/models"
    async with http.get(models) as answer:
        assert answer.status == 401
    async with http.get(models, headers=both_keys()) as answer:
        assert answer.status == 200


async def test_two_servers_share_one_ledger_and_keep_their_own_lines(
    site: Site, http: aiohttp.ClientSession
) -> None:
    assert site.open.lane != site.guarded.lane

    async def ask(server: Server, headers: dict[str, str]) -> tuple[int, str]:
        body = chat(max_tokens=16)
        async with http.post(url_of(server), json=body, headers=headers) as answer:
            await answer.read()
            return answer.status, answer.headers["x-fairgate-lane"]

    # More than either can run at once, from two tenants: each is served where it came in.
    at_open = [ask(site.open, bearer(name)) for name in ("acme", "globex") * 3]
    at_guarded = [ask(site.guarded, both_keys(name)) for name in ("acme", "globex") * 3]
    answers = await asyncio.gather(*at_open, *at_guarded)
    assert answers[:6] == [(200, site.open.lane)] * 6
    assert answers[6:] == [(200, site.guarded.lane)] * 6

    # A hard limit counts over both.
    held = http.post(url_of(site.open), json=long_chat(900, stream=True), headers=bearer("single"))
    async with held as answer:
        assert answer.status == 200
        async with http.post(
            url_of(site.guarded), json=chat(), headers=both_keys("single")
        ) as refused:
            assert refused.status == 429
    await eventually(site.ledger.idle)


async def test_a_wrong_configuration_ends_the_start_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairgate.integrations.vllm import FairGate

    file = tmp_path / "fairgate.yaml"
    file.write_text("pools: {main: {lanes: {a: {engines: [{type: app}, {type: app}]}}}}")
    monkeypatch.setenv("FAIRGATE_CONFIG", str(file))
    sent: list[Message] = []

    async def app(*_: Any) -> None:
        raise AssertionError("the server must not start")

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    state = SimpleNamespace(args=SimpleNamespace(port=8000, uds=None), engine_client=None)
    scope = {"type": "lifespan", "app": SimpleNamespace(state=state)}
    await FairGate(app)(scope, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert f"FAIRGATE_CONFIG={file}: pools: expected one pool" in message["message"]
