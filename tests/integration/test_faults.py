"""``python -m tests.faults`` runs whole, in small; and the harness sees harm where there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.answers import Kind, Wish
from tests.faults.load import Client, Door, Load
from tests.faults.site import WatchedEngine
from tests.faults.waiting import wait_until

ROOT = Path(__file__).parents[2]


def run(*options: str, file: Path) -> tuple[subprocess.CompletedProcess[str], dict]:
    done = subprocess.run(
        [sys.executable, "-m", *options, "--json", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert file.exists(), done.stderr[-4000:]
    return done, json.loads(file.read_text())


def test_some_faults_harm_nobody(tmp_path: Path) -> None:
    names = "SCRIPT FLUSH,gateway killed,hostile bodies"
    done, report = run(
        "tests.faults", "--only", names, "--rounds", "1", "--in-flight", "60",
        file=tmp_path / "faults.json",
    )  # fmt: skip
    rows = {row["fault"]: row for row in report["faults"]}
    assert sorted(rows) == sorted(names.split(","))
    for row in rows.values():
        assert row["in_flight"] >= 54
        assert row["answered"] > 0
        assert (row["lost"], row["doubly_granted"], row["leaked"]) == (0, 0, 0), row["details"]
        assert row["details"] == []
        assert row["recovery_s"] >= 0
    assert rows["gateway killed"]["moved"] > 0
    assert rows["SCRIPT FLUSH"]["injected"] == 10
    assert done.returncode == 0
    assert "double-granted" in done.stdout


@pytest.fixture
async def engine(tmp_path: Path):
    it = WatchedEngine(tmp_path, 0, max_num_seqs=2)
    await it.start()
    yield it
    await it.program.stop()


async def test_an_engine_tells_of_what_it_is_given_beyond_its_capacity(engine):
    crowd = [Client("acme", f"user-{n}", chained=False, tokens=(20, 20)) for n in range(3)]
    load = Load([Door(engine.port)], crowd, model="tiny")
    await load.start()
    assert await wait_until(lambda: len(load.records) >= 3, 60)
    load.check()
    await load.pause()
    await load.stop()
    assert {record.ending.kind for record in load.records} == {Kind.ANSWERED}
    signs = [sign for _, sign, _ in engine.news()]
    assert "!" in signs
    assert signs.count("=") == len(load.records)


async def test_clients_see_what_is_cut_short(engine):
    await engine.spoil("reset-after=2")
    door = Door(engine.port)
    load = Load([door], [], model="tiny")
    await load.start()
    client = Client("acme", "user", chained=False)
    broken = await load._attempt("q1.0", client, Wish(stream=True, output_tokens=8), 0)
    assert (broken.kind, broken.detail.split(":")[0]) == (Kind.LOST, "connection ended, status 200")
    door.open, door.fell = False, True
    excused = await load._attempt("q2.0", client, Wish(stream=True, output_tokens=8), 0)
    assert excused.kind is Kind.DIED
    await load.stop()
