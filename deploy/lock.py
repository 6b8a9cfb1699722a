"""Writes the lock of the development environment: every package, with its version and its hash.

    python deploy/lock.py [--report FILE]

It is what pip chooses today for fairgate, its extra ``loadgen`` and the group ``dev`` on this
Python and platform. ``pip install --require-hashes --requirement requirements-dev.lock`` then
installs exactly that. ``--report``: what ``pip install --dry-run --report FILE`` has told already.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-dev.lock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    report: Path | None = parser.parse_args().report
    with tempfile.TemporaryDirectory() as folder:
        told = report or resolve(Path(folder) / "report.json")
        lines = list(locked(json.loads(told.read_text())))
    LOCK.write_text("\n".join([*head(), *lines, ""]))
    print(f"{LOCK.name}: {len(lines)} packages")


def resolve(report: Path) -> Path:
    """What pip would install into an empty environment."""
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
        "--report", str(report), "--editable", ".[loadgen]", "--group", "dev",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)
    return report


def head() -> Iterator[str]:
    yield "# The development environment, to the byte. Made by `make lock`; do not edit."
    yield f"# {platform.python_implementation()} {platform.python_version()}, {sys.platform}, " + (
        platform.machine()
    )


def locked(report: dict[str, Any]) -> Iterator[str]:
    """A line for each package but fairgate itself."""
    found = {}
    for item in report["install"]:
        hashes = item["download_info"].get("archive_info", {}).get("hashes")
        name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        if name != "fairgate":
            found[name] = f"{name}=={version} --hash=sha256:{hashes['sha256']}"
    for name in sorted(found):
        yield found[name]


if __name__ == "__main__":
    main()
