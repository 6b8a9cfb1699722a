"""Apps with FairGate mounted in them, run by real ASGI servers on the loopback."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fairgate.engines.process import free_port
from support.gateway import Program

SERVERS = ("uvicorn", "granian", "hypercorn")
TESTS = Path(__file__).parent.parent

_COMMANDS = {
    "uvicorn": ["-m", "uvicorn", "--host", "127.0.0.1", "--no-access-log", "--port"],
    "granian": ["-m", "granian", "--interface", "asgi", "--no-access-log", "--port"],
    "hypercorn": ["-m", "hypercorn", "--bind"],
}
_FACTORY = {"uvicorn": ["--factory"], "granian": ["--factory"]}


def app_config(
    store: str, lanes: Mapping[str, int], tenants: Mapping[str, Any], **sections: Any
) -> dict[str, Any]:
    """A configuration with app lanes of so many sequences."""
    engines = {
        name: {"engines": [{"type": "app", "max_num_seqs": seqs, "kv_cache_tokens": 0}]}
        for name, seqs in lanes.items()
    }
    return {
        "pools": {"main": {"lanes": engines}},
        "tenants": dict(tenants),
        "store": {"url": store, "heartbeat_s": 0.2, "timeout_s": 0.8},
        **sections,
    }


@contextmanager
def serving(
    folder: Path,
    target: str,
    config: Mapping[str, Any],
    *options: str,
    server: str = "uvicorn",
    factory: bool = False,
    cwd: Path = TESTS,
    **environ: str,
) -> Iterator[Program]:
    """``target`` (``module:attribute``) on a server that answers; its config is in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fairgate.yaml"
    file.write_text(json.dumps(config))
    port = free_port()
    address = f"127.0.0.1:{port}" if server == "hypercorn" else str(port)
    flags = _FACTORY.get(server, []) if factory else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRGATE_TEST_CONFIG", str(file))
        patch.setenv("PYTHONPATH", f"{TESTS.parent}:{cwd}")
        for name, value in environ.items():
            patch.setenv(name, value)
        argv = [*_COMMANDS[server], address, *flags, *options, target]
        it = Program(argv, port, folder / f"{server}.log", cwd)
    try:
        it.wait_for(lambda: answers(f"{it.url}/up"))
        yield it
    finally:
        it.stop()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError):
        return False
