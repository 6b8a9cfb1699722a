"""What is measured: how each subject is started, and what it is compared with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

KEY = "bench-key"
CHAT = "/v1/chat/completions"
_APPS = "tests.bench.hotpath.apps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One process, or one path of it."""

    name: str
    command: tuple[str, ...]
    """``{port}`` stands for its port."""
    against: str | None = None
    """Name of the subject that it is compared with."""
    path: str = CHAT
    environ: Mapping[str, str] = field(default_factory=dict)


def subjects(folder: Path, store: str, upstream: str) -> list[Subject]:
    """All of them. Configurations are written to ``folder``; ``store`` is a Valkey of its own."""
    mounted = folder / "mounted.yaml"
    mounted.write_text(json.dumps(_config(store, {"type": "app", "max_num_seqs": 4096})))
    serving = folder / "gateway.yaml"
    engine = {"type": "http", "url": upstream, "max_num_seqs": 4096}
    serving.write_text(json.dumps(_config(store, engine)))
    gate = {"FAIRGATE_CONFIG": str(mounted)}
    serve = (sys.executable, "-m", "fairgate.cli", "serve", "--config", str(serving))
    return [
        Subject(name="null app", command=_uvicorn("null")),
        Subject(
            name="exempt path", command=_uvicorn("gated"), against="null app", path="/exempt",
            environ=gate,
        ),
        Subject(name="mounted", command=_uvicorn("gated"), against="null app", environ=gate),
        Subject(name="bare proxy", command=_uvicorn("proxy"), environ={"UPSTREAM": upstream}),
        Subject(name="gateway", command=(*serve, "--port", "{port}"), against="bare proxy"),
    ]  # fmt: skip


def _uvicorn(app: str) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "uvicorn", f"{_APPS}:{app}", "--port", "{port}", "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning",
    )  # fmt: skip


def _config(store: str, engine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a site would have on: keys, limits, two tenants, a store of its own."""
    limits = {"rpm": 100_000_000, "tpm": 1_000_000_000}
    return {
        "store": {"url": store},
        "tenants": {
            "acme": {"keys": [{"sha256": sha256(KEY.encode()).hexdigest()}], "limits": limits},
            "globex": {"keys": [{"sha256": sha256(b"other").hexdigest()}], "limits": limits},
        },
        "pools": {"main": {"lanes": {"bench": {"engines": [dict(engine)]}}}},
    }
