"""Every snippet of the pages in ``docs/`` runs, page by page, as a reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.gateway import Program
from support.mounted import answers

from fairgate.engines.process import free_port

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("fastapi", "litestar", "mounting", "quart", "starlette")
PORT = "8000"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# (\S+)\n")


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall((DOCS / f"{page}.md").read_text())]


class Reader:
    """Writes the files of a page and runs its commands, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.written: set[str] = set()
        self.used: set[str] = set()
        self._server = ExitStack()

    def close(self) -> None:
        self._server.close()

    def follow(self, block: Block) -> None:
        if block.language == "console":
            for command, output in _commands(block.text):
                self.run(command.split(), output)
            return
        name = _NAME.match(block.text)
        assert name, f"its first line does not name its file: {block.text[:60]}"
        self.written.add(name[1])
        (self.folder / name[1]).write_text(block.text.replace(PORT, self.port))

    def run(self, words: list[str], output: str) -> None:
        words = [word.replace(PORT, self.port) for word in words]
        self.used.add(words[1].replace(":app", ".py"))
        if words[0] == "uvicorn":
            self.serve(words)
            return
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=self.folder, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == (output, 0), done.stderr

    def serve(self, words: list[str]) -> None:
        self._server.close()
        log = self.folder / f"{words[1]}.log"
        server = Program(["-m", *words], int(self.port), log, self.folder)
        self._server.callback(server.stop)
        server.wait_for(lambda: answers(server.url))


def _commands(console: str) -> Iterator[tuple[str, str]]:
    """Commands and what they print."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    it = Reader(tmp_path)
    yield it
    it.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_runs(page: str, reader: Reader) -> None:
    for block in blocks(page):
        reader.follow(block)
    scripts = {name for name in reader.written if name.endswith(".py")}
    assert scripts, "the page shows nothing to run"
    assert scripts <= reader.used, "each of them is served or run"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((\w+\.md)\)", (DOCS / f"{page}.md").read_text()):
            assert (DOCS / target).is_file(), f"{page}.md links to {target}"
