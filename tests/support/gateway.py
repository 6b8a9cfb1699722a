"""Gateways, simulated engines and a look into their ledger: real processes on the loopback."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import redis
import yaml
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from fairgate.engines.process import free_port
from support.records import read_record

MODEL = "tiny"
POOL = "main"
PATIENCE_S = 20.0
# What a process must never log, whatever happens to it.
_BUGS = ("Traceback", "never retrieved", "never awaited", "was destroyed", "Warning:")


def key_of(tenant: str) -> str:
    """The API key of a tenant made by :func:`tenant`."""
    return f"secret-key-of-{tenant}"


def bearer(tenant: str = "acme", **headers: str) -> dict[str, str]:
    """Headers of a request of that tenant; ``x_fairgate_app`` becomes ``x-fairgate-app``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"authorization": f"Bearer {key_of(tenant)}", **named}


def tenant(name: str, **fields: Any) -> dict[str, Any]:
    """A tenant section with one key."""
    return {"keys": [{"sha256": hashlib.sha256(key_of(name).encode()).hexdigest()}], **fields}


def lane(*urls: str, max_num_seqs: int | None = 4, **fields: Any) -> dict[str, Any]:
    """A lane section over engines that run; they are called ``<lane>-0`` and so on."""
    told = {} if max_num_seqs is None else {"max_num_seqs": max_num_seqs}
    engines = [{"type": "http", "url": url, **told} for url in urls]
    return {"model": MODEL, "engines": engines, **fields}


def config(
    lanes: Mapping[str, Any],
    *,
    store: str = "embedded",
    tenants: Mapping[str, Any] | None = None,
    policy: Any = "fairserve",
    pool: str = POOL,
    **sections: Any,
) -> dict[str, Any]:
    """A configuration whose heartbeats are quick, for one tenant ``acme`` unless told."""
    quick = {"url": store, "heartbeat_s": 0.2, "timeout_s": 0.8}
    return {
        "pools": {pool: {"policy": policy, "lanes": dict(lanes)}},
        "tenants": tenants or {"acme": tenant("acme")},
        "store": {**quick, **sections.pop("store_fields", {})},
        **sections,
    }


