"""Engines that others run, and those that fairgate runs: real sockets, real processes."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from fairgate import config
from fairgate.child import Command, open_log
from fairgate.engines import build_engine
from fairgate.engines.base import Engine, EngineStatus
from fairgate.engines.http import HttpEngine
from fairgate.engines.http_client import HttpClient
from fairgate.engines.probe import Metrics, parse_metrics, probe
from fairgate.engines.process import Patience, Restarts, SpawnedEngine, free_port
from fairgate.engines.vllm import vllm_command
from fairgate.errors import EngineStartError

Answer = Callable[[web.Request], Awaitable[web.Response]]

VLLM_METRICS = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{_block_size_resolved="True",block_size="128",engine="0",\
hash_block_size="None",kv_cache_size_tokens="93184",num_gpu_blocks="728"} 1.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="m"} 0.0
"""

PYTHON = (sys.executable, "-ISc")

# An engine in few lines: it answers, and has a child of its own that outlives it if let alone.
FAKE = """
import signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"])
print("fake engine on", sys.argv[1], flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# A gateway that starts one engine and tells its process group.
GATEWAY = """
import asyncio, os, sys
from pathlib import Path
from fairgate.child import Command
from fairgate.engines.http_client import HttpClient
from fairgate.engines.process import SpawnedEngine
async def main():
    def command(port):
        return Command((sys.executable, "-ISc", sys.argv[1], str(port)), os.environ)
    async with HttpClient() as http:
        engine = SpawnedEngine("e", command, http, Path(sys.argv[2]))
        await engine.start()
        print(engine.process_group, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as made:
        yield made


@asynccontextmanager
async def served(**answers: Answer) -> AsyncIterator[str]:
    """Serve each answer under its path, ``v1_models`` standing for ``/v1/models``."""
    app = web.Application()
    for path, answer in answers.items():
        app.router.add_get("/" + path.replace("_", "/"), answer)
    async with TestServer(app, skip_url_asserts=True) as server:
        yield str(server.make_url("")).rstrip("/")


def said(text: bytes = b"", *, status: int = 200, content_type: str = "application/json") -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=text, status=status, content_type=content_type)

    return answer


def alive(group: int) -> list[int]:
    """Processes of a group that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


async def eventually(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not met():  # noqa: ASYNC110 - the state of processes comes with no event
            await asyncio.sleep(0.02)


async def status_that(engine: Engine, meets: Callable[[EngineStatus], bool]) -> EngineStatus:
    """Probe until the status meets a condition."""
    async with asyncio.timeout(20):
        while not meets(status := await engine.probe()):  # noqa: ASYNC110 - it has to be asked
            await asyncio.sleep(0.02)
    return status


def fake(*arguments: str) -> Callable[[int], Command]:
    return lambda port: Command((*PYTHON, FAKE, str(port), *arguments), os.environ)


def running(code: str) -> Callable[[int], Command]:
    return lambda _: Command((*PYTHON, code), os.environ)


@pytest.fixture
async def spawned(http: HttpClient, tmp_path: Path) -> AsyncIterator[Callable[..., SpawnedEngine]]:
    """Make engines; all are stopped at the end of the test."""
    engines: list[SpawnedEngine] = []

    def make(
        command: Callable[[int], Command],
        *,
        port: int | None = None,
        start_s: float = 20,
        grace_s: float = 5,
    ) -> SpawnedEngine:
        engine = SpawnedEngine(
            "e",
            command,
            http,
            tmp_path / "logs" / "e.log",
            port=port,
            patience=Patience(start_s, grace_s),
            restarts=Restarts(first_s=0.01, longest_s=0.05),
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.stop()


class TestMetrics:
    def test_vllm(self) -> None:
        assert parse_metrics(VLLM_METRICS) == Metrics(3, 2, 0.25, 93184)

    def test_ranks_add_up_and_the_fullest_counts(self) -> None:
        second = VLLM_METRICS.replace(b'engine="0"', b'engine="1"').replace(b"0.25", b"0.75")
        assert parse_metrics(VLLM_METRICS + second) == Metrics(6, 4, 0.75, 2 * 93184)

    def test_older_versions(self) -> None:
        text = (
            b'vllm:gpu_cache_usage_perc{model_name="m"} 1e-1\r\n'
            b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
        )
        assert parse_metrics(text) == Metrics(kv_cache_usage=0.1, kv_cache_tokens=1600)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"<html>not found</html>",
            b"vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc nothing\n",
            b'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0',
            b'vllm:cache_config_info{block_size="16',
            b"xvllm:num_requests_running 3",
        ],
    )
    def test_absent_or_malformed_is_not_told(self, text: bytes) -> None:
        assert parse_metrics(text) == Metrics()


async def test_a_probe_follows_no_redirect(http: HttpClient) -> None:
    """Whoever answers in an engine's place could send its key, and our trust, anywhere."""
    async with served(health=said()) as inside:

        async def elsewhere(_: web.Request) -> web.Response:
            raise web.HTTPFound(f"{inside}/health")

        async with served(health=elsewhere) as url:
            status = await probe(http.session, url, {})
    assert not status.up
    assert status.detail == "GET /health: HTTP 302"


