"""Other gateways for LLMs, where ``make bench-peers`` has installed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from secrets import token_hex

from fairgate.engines.process import free_port
from tests.bench.hotpath.subjects import KEYS, Subject

VENV = Path(__file__).parents[3] / ".cache" / "peers"
"""A virtual environment of their own."""
LITELLM, SMG, VLLM_ROUTER = "litellm", "smg", "vllm-router"

_KEY_WITH_LIMITS = f"""
from litellm.proxy._types import UserAPIKeyAuth

async def check(request, api_key: str) -> UserAPIKeyAuth:
    if api_key not in {KEYS!r}:
        raise Exception("unknown key")
    return UserAPIKeyAuth(api_key=api_key, rpm_limit=100_000_000, tpm_limit=100_000_000_000)
"""


def peers(folder: Path, store_port: int, upstream: str) -> list[Subject]:
    """Those that are installed. Configurations are written to ``folder``."""
    return [*_litellm(folder, store_port, upstream), *_rust(upstream)]


def versions() -> dict[str, str]:
    """Of each that is installed."""
    found = distributions(path=[str(path) for path in VENV.glob("lib/*/site-packages")])
    return {d.name: d.version for d in found if d.name in (LITELLM, SMG, VLLM_ROUTER)}


def _litellm(folder: Path, store_port: int, upstream: str) -> Iterator[Subject]:
    """With a key, and its requests and tokens per minute counted in the same store as ours."""
    if (program := _installed(LITELLM)) is None:
        return
    (folder / "bench_auth.py").write_text(_KEY_WITH_LIMITS)
    redis = {"host": "127.0.0.1", "port": store_port}
    served = {"model": "openai/bench", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({
        "model_list": [{"model_name": "bench", "litellm_params": served}],
        "litellm_settings": {
            # For the limits; an answer is never taken from it.
            "cache": True,
            "cache_params": {"type": "redis", "supported_call_types": [], **redis},
        },
        "router_settings": {f"redis_{name}": value for name, value in redis.items()},
        "general_settings": {"custom_auth": "bench_auth.check"},
    }))  # fmt: skip
    yield Subject(
        name=LITELLM,
        peer=True,
        command=(
            program, "--config", str(config), "--host", "127.0.0.1", "--port", "{port}",
            "--telemetry", "False",
        ),
        environ={
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": f"sk-{token_hex(32)}",  # it does not start without one
        },
    )  # fmt: skip


def _rust(upstream: str) -> Iterator[Subject]:
    """Both route by round robin; they have no tenants."""
    for name, launch in ((SMG, ("launch",)), (VLLM_ROUTER, ())):
        if (program := _installed(name)) is not None:
            command = (
                program, *launch, "--worker-urls", upstream, "--policy", "round_robin",
                "--host", "127.0.0.1", "--port", "{port}", "--prometheus-port", str(free_port()),
                "--log-level", "error", "--max-concurrent-requests", "4096",
            )  # fmt: skip
            yield Subject(name=name, command=command, peer=True)


def _installed(name: str) -> str | None:
    program = VENV / "bin" / name
    return str(program) if program.exists() else None
