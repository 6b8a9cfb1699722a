"""The quick start runs as it is written, command by command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from support.gateway import Program

from fairgate.engines.process import free_port

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
PROGRAMS = {
    "fairgate": [sys.executable, "-m", "fairgate.cli"],
    "loadgen": [sys.executable, "-c", "from loadgen.cli import main; main()"],
    "curl": ["curl", "--fail"],
}


def test_every_command_of_the_quick_start_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    port = free_port()
    text = PAGE.read_text().replace("8080", str(port))
    (configuration,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "fairgate.yaml").write_text(configuration)
    with ExitStack() as stack:
        ran = [told for words in commands(text) if (told := follow(words, port, tmp_path, stack))]
    check(ran)


def commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Words and output of each."""
    for console in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield shlex.split(command), output


def follow(
    command: tuple[list[str], str], port: int, folder: Path, stack: ExitStack
) -> tuple[str, str] | None:
    """Run it; what it printed, unless it goes on until the end."""
    (name, *arguments), output = command
    if arguments[0] == "serve":
        gateway = Program([*PROGRAMS[name][1:], *arguments], port, folder / "log", folder)
        stack.callback(gateway.stop)
        gateway.wait_for(lambda: "ready http" in gateway.text())
        return None
    told = run([*PROGRAMS[name], *arguments], folder)
    if output:
        assert told == output
    return name, told


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def check(ran: list[tuple[str, str]]) -> None:
    """They did what the page says they do."""
    answer, me, metrics = (told for name, told in ran if name == "curl")
    assert json.loads(answer)["usage"]["completion_tokens"] == 4
    assert json.loads(me)["tenant"]
    assert "fairgate_requests_total{" in metrics
    (report,) = (told for name, told in ran if name == "loadgen")
    assert "acme" in report
    assert "globex" in report
    assert len(ran) == 6, "all but serve"