class TestProbe:
    async def test_vllm(self, http: HttpClient) -> None:
        models = b'{"object":"list","data":[{"id":"m","max_model_len":4096},{"id":"lora"}]}'
        answers = {"v1_models": said(models), "metrics": said(VLLM_METRICS)}
        async with served(health=said(), **answers) as url:
            status = await probe(http.session, url, {})
        assert status.up
        assert status.models == ("m", "lora")
        assert status.context_tokens == 4096
        assert status.kv_cache_tokens == 93184
        assert (status.num_requests_running, status.num_requests_waiting) == (3, 2)

    async def test_a_server_that_only_lists_models_is_up(self, http: HttpClient) -> None:
        async with served(v1_models=said(b'{"data":[{"id":"m"}]}')) as url:
            status = await probe(http.session, url, {})
        assert status.up
        assert status.models == ("m",)
        assert status.kv_cache_tokens is None

    async def test_a_dead_engine_behind_a_live_server_is_down(self, http: HttpClient) -> None:
        async with served(health=said(status=503), v1_models=said(b'{"data":[]}')) as url:
            status = await probe(http.session, url, {})
        assert not status.up
        assert status.detail == "GET /health: HTTP 503"

    async def test_what_is_no_model_list_is_ignored(self, http: HttpClient) -> None:
        async with served(health=said(), v1_models=said(b'{"data":[{"name":1}]}')) as url:
            status = await probe(http.session, url, {})
        assert status.up
        assert status.models == ()

    async def test_nobody_listens(self, http: HttpClient) -> None:
        status = await probe(http.session, f"http://127.0.0.1:{free_port()}", {})
        assert not status.up
        assert "connect" in status.detail.lower()

    async def test_a_hanging_server_is_given_up(self, http: HttpClient) -> None:
        async def hang(_: web.Request) -> web.Response:
            await asyncio.sleep(60)
            return web.Response()

        async with served(health=hang) as url:
            status = await probe(http.session, url, {}, timeout_s=0.1)
        assert not status.up
        assert status.detail == "GET /health: no answer within 0.1 s"

    async def test_asks_for_plain_bodies(self, http: HttpClient) -> None:
        async def compressing(request: web.Request) -> web.Response:
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                headers = {"Content-Encoding": "gzip"}
                return web.Response(body=gzip.compress(VLLM_METRICS), headers=headers)
            return web.Response(body=VLLM_METRICS)

        async with served(health=said(), metrics=compressing) as url:
            assert (await probe(http.session, url, {})).kv_cache_tokens == 93184


