"""What is measured: how each subject is started, and what it is compared with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

KEYS = ("bench-key-1", "bench-key-2")
"""Of two tenants."""
CHAT = "/v1/chat/completions"
NULL, BARE, GATEWAY, UPSTREAM = "null app", "bare proxy", "gateway", "upstream alone"
EXEMPT, MIDDLEWARE = "exempt path", "middleware"
COMPILED, MIDDLEWARE_COMPILED = "gateway, compiled", "middleware, compiled"
AGAINST: Mapping[str, str | None] = {
    UPSTREAM: None, NULL: None, BARE: None, EXEMPT: NULL, MIDDLEWARE: NULL,
    MIDDLEWARE_COMPILED: NULL,
}  # fmt: skip
"""What a subject is compared with; those not named here, with the bare proxy."""
_QUEUED = 8
_WORKERS = 2
_ROOMY = {"max_num_seqs": 4096}
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One process, or one path of it."""

    name: str
    command: tuple[str, ...]
    """``{port}`` stands for its port; empty: the upstream, which runs anyway."""
    path: str = CHAT
    environ: Mapping[str, str] = field(default_factory=dict)
    """Besides what every subject gets."""
    proxy: bool = True
    """It passes requests on to the upstream."""
    peer: bool = False
    """Somebody else's: where it fails, the others are measured all the same."""


def ours(folder: Path, store: str, upstream: str, compiled: Path | None = None) -> list[Subject]:
    """fairgate and what it is compared with. Configurations are written to ``folder``.

    ``compiled``: where ``make compiled`` put the package, if it is to be measured as well.
    """
    gate = {"FAIRGATE_CONFIG": _write(folder, "mounted", store, {"type": "app", **_ROOMY})}
    found = [
        Subject(name=UPSTREAM, command=()),
        Subject(name=NULL, command=uvicorn("apps:null"), proxy=False),
        Subject(
            name=EXEMPT, command=uvicorn("apps:gated"), path="/exempt", environ=gate, proxy=False
        ),
        Subject(name=MIDDLEWARE, command=uvicorn("apps:gated"), environ=gate, proxy=False),
        Subject(name=BARE, command=uvicorn("proxy:proxy"), environ={"UPSTREAM": upstream}),
        Subject(name=GATEWAY, command=gateway_command(folder, store, upstream, "{port}")),
        Subject(
            name=f"gateway, {_QUEUED} at once",
            command=gateway_command(folder, store, upstream, "{port}", sequences=_QUEUED),
        ),
        Subject(
            name=f"gateway, {_WORKERS} workers",
            command=gateway_command(folder, store, upstream, "{port}", workers=_WORKERS),
        ),
    ]  # fmt: skip
    if compiled is not None:
        home = imported_from(compiled)
        mounted = uvicorn("apps:gated", compiled)
        gateway = gateway_command(folder, store, upstream, "{port}")
        found += [
            Subject(name=MIDDLEWARE_COMPILED, command=mounted, environ=gate | home, proxy=False),
            Subject(name=COMPILED, command=gateway, environ=home),
        ]
    return found


def imported_from(package: Path) -> dict[str, str]:
    """Environment in which ``fairgate`` is the one in the folder ``package``."""
    return {"PYTHONPATH": f"{package.resolve()}:{ROOT}"}


def gateway_command(
    folder: Path,
    store: str,
    upstream: str,
    port: int | str,
    *,
    sequences: int = 4096,
    workers: int = 1,
) -> tuple[str, ...]:
    """fairgate before ``upstream``, which takes ``sequences`` requests at once."""
    engine = {"type": "http", "url": upstream, "max_num_seqs": sequences}
    config = _write(folder, f"gateway-{sequences}-{workers}", store, engine)
    return (
        sys.executable, "-P", "-m", "fairgate.cli", "serve", "--config", config,
        "--port", str(port),
        *(("--workers", str(workers)) if workers > 1 else ()),
    )  # fmt: skip


def uvicorn(app: str, package: Path = ROOT) -> tuple[str, ...]:
    """``app`` of this folder, served as fairgate serves its own; ``package`` holds ``fairgate``."""
    return (
        sys.executable, "-P", "-m", "uvicorn", f"tests.bench.hotpath.{app}", "--port", "{port}",
        "--app-dir", str(package.resolve()),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
        "--backlog", "4096",
    )  # fmt: skip


def _write(folder: Path, pool: str, store: str, engine: Mapping[str, Any]) -> str:
    file = folder / f"{pool}.yaml"
    file.write_text(json.dumps(_config(pool, store, engine)))
    return str(file)


def _config(pool: str, store: str, engine: Mapping[str, Any]) -> dict[str, Any]:
    """All that a site would have on: keys, limits, two tenants; the gateway logs requests."""
    limits = {"rpm": 100_000_000, "tpm": 100_000_000_000}
    hashes = [sha256(key.encode()).hexdigest() for key in KEYS]
    return {
        "store": {"url": store, "timeout_s": 4.0},  # the machine may be busy
        "tenants": {
            name: {"keys": [{"sha256": hashed}], "limits": limits}
            for name, hashed in zip(("acme", "globex"), hashes, strict=True)
        },
        "pools": {pool: {"lanes": {"bench": {"engines": [dict(engine)]}}}},
    }
