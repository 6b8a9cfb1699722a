"""The pages `admin`, `usage` and `dashboard`: their commands run, on the gateway they describe."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.gateway import Program, gateway
from typer.testing import CliRunner

from fairgate.billing.note import Status
from fairgate.billing.records import FIELDS
from fairgate.cli import app
from fairgate.engines.process import free_port
from loadgen.cli import app as loadgen

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADDRESS = "http://127.0.0.1:8080"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Operator:
    """Follows the pages; remembers the key that was made on the way."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.url = ""
        self.key = ""
        self.settings = ""
        self._stack = ExitStack()
        self._environment = monkeypatch

    def close(self) -> None:
        self._stack.close()

    def follow(self, page: str) -> None:
        for language, text in _FENCE.findall((DOCS / f"{page}.md").read_text()):
            if language == "yaml":
                self.settings = text.replace("folder: usage", f"folder: {self.folder}/usage")
                continue
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, expected = part.partition("\n")
                said = self.run(command)
                assert re.fullmatch(_pattern(expected), _lines(said)), f"{command}\n{said}"
                if made := re.search(r"fg_\S+", said):
                    self.key = made[0]

    def run(self, command: str) -> str:
        words = shlex.split(command.replace(ADDRESS, self.url).replace("KEY", self.key))
        if words[:2] == ["fairgate", "serve"]:
            self.serve()
            return ""
        if words[0] == "curl":
            done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
            return done.stdout + "\n"
        assert words[0] == "fairgate"
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output
        return result.output

    def serve(self) -> None:
        it = self._stack.enter_context(gateway(self.folder, self.settings))
        self.url = it.url
        self._environment.setenv("FAIRGATE_URL", it.url)
        self._environment.setenv("FAIRGATE_ADMIN_KEY", "fg-demo-admin")


def _pattern(expected: str) -> str:
    """``…`` stands for anything in a line, and columns are as wide as they are."""
    return r"[^\n]*".join(map(re.escape, _lines(expected).split("…")))


def _lines(text: str) -> str:
    return "\n".join(re.sub(r" +", " ", line).strip() for line in text.strip().splitlines())


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.chdir(tmp_path)
    it = Operator(tmp_path, monkeypatch)
    yield it
    it.close()


def test_every_command_of_both_pages_does_what_they_say(operator, tmp_path):
    operator.follow("admin")
    operator.follow("usage")
    assert (tmp_path / "usage.parquet").stat().st_size > 0
    operator.close()
    assert (tmp_path / "usage" / "main.jsonl").read_bytes().count(b"\n") == 1


def test_the_demo_of_the_dashboard_runs_and_shows_who_sends(tmp_path: Path) -> None:
    page = (DOCS / "dashboard.md").read_text()
    (console,) = (text for language, text in _FENCE.findall(page) if language == "console")
    make, replay = re.findall(r"^\$ (.*)$", console, re.MULTILINE)
    port = free_port()
    recipe = subprocess.run(
        [*make.split(), f"PORT={port}", "--dry-run", "--no-print-directory"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    ).stdout.splitlines()[-1]  # fmt: skip
    logs = {**os.environ, "FAIRGATE_LOGS": str(tmp_path)}
    demo = Program(shlex.split(recipe)[2:], port, tmp_path / "demo.log", cwd=ROOT, env=logs)
    try:
        demo.wait_for(lambda: "ready http" in demo.text(), within_s=40)
        quick = replay.replace("8080", str(port)).replace("=180", "=3").replace("15-175", "1-3")
        result = CliRunner().invoke(loadgen, shlex.split(quick)[1:])
        assert result.exit_code == 0, result.output
        asked = urllib.request.Request(
            f"{demo.url}/fairgate/v1/ledger", headers={"authorization": "Bearer fg-demo-admin"}
        )
        demo.wait_for(lambda: "initech" in urllib.request.urlopen(asked).read().decode())
    finally:
        demo.stop()


def test_the_page_of_usage_names_every_field_and_status():
    text = (DOCS / "usage.md").read_text()
    named = set(re.findall(r"^\| ((?:`\w+`(?:, )?)+)", text, re.MULTILINE))
    words = {word for cell in named for word in re.findall(r"\w+", cell)}
    assert {*FIELDS, *(status for status in Status.__args__ if status != "unknown")} <= words
