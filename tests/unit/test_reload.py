"""Reloading the configuration: what changes live, what waits for a restart, what is refused."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from fairgate.config import Config, SimulatedEngine
from fairgate.config.reading import load, loads
from fairgate.reload import ConfigWatcher, restart_needed

BASE = """
pools: {main: {policy: POLICY, lanes: {small: {engines: [{type: simulated}]}}}}
tenants: {acme: {weight: WEIGHT}}
server: {port: PORT}
"""


def text(*, weight: object = 1, policy: str = "fairserve", port: int = 8080) -> str:
    named = {"WEIGHT": weight, "POLICY": policy, "PORT": port}
    result = BASE
    for name, value in named.items():
        result = result.replace(name, str(value))
    return result


def config(source: str) -> Config:
    return loads(source, source="test", environ={})


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


class Site:
    """A file, a watcher on it, and what the watcher applied."""

    def __init__(self, path: Path, *, poll_s: float = 0.01) -> None:
        self.path = path
        self.path.write_text(text())
        self.applied: list[Config] = []
        self.news = asyncio.Event()
        self.watcher = ConfigWatcher(
            path, lambda: load(path), load(path), self._apply, poll_s=poll_s
        )

    def _apply(self, new: Config) -> None:
        self.applied.append(new)
        self.news.set()

    def replace(self, content: str) -> None:
        """As editors and Kubernetes do: a new file takes the place of the old one."""
        other = self.path.with_suffix(".new")
        other.write_text(content)
        other.replace(self.path)

    async def next_applied(self) -> Config:
        async with asyncio.timeout(10):
            await self.news.wait()
        self.news.clear()
        return self.applied[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watcher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "fairgate.yaml")


async def until(logs: list[Any], event: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            for entry in logs:
                if entry["event"] == event:
                    return entry
            await asyncio.sleep(0.005)


async def test_good_file_is_applied(site: Site, logs: list[Any]) -> None:
    site.path.write_text(text(weight=3, policy="vtc"))
    assert await site.watcher.reload() is True
    assert site.applied == [config(text(weight=3, policy="vtc"))]
    assert site.watcher.config == site.applied[0]
    assert [entry["event"] for entry in logs] == ["config_reloaded"]


async def test_bad_file_keeps_the_old_one_and_says_why(site: Site, logs: list[Any]) -> None:
    site.path.write_text(text(weight=0))
    assert await site.watcher.reload() is False
    assert site.applied == []
    assert site.watcher.config == config(text())
    assert (logs[0]["event"], logs[0]["log_level"]) == ("config_rejected", "error")
    assert logs[0]["problems"] == ["tenants.acme.weight: expected a number > 0, got 0"]


async def test_unchanged_file_is_not_applied(site: Site) -> None:
    assert await site.watcher.reload() is True
    assert site.applied == []


async def test_what_needs_a_restart_is_named_and_left(site: Site, logs: list[Any]) -> None:
    site.path.write_text(text(weight=3, port=9000))
    assert await site.watcher.reload() is True
    assert site.applied == [config(text(weight=3))]
    assert logs[0]["event"] == "config_needs_restart"
    assert logs[0]["ignored"] == ["server"]


async def test_a_failing_consumer_leaves_the_old_one(tmp_path: Path, logs: list[Any]) -> None:
    path = tmp_path / "fairgate.yaml"
    path.write_text(text(weight=2))

    def fail(_: Config) -> None:
        raise RuntimeError("no")

    watcher = ConfigWatcher(path, lambda: load(path), config(text()), fail)
    assert await watcher.reload() is False
    assert watcher.config == config(text())
    assert logs[0]["event"] == "config_not_applied"


async def test_watches_writes_and_replacements(site: Site) -> None:
    async with site.running():
        site.path.write_text(text(weight=2))
        assert (await site.next_applied()).tenants["acme"].weight == 2
        site.replace(text(weight=3))
        assert (await site.next_applied()).tenants["acme"].weight == 3


async def test_survives_a_bad_and_a_missing_file(site: Site, logs: list[Any]) -> None:
    async with site.running():
        site.path.write_text("pools: [")
        await until(logs, "config_rejected")
        logs.clear()
        site.path.unlink()
        entry = await until(logs, "config_rejected")
        assert entry["problems"] == ["cannot be read: No such file or directory"]
        site.path.write_text(text(weight=5))
        assert (await site.next_applied()).tenants["acme"].weight == 5
    assert len(site.applied) == 1


async def test_change_from_before_the_watch_counts(site: Site) -> None:
    site.path.write_text(text(weight=4))
    async with site.running():
        assert (await site.next_applied()).tenants["acme"].weight == 4


async def test_sighup_reloads_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path / "fairgate.yaml", poll_s=3600)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, site.watcher.request_reload)
    try:
        async with site.running():
            site.path.write_text(text(weight=2))
            os.kill(os.getpid(), signal.SIGHUP)
            assert (await site.next_applied()).tenants["acme"].weight == 2
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (text(), []),
        (text(weight=2, policy="fcfs") + "apps: {chat: {}}\nanonymous: acme", []),
        (text(port=1) + "store: {url: 'redis://h'}", ["server", "store"]),
        (text() + "timeouts: {idle_s: 5}\nmax_choices: 3", ["timeouts", "max_choices"]),
        (text().replace("simulated", "simulated, seed: 2"), ["pools.main.lanes.small"]),
        (text().replace("simulated", "simulated, drained: true"), []),
        (text().replace("{engines", "{price: 3, queue: {max_waiting: 9}, engines"), []),
        (text().replace("simulated", "simulated, max_num_seqs: 2"), ["pools.main.lanes.small"]),
        (text() + f"admin: {{keys: [{{sha256: {'a' * 64}}}]}}", ["admin"]),
        (text() + "usage: {}", ["usage"]),
        (text().replace("small", "big"), ["pools.main.lanes.big", "pools.main.lanes.small"]),
        (text().replace("main", "next"), ["pools.main", "pools.next"]),
    ],
)
def test_restart_needed(new: str, expected: list[str]) -> None:
    assert restart_needed(config(text()), config(new)) == expected


async def test_what_can_change_of_lanes_is_taken_up_and_the_rest_left(site: Site) -> None:
    changed = text().replace("{engines", "{price: 3, context_tokens: 9, headroom: 0.5, engines")
    site.path.write_text(changed.replace("simulated", "simulated, drained: true, seed: 4"))
    assert await site.watcher.reload() is True
    lane = site.applied[0].pools["main"].lanes["small"]
    assert (lane.price, lane.headroom, lane.context_tokens) == (3, 0.5, None)
    (engine,) = lane.engines
    assert isinstance(engine, SimulatedEngine)
    assert (engine.drained, engine.seed) == (True, 0)


async def test_an_admin_key_can_be_taken_out_of_the_file(tmp_path: Path) -> None:
    path, key = tmp_path / "fairgate.yaml", f"{{sha256: {'a' * 64}}}"
    path.write_text(text() + f"admin: {{keys: [{key}], site: here}}")
    applied: list[Config] = []
    watcher = ConfigWatcher(path, lambda: load(path), load(path), applied.append)
    path.write_text(text() + "admin: {site: elsewhere}")
    assert await watcher.reload() is True
    assert (applied[0].admin.keys, applied[0].admin.site) == ((), "here")
