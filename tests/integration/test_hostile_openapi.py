"""The gateway's description of itself is true: to its routes, and to what schemathesis finds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from support.gateway import Gateway, config, engine, gateway, key_of, lane
from support.raw import ask, request

from fairgate import errors
from fairgate.admission.link import Link
from fairgate.config import Config, Pool
from fairgate.errors import Refusal
from fairgate.gateway.app import Gateway as GatewayApp
from fairgate.runtime import Runtime

EXAMPLES = "3"
WITHIN_S = 240
# What only an engine refuses is not described, so what is described may be refused all the same.
NOT_CHECKED = "positive_data_acceptance"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("openapi")
    with engine(folder, "--profile", "instant") as fast:
        settings = config({"tiny": lane(fast.url)}, server={"failed_keys_per_minute": 100_000})
        with gateway(folder, settings) as it:
            yield it


@pytest.fixture(scope="module")
def described(gate: Gateway) -> dict[str, Any]:
    told = ask(gate.port, request("GET", "/openapi.json", tenant=None))
    assert told.status == 200
    return dict(json.loads(told.body))


def test_every_route_is_described_and_no_other(described: dict[str, Any]) -> None:
    runtime = Runtime(Config(pools={"main": Pool(lanes={})}))
    runtime.link = Link("redis://127.0.0.1:1")
    app = GatewayApp(runtime)
    routes = {it.path for it in app._others.routes if isinstance(it, Route)}
    routes -= {it.path for it in app.operators.routes() if isinstance(it, Route)}
    assert described["paths"].keys() == {re.sub(r":path\}", "}", path) for path in routes}


def test_every_refusal_is_described(described: dict[str, Any]) -> None:
    kinds = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, Refusal)]
    operators = {errors.Conflict, errors.Invalid, errors.PreconditionFailed}
    statuses = {str(kind.status) for kind in kinds if kind not in {Refusal, *operators}}
    assert described["components"]["responses"].keys() == statuses
    for kind in statuses:
        assert described["components"]["responses"][kind]["description"]


def test_schemathesis_finds_nothing_untrue(
    gate: Gateway, described: dict[str, Any], tmp_path: Path
) -> None:
    """Every route with whatever its description allows, and with what it forbids."""
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(
        f'[auth.openapi.bearer]\nbearer = "{key_of("acme")}"\n'
        f'[auth.openapi.key]\napi_key = "{key_of("acme")}"\n'
    )
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings),
        "run", f"{gate.url}/openapi.json", "--max-examples", EXAMPLES, "--seed", "7",
        "--phases", "coverage,fuzzing", "--exclude-checks", NOT_CHECKED, "--no-color",
        "--suppress-health-check", "all", "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: 11" in done.stdout, done.stdout
