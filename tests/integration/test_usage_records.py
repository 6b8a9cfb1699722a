"""Usage records: one line for each request that was charged, and sums that are the ledger's own."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import structlog
from support.ledger_driver import LEASE_S, LedgerDriver
from typer.testing import CliRunner

from fairgate.admission.model import Served
from fairgate.billing.export import Format
from fairgate.billing.files import UsageFiles
from fairgate.billing.note import Status, note
from fairgate.billing.reader import BEGIN, UsageReader
from fairgate.billing.records import UsageRecord, decode
from fairgate.billing.sums import Sums
from fairgate.cli import app
from fairgate.config import Policy

POOL = "test"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def driver(valkey_server: str) -> Iterator[LedgerDriver]:
    """Two gateways of a pool that keeps records; nobody is lifted, so counters are plain sums."""
    it = LedgerDriver(
        valkey_server, policy=Policy(preset="fcfs"), gateways=("g0", "g1"), usage_records=1000
    )
    yield it
    it.close()


def served(status: Status, cost: float, tokens: int, **fields: Any) -> dict[str, Any]:
    plain = Served(cost=cost, tokens=tokens, **fields)
    told = note(status, key="k1", model="m", request_id="r", served=plain, queue_s=0.5)
    return {"cost": cost, "tokens": tokens, "record": told, **fields}


def records(driver: LedgerDriver) -> list[UsageRecord]:
    return driver._run(lambda: _all(UsageReader(driver.link, POOL)))


async def _all(reader: UsageReader) -> list[UsageRecord]:
    return (await reader.page(BEGIN)).records


def agrees(driver: LedgerDriver) -> None:
    """The records of all tenants sum up to what the ledger charged."""
    sums = Sums()
    sums.add(records(driver))
    for found in sums.by_tenant():
        account = driver.record("tenant", found.tenant)
        assert (account["du"], account["s"]) == (found.tokens, found.cost)


def test_a_line_says_what_was_charged_and_for_whom(driver):
    driver.admit("r1", user="ann", interaction="run-7")
    driver.settle("r1", **served("ok", 42.5, 30, prompt_tokens=20, cached_tokens=5))
    (line,) = records(driver)
    assert (line.id, line.request_id, line.tenant, line.user, line.app) == (
        "r1", "r", "acme", "ann", "chat"
    )  # fmt: skip
    assert (line.interaction, line.key, line.lane, line.engine) == ("run-7", "k1", "small", "e0")
    assert (line.prompt_tokens, line.cached_tokens, line.output_tokens) == (20, 5, 10)
    assert (line.tokens, line.cost, line.status, line.queue_ms) == (30, 42.5, "ok", 500.0)
    assert line.at == "2023-11-14T22:13:20.000+00:00"
    agrees(driver)


def test_settling_twice_is_one_line_and_what_was_never_granted_is_none(driver):
    for i in range(3):
        driver.admit(f"r{i}")
    driver.cancel("r2")  # it was in line: two run at most
    driver.cancel("r1")  # it was granted, and not used
    driver.settle("r0", **served("ok", 10, 10))
    driver.settle("r0", **served("ok", 10, 10))
    assert [line.id for line in records(driver)] == ["r0"]
    agrees(driver)


def test_a_try_that_failed_is_none_and_the_last_one_a_line_of_nothing(driver):
    driver.admit("r1")
    driver.settle("r1", cost=0, tokens=0, void=True)
    driver.admit("r1+1", exempt=True)
    driver.settle("r1+1", **served("engine_failed", 0, 0))
    (line,) = records(driver)
    assert (line.id, line.status, line.tokens, line.cost) == ("r1+1", "engine_failed", 0, 0)
    agrees(driver)


def test_a_dead_gateways_requests_are_lines_and_a_late_settlement_is_the_difference(driver):
    driver.admit("r1", gateway="g1", cost=100.0, tokens=60)
    driver.admit("r2", gateway="g1", cost=100.0, tokens=60)
    for _ in range(2):  # the other one lives: where all are silent, nobody is taken for dead
        driver.now += LEASE_S * 0.6
        driver.beat("g0")
    assert [(x.id, x.status, x.tokens, x.cost) for x in records(driver)] == [
        ("r1", "lost", 60, 100.0), ("r2", "lost", 60, 100.0)
    ]  # fmt: skip
    agrees(driver)
    driver.settle("r1", gateway="g1", **served("ok", 30, 25, prompt_tokens=20))
    line = records(driver)[-1]
    assert (line.id, line.status, line.tokens, line.cost) == ("r1", "corrected", -35, -70.0)
    driver.cancel("r2", gateway="g1")
    assert records(driver)[-1].cost == -100.0
    agrees(driver)


def test_without_the_setting_nothing_is_written(valkey_server):
    driver = LedgerDriver(valkey_server)
    driver.admit("r1")
    driver.settle("r1", **served("ok", 10, 10))
    assert records(driver) == []
    driver.close()


# Files


class Writer:
    """Writes files of the driver's records, a round at a time."""

    def __init__(self, driver: LedgerDriver, folder: Path, max_bytes: int = 2**20) -> None:
        self.driver = driver
        self.files = UsageFiles(UsageReader(driver.link, POOL), folder, max_bytes)

    def round(self) -> None:
        self.driver._run(self.files._round)

    def stop(self) -> None:
        self.driver._run(self.files.stop)