def chat(content: str = "Tell me about ferns.", **fields: Any) -> dict[str, Any]:
    """A chat body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def long_chat(tokens: int = 4000, **fields: Any) -> dict[str, Any]:
    """A chat body whose answer takes the simulated engine very long."""
    return chat(max_tokens=tokens, ignore_eos=True, **fields)


class Program:
    """A process of ours that serves ``url``; what it prints goes to ``log``."""

    def __init__(
        self,
        argv: list[str],
        port: int,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**env, "PYTHONWARNINGS": "default"},
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        until = time.monotonic() + within_s
        while not condition():
            assert self.process.poll() is None, f"it ended at once:\n{self.text()}"
            assert time.monotonic() < until, f"it is not ready:\n{self.text()}"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it if it still runs; its exit status."""
        if self.process.poll() is None:
            self.send(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it did not end:\n{self.text()}") from None


class Gateway(Program):
    """``fairgate serve``."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any] | None, *options: str, cwd: Path | None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "fairgate.yaml"
        port = free_port()
        argv = ["-m", "fairgate.cli", "serve", "--port", str(port), *options]
        if settings is not None:
            self.write(settings)
            argv += ["--config", str(self.file)]
        super().__init__([*argv, "--log-dir", str(folder)], port, folder / "gateway.log", cwd)

    def write(self, settings: Mapping[str, Any] | str) -> None:
        """Replace the configuration file in one step."""
        text = (
            settings
            if isinstance(settings, str)
            else yaml.safe_dump(dict(settings), sort_keys=False)
        )
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def logs(self, event: str = "") -> list[dict[str, Any]]:
        """Its log lines, of one event if named."""
        lines = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [line for line in lines if not event or line["event"] == event]

    def bugs(self, not_ours: tuple[str, ...] = ()) -> list[str]:
        """Lines of its log that no outside event excuses, but for those with ``not_ours`` in."""
        suspect = (line for line in self.text().splitlines() if any(bug in line for bug in _BUGS))
        return [line for line in suspect if not any(words in line for words in not_ours)]


@contextmanager
def gateway(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *options: str,
    ready: bool = True,
    ready_within_s: float = PATIENCE_S,
    cwd: Path | None = None,
    not_ours: tuple[str, ...] = (),
) -> Iterator[Gateway]:
    """A gateway that is ready (or at least listens). In the end it must leave cleanly.

    A test that ended it by itself has looked at how.
    """
    it = Gateway(folder, settings, *options, cwd=cwd)
    try:
        it.wait_for(
            lambda: "ready http" in it.text() if ready else _listens(it.url), ready_within_s
        )
        yield it
    finally:
        by_itself = it.process.poll() is not None
        code = it.stop()
    assert by_itself or code == 0, it.text()[-4000:]
    assert not it.bugs(not_ours), it.text()[-4000:]


def _listens(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=1):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


class SimulatedEngine(Program):
    """``python -m fairgate.engines.simulated``."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        port = port or free_port()
        argv = ["-m", "fairgate.engines.simulated", "--port", str(port), "--model", MODEL]
        super().__init__([*argv, *options], port, folder / f"engine-{port}.log")
        self.wait_for(lambda: "Uvicorn running" in self.text())

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


@contextmanager
def engine(folder: Path, *options: str, port: int | None = None) -> Iterator[SimulatedEngine]:
    """A simulated engine that answers; ``options`` are those of its command line."""
    it = SimulatedEngine(folder, *options, port=port)
    try:
        yield it
    finally:
        it.stop()


async def metrics(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Every sample of a Prometheus endpoint, by name and labels: ``name{a=b,c=d}``."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return {
        _sample_name(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _sample_name(name: str, labels: Mapping[str, str]) -> str:
    told = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name


async def engine_metric(http: aiohttp.ClientSession, url: str, name: str) -> float:
    """One of vLLM's metrics, over all labels."""
    samples = await metrics(http, url)
    return sum(v for k, v in samples.items() if k.partition("{")[0] == f"vllm:{name}")


async def running(http: aiohttp.ClientSession, url: str) -> float:
    """Sequences that the engine runs now."""
    return await engine_metric(http, url, "num_requests_running")


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = PATIENCE_S
) -> Any:
    """Wait until ``condition`` gives something true, and return it."""
    until = time.monotonic() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < until, "the condition never came true"
        await asyncio.sleep(0.01)


class LedgerView:
    """What the ledger of a pool holds, read from outside."""

    def __init__(self, url: str, pool: str = POOL, *, wipe: bool = True) -> None:
        """``wipe``: begin with nothing of the pool; none of its gateways may be running."""
        self._wipe = wipe
        self._redis = redis.Redis.from_url(url, decode_responses=True)
        self._prefix = f"fg:{{{pool}}}:"

    def __enter__(self) -> Self:
        if self._wipe and (keys := list(self._redis.scan_iter(f"{self._prefix}*"))):
            self._redis.delete(*keys)
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def record(self, kind: str, name: str) -> dict[str, Any]:
        """One record, such as ``tenant`` / ``acme``."""
        return read_record(self._redis, self._prefix, kind, name)

    def number(self, kind: str, name: str, field: str) -> float:
        return float(self.record(kind, name).get(field) or 0)

    def service(self, name: str = "acme") -> float:
        """The tenant's counter."""
        return self.number("tenant", name, "s")

    def requests(self, name: str = "acme") -> float:
        """What its request limit counts, in this minute and the one before."""
        return self.number("tenant", name, "rc") + self.number("tenant", name, "rp")

    def tokens(self, name: str = "acme") -> float:
        """Tokens charged to the tenant today."""
        return self.number("tenant", name, "du")

    def waiting(self) -> float:
        """Requests in the pool's lines."""
        return sum(self.number("lane", name, "waiting") for name in self._names("lane"))

    def in_use(self) -> dict[str, float]:
        """Sequences reserved, requests held and in line; empty when nothing is."""
        found: dict[str, float] = {}
        for kind in ("engine", "lane"):
            for name in self._names(kind):
                fields = ("seqs", "kv") if kind == "engine" else ("waiting",)
                found |= {f"{kind}:{name} {f}": self.number(kind, name, f) for f in fields}
        for kind in ("held", "waiting"):
            found |= dict.fromkeys(self._keys(kind), 1.0)
        for name in self._names("request"):  # a swept one holds nothing but its estimate's charge
            found[f"request:{name}"] = float(self.record("request", name).get("state") != "swept")
        for name in self._names("tenant"):
            found[f"tenant:{name} flight"] = self.number("tenant", name, "flight")
        return {key: value for key, value in found.items() if value}

    def idle(self) -> bool:
        return not self.in_use()

    def _keys(self, kind: str) -> list[str]:
        return sorted(self._redis.scan_iter(f"{self._prefix}{kind}:*"))

    def _names(self, kind: str) -> list[str]:
        return [key.removeprefix(f"{self._prefix}{kind}:") for key in self._keys(kind)]


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeEngine:
    """A server that answers as a test tells it, on the test's own loop. Tells no capacity."""

    def __init__(self, answer: Answer, model: str) -> None:
        self.answer = answer
        self.model = model
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{path:.*}", self._post)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        )

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        return await self.answer(request)


@asynccontextmanager
async def fake_engine(
    port: int, answer: Answer, *, model: str = MODEL
) -> AsyncIterator[FakeEngine]:
    """A fake engine on ``port``."""
    it = FakeEngine(answer, model)
    runner = web.AppRunner(it.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield it
    finally:
        await runner.cleanup()
