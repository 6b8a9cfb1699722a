"""A real Prometheus server (Debian package ``prometheus``) on the loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fairgate.engines.process import free_port

SERVER = shutil.which("prometheus")
TOOL = shutil.which("promtool")


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **fields: str) -> Any:
        """``data`` of an answer. Raises ``HTTPError`` for an expression that does not parse."""
        query = urllib.parse.urlencode(fields)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector."""
        result: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return result

    def firing(self) -> dict[str, dict[str, str]]:
        """Labels of the alerts that fire, by name."""
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {it["labels"]["alertname"]: it["labels"] for it in alerts if it["state"] == "firing"}


@contextmanager
def prometheus(
    folder: Path, targets: Sequence[str], rules: Mapping[str, Any]
) -> Iterator[Prometheus]:
    """Scrapes ``targets`` (host:port) and evaluates ``rules`` (by file name) every half second."""
    assert SERVER is not None
    folder.mkdir(parents=True)
    for name, content in rules.items():
        (folder / name).write_text(yaml.safe_dump(content))
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        | {"evaluation_interval": "500ms"},
        "rule_files": list(rules),
        "scrape_configs": [
            {"job_name": "fairgate", "static_configs": [{"targets": list(targets)}]}
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            SERVER, f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log, stderr=log,
    )  # fmt: skip
    it = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(it, process, folder / "log")
        yield it
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def _wait_until_ready(it: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{it.url}/-/ready", timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