def settle_some(driver: LedgerDriver, first: int, count: int) -> None:
    for i in range(first, first + count):
        driver.admit(f"r{i}")
        driver.settle(f"r{i}", **served("ok", i, i))


def ids(folder: Path) -> list[str]:
    lines = (line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines())
    return sorted(decode(line).id for line in lines)


def test_files_hold_each_line_once_whoever_is_killed_and_when(driver, tmp_path):
    settle_some(driver, 0, 4)
    first = Writer(driver, tmp_path)
    first.round()
    standby = Writer(driver, tmp_path)
    settle_some(driver, 4, 3)
    standby.round()
    assert ids(tmp_path) == [f"r{i}" for i in range(4)], "one process writes at a time"
    first.files._lock.close()  # as the kernel does when it is killed
    current = tmp_path / "test.jsonl"
    whole = current.read_bytes()
    current.write_bytes(whole[:-20])  # the last line was cut off
    standby.round()
    assert ids(tmp_path) == [f"r{i}" for i in range(7)]
    standby.stop()


def test_a_full_file_is_put_aside_and_nothing_is_written_again(driver, tmp_path):
    for start in (0, 3, 6):
        settle_some(driver, start, 3)
        writer = Writer(driver, tmp_path, max_bytes=1)
        writer.round()
        writer.files._lock.close()
    assert not (tmp_path / "test.jsonl").exists()
    assert len(list(tmp_path.glob("test-*.jsonl"))) == 3
    assert ids(tmp_path) == [f"r{i}" for i in range(9)]


def test_a_full_disk_loses_and_repeats_nothing(driver, tmp_path):
    """The limit on file sizes cuts a write off as a full disk does."""
    settle_some(driver, 0, 5)
    writer = Writer(driver, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with structlog.testing.capture_logs() as logs:
            writer.round()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line["event"] for line in logs] == ["usage records are not written"]
    assert (tmp_path / "test.jsonl").stat().st_size == 1000
    writer.round()
    assert ids(tmp_path) == [f"r{i}" for i in range(5)]
    writer.stop()


# Exports


@pytest.fixture
def folder(driver, tmp_path) -> Path:
    settle_some(driver, 1, 3)
    driver.admit("r9", tenant="globex", user="=cmd()")
    driver.settle("r9", **served("aborted", 0.1, 7))
    writer = Writer(driver, tmp_path / "usage")
    (tmp_path / "usage").mkdir()
    writer.round()
    writer.stop()
    return tmp_path / "usage"


def exported(folder: Path, form: Format, *options: str) -> bytes:
    out = folder.parent / f"out.{form}"
    command = ["usage", "export", "--format", form, "--folder", str(folder), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    return out.read_bytes()


def test_every_format_says_the_same(folder):
    lines = [json.loads(line) for line in exported(folder, "jsonl").splitlines()]
    assert [line["id"] for line in lines] == ["r1", "r2", "r3", "r9"]
    table = list(csv.DictReader(io.StringIO(exported(folder, "csv").decode())))
    assert [float(row["cost"]) for row in table] == [line["cost"] for line in lines]
    assert table[3]["user"] != "=cmd()", "a spreadsheet would run it"
    parquet = pyarrow.parquet.read_table(io.BytesIO(exported(folder, "parquet")))
    assert parquet.to_pylist() == lines


def test_of_one_tenant_and_time_only(folder):
    assert len(exported(folder, "jsonl", "--tenant", "globex").splitlines()) == 1
    assert exported(folder, "jsonl", "--since", "2023-11-15") == b""
    assert len(exported(folder, "jsonl", "--until", "2023-11-15").splitlines()) == 4
    command = ["usage", "export", "--folder", str(folder), "--since", "soon"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "'soon'" in result.output


def test_sums_by_tenant(folder):
    result = CliRunner().invoke(app, ["usage", "sums", "--folder", str(folder), "--json"])
    found = [
        (s["tenant"], s["requests"], s["tokens"], s["cost"]) for s in json.loads(result.output)
    ]
    assert found == [("acme", 3, 6, 6.0), ("globex", 1, 7, 0.1)]


def test_a_replay_with_aborts_and_a_killed_gateway_sums_up_to_the_ledger(tmp_path):
    """In small what `python -m tests.bench.usage` does with 10,000 requests."""
    file = tmp_path / "usage.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.usage", "--requests", "400", "--output", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    replays = json.loads(file.read_text())
    assert [found["policy"] for found in replays] == ["fairserve", "fcfs"]
    for found in replays:
        assert found["records"]["lost"] >= 1, "the gateway was killed while it served nothing"
        assert found["records"]["aborted"] >= 40
        assert found["twice"] == 0
        for t in found["tenants"]:
            assert t["record_tokens"] == t["ledger_tokens"]
            assert t["record_service"] == t["ledger_service"]