class TestHttpEngine:
    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    async def test_url_is_the_base(self, http: HttpClient, suffix: str) -> None:
        engine = HttpEngine("e", config.HttpEngine(url=f"http://h:1/api{suffix}"), http)
        assert engine.url == "http://h:1/api"

    async def test_sends_its_key(self, http: HttpClient) -> None:
        async def guarded(request: web.Request) -> web.Response:
            known = request.headers.get("Authorization") == "Bearer secret"
            return web.Response(text='{"data":[]}', status=200 if known else 401)

        async with served(v1_models=guarded) as url:
            engines = [
                HttpEngine("e", config.HttpEngine(url=url, api_key=key), http)
                for key in ("secret", None)
            ]
            assert [(await engine.probe()).up for engine in engines] == [True, False]

    async def test_start_and_stop_touch_nothing(self, http: HttpClient) -> None:
        async with served(health=said()) as url:
            engine: Engine = HttpEngine("e", config.HttpEngine(url=url), http)
            await engine.start()
            await engine.stop()
            assert (await engine.probe()).up


Make = Callable[..., SpawnedEngine]


class TestSpawnedEngine:
    async def test_runs_until_stopped(self, spawned: Make, tmp_path: Path) -> None:
        engine = spawned(fake())
        await engine.start()
        group = engine.process_group
        assert group is not None
        assert len(alive(group)) == 3  # guard, engine, and what the engine started
        assert (await engine.probe()).up
        await engine.stop()
        await engine.stop()
        await eventually(lambda: not alive(group))
        assert engine.process_group is None
        assert not (await engine.probe()).up
        assert "fake engine on" in (tmp_path / "logs" / "e.log").read_text()

    async def test_stopped_right_after_its_start(self, spawned: Make) -> None:
        engine = spawned(fake())
        await engine.start()
        group = engine.process_group
        assert group is not None
        await engine.stop()
        await eventually(lambda: not alive(group))

    async def test_a_cancelled_stop_kills_at_once(self, spawned: Make) -> None:
        engine = spawned(fake("deaf"), grace_s=600)
        await engine.start()
        group = engine.process_group
        assert group is not None
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0.1)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await eventually(lambda: not alive(group))

    async def test_may_start_again(self, spawned: Make) -> None:
        engine = spawned(fake())
        for _ in range(2):
            await engine.start()
            assert (await engine.probe()).up
            await engine.stop()

    async def test_is_started_once(self, spawned: Make) -> None:
        engine = spawned(fake())
        await engine.start()
        with pytest.raises(RuntimeError, match="already started"):
            await engine.start()

    async def test_a_crash_is_followed_by_a_restart(self, spawned: Make) -> None:
        engine = spawned(fake())
        await engine.start()
        url, group = engine.url, engine.process_group
        assert group is not None
        os.kill(alive(group)[1], signal.SIGKILL)  # the engine itself: spawned after its guard
        await eventually(lambda: engine.process_group not in (None, group))
        await eventually(lambda: not alive(group))  # SIGKILL takes its time on a busy machine
        await status_that(engine, lambda status: status.up)
        assert engine.url == url

    async def test_survives_the_loss_of_its_guard(self, spawned: Make) -> None:
        engine = spawned(fake())
        await engine.start()
        group = engine.process_group
        assert group is not None
        os.kill(group, signal.SIGKILL)
        await eventually(lambda: engine.process_group not in (None, group))
        await eventually(lambda: not alive(group))  # SIGKILL takes its time on a busy machine

    async def test_probe_tells_why_it_is_away(self, spawned: Make, tmp_path: Path) -> None:
        once = tmp_path / "once"
        code = f"import os, sys; os.path.exists({str(once)!r}) and sys.exit(7)"
        engine = spawned(lambda port: Command((*PYTHON, code + FAKE, str(port)), {}))
        await engine.start()
        once.touch()
        assert engine.process_group is not None
        os.kill(alive(engine.process_group)[1], signal.SIGKILL)
        status = await status_that(engine, lambda status: "exited with code 7" in status.detail)
        assert not status.up

    async def test_a_crash_loop_slows_down_and_says_so(self, spawned: Make, tmp_path: Path) -> None:
        once = tmp_path / "once"
        code = f"import os, sys; os.path.exists({str(once)!r}) and sys.exit(7)"
        engine = spawned(lambda port: Command((*PYTHON, code + FAKE, str(port)), {}))
        await engine.start()
        once.touch()
        assert engine.process_group is not None
        with capture_logs() as logs:
            os.kill(alive(engine.process_group)[1], signal.SIGKILL)
            await eventually(lambda: len(logs) >= 5)
            once.unlink()
            await eventually(lambda: logs[-1]["event"] == "engine started again")
        crashes = [line for line in logs if line["event"] == "engine ended"]
        assert [line["failures"] for line in crashes] == [*range(1, len(crashes) + 1)]
        assert "was killed by SIGKILL" in crashes[0]["reason"]
        assert "exited with code 7" in crashes[1]["reason"]
        for line, longest_s in zip(crashes, (0.01, 0.02, 0.04, 0.05, 0.05), strict=False):
            assert longest_s / 2 <= line["restart_in_s"] <= longest_s

    async def test_a_failing_start_shows_the_log(self, spawned: Make) -> None:
        engine = spawned(running("import sys; print('no such model: x'); sys.exit(3)"))
        with pytest.raises(EngineStartError, match=r"(?s)exited with code 3.*no such model: x"):
            await engine.start()

    async def test_a_signal_is_named(self, spawned: Make) -> None:
        engine = spawned(running("import os; os.kill(os.getpid(), 9)"))
        with pytest.raises(EngineStartError, match=r"was killed by SIGKILL.*it printed nothing"):
            await engine.start()

    async def test_a_command_that_is_not_there(self, spawned: Make) -> None:
        engine = spawned(lambda _: Command(("/no/such/engine",), {}))
        with pytest.raises(EngineStartError, match="cannot run /no/such/engine"):
            await engine.start()

    async def test_a_start_that_takes_too_long(self, spawned: Make) -> None:
        slow = running("import time; print('loading', flush=True); time.sleep(600)")
        engine = spawned(slow, start_s=0.5)
        with pytest.raises(EngineStartError, match=r"did not answer within 0\.5 s"):
            await engine.start()
        group = engine.process_group
        assert group is None or not alive(group)

    async def test_a_cancelled_start_leaves_nothing(self, spawned: Make) -> None:
        engine = spawned(running("import time; time.sleep(600)"))
        starting = asyncio.create_task(engine.start())
        await eventually(lambda: len(alive(engine.process_group or -1)) == 2)
        group = engine.process_group or -1
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await eventually(lambda: not alive(group))

    async def test_sigkill_after_the_grace_period(self, spawned: Make) -> None:
        engine = spawned(fake("deaf"), grace_s=0.3)
        await engine.start()
        group = engine.process_group
        assert group is not None
        await engine.stop()
        await eventually(lambda: not alive(group))

    async def test_a_taken_port_is_said_to_be_taken(self, spawned: Make) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            engine = spawned(fake(), port=taken.getsockname()[1])
            with pytest.raises(EngineStartError, match="is taken by another process"):
                await engine.start()

    async def test_ends_with_a_killed_gateway(self, tmp_path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", GATEWAY, FAKE, str(tmp_path / "e.log")),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        group = int(await asyncio.wait_for(process.stdout.readline(), 20))
        assert len(alive(group)) == 3
        process.kill()
        await process.wait()
        await eventually(lambda: not alive(group))

    def test_delays_grow_to_a_bound(self) -> None:
        restarts = Restarts(first_s=1, factor=2, longest_s=60)
        for failures, longest in [(0, 1), (1, 2), (3, 8), (6, 60), (10_000, 60)]:
            assert longest / 2 <= restarts.delay_s(failures) <= longest

    def test_a_large_log_is_set_aside(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("fairgate.child._LOG_KEEP_BYTES", 10)
        log = tmp_path / "e.log"
        assert open_log(log) == 0
        log.write_bytes(b"12345")
        assert open_log(log) == 5
        log.write_bytes(b"x" * 11)
        assert open_log(log) == 0
        assert (tmp_path / "e.log.1").read_bytes() == b"x" * 11


def option(command: Command, name: str) -> str:
    return command.argv[command.argv.index(name) + 1]


class TestVllmCommand:
    def command(self, environ: Mapping[str, str] | None = None, **settings: Any) -> Command:
        engine = config.VllmEngine(**{"model": "org/name", **settings})
        return vllm_command(engine, "small", 8001, environ=environ or {"PATH": "/bin"})

    def test_arguments(self) -> None:
        command = self.command(max_num_seqs=16, priority=True, args=("--max-model-len", "4096"))
        assert command.argv[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
        assert option(command, "--model") == "org/name"
        assert option(command, "--served-model-name") == "small"
        assert (option(command, "--host"), option(command, "--port")) == ("127.0.0.1", "8001")
        assert option(command, "--max-num-seqs") == "16"
        assert option(command, "--scheduling-policy") == "priority"
        assert command.argv[-2:] == ("--max-model-len", "4096")

    def test_no_priority_unless_asked_for(self) -> None:
        assert "--scheduling-policy" not in self.command().argv

    def test_hub_is_left_alone_only_for_a_local_model(self, tmp_path: Path) -> None:
        assert self.command(model=str(tmp_path)).env["HF_HUB_OFFLINE"] == "1"
        assert "HF_HUB_OFFLINE" not in self.command().env

    def test_environment_precedence(self) -> None:
        name = "VLLM_CPU_KVCACHE_SPACE"
        assert name in self.command().env
        assert self.command({name: "2"}).env[name] == "2"
        assert self.command({name: "2"}, env={name: "1"}).env[name] == "1"

    def test_tools_of_the_engines_own_environment_are_found(self) -> None:
        command = self.command(python="/opt/vllm/bin/python")
        assert command.argv[0] == "/opt/vllm/bin/python"
        assert command.env["PATH"] == "/opt/vllm/bin:/bin"


class TestBuild:
    def build(self, http: HttpClient, engine: config.Engine, tmp: Path) -> Engine:
        lane = config.Lane(engines=(engine,), model="m")
        return build_engine("small", 2, lane, engine, http, tmp)

    async def test_names(self, http: HttpClient, tmp_path: Path) -> None:
        engines: list[config.Engine] = [
            config.HttpEngine(url="http://h:1"),
            config.VllmEngine(model="x"),
            config.SimulatedEngine(),
        ]
        names = [self.build(http, engine, tmp_path).name for engine in engines]
        assert names == ["small-2"] * 3
        own = config.HttpEngine(url="http://h:1", name="own")
        assert self.build(http, own, tmp_path).name == "own"

    async def test_a_configured_port_is_used(self, http: HttpClient, tmp_path: Path) -> None:
        engine = self.build(http, config.VllmEngine(model="x", port=8123), tmp_path)
        assert engine.url == "http://127.0.0.1:8123"

    async def test_the_simulated_engine_runs(self, http: HttpClient, tmp_path: Path) -> None:
        settings = config.SimulatedEngine(max_num_seqs=4, kv_cache_tokens=8192)
        engine = self.build(http, settings, tmp_path)
        await engine.start()
        try:
            status = await engine.probe()
        finally:
            await engine.stop()
        assert status.up
        assert status.models == ("m",)
        assert status.kv_cache_tokens == 8192
        assert (tmp_path / "small" / "small-2.log").exists()
