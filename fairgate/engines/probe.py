"""Ask a server how it is: ``/health``, ``/v1/models`` and, as vLLM has it, ``/metrics``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import msgspec

from fairgate.engines.base import EngineStatus

PROBE_TIMEOUT_S = 3.0

# The few samples wanted of the hundreds that vLLM exports; group 1 name, 2 labels, 3 value.
_SAMPLE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|(?:kv|gpu)_cache_usage_perc"
    rb'|cache_config_info)(\{(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*\})?[ \t]+([^ \t\r\n]+)',
    re.MULTILINE,
)
_COUNT_LABEL = re.compile(rb'\b(kv_cache_size_tokens|num_gpu_blocks|block_size)="(\d+)"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """What vLLM's metrics tell, over all its data-parallel ranks; ``None``: not exported."""

    num_requests_running: int | None = None
    num_requests_waiting: int | None = None
    kv_cache_usage: float | None = None
    """That of the fullest rank, 0 to 1."""
    kv_cache_tokens: int | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int = 0
    body: bytes = b""
    trouble: str = ""


async def probe(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    *,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> EngineStatus:
    """Observe the server at ``url``, in ``timeout_s`` at most; never raises for one that is down.

    A server without ``/health`` is up when it lists its models; one without ``/metrics`` just tells
    less. Cancelled: the requests are dropped.
    """
    health, models, metrics = await asyncio.gather(
        *(
            _get(session, url + path, headers, timeout_s)
            for path in ("/health", "/v1/models", "/metrics")
        )
    )
    decisive = models if 400 <= health.status < 500 else health
    if decisive.status != 200:
        path = "/v1/models" if decisive is models else "/health"
        return EngineStatus(up=False, detail=f"GET {path}: {decisive.trouble}")
    listed = _parse_models(models)
    told = parse_metrics(metrics.body if metrics.status == 200 else b"")
    return EngineStatus(
        up=True,
        models=tuple(model.id for model in listed),
        context_tokens=listed[0].max_model_len if listed else None,
        kv_cache_tokens=told.kv_cache_tokens,
        num_requests_running=told.num_requests_running,
        num_requests_waiting=told.num_requests_waiting,
        kv_cache_usage=told.kv_cache_usage,
    )


async def _get(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], timeout_s: float
) -> _Reply:
    # The gateway's session leaves bodies as they come, so they must come uncompressed.
    plain = {**headers, "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        # What an engine says goes for it, not for wherever it would have us go.
        async with session.get(
            url, headers=plain, timeout=timeout, allow_redirects=False
        ) as response:
            return _Reply(response.status, await response.read(), f"HTTP {response.status}")
    except TimeoutError:
        return _Reply(trouble=f"no answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return _Reply(trouble=str(error) or type(error).__name__)


def _parse_models(reply: _Reply) -> list[_Model]:
    try:
        return msgspec.json.decode(reply.body, type=_Models).data if reply.status == 200 else []
    except msgspec.DecodeError:
        return []


def parse_metrics(text: bytes) -> Metrics:
    """Read the samples that matter from Prometheus text; whatever is malformed counts as absent."""
    running: list[float] = []
    waiting: list[float] = []
    usage: list[float] = []
    tokens: list[int] = []
    for name, labels, raw in _SAMPLE.findall(text):
        if name == b"cache_config_info":
            tokens.extend(_kv_tokens(labels))
            continue
        try:
            value = float(raw)
        except ValueError:
            continue
        if value >= 0:  # also drops NaN
            series = {b"num_requests_running": running, b"num_requests_waiting": waiting}
            series.get(name, usage).append(value)
    return Metrics(
        num_requests_running=int(sum(running)) if running else None,
        num_requests_waiting=int(sum(waiting)) if waiting else None,
        kv_cache_usage=min(1.0, max(usage)) if usage else None,
        kv_cache_tokens=sum(tokens) if tokens else None,
    )


def _kv_tokens(labels: bytes) -> list[int]:
    """Capacity of one rank: as vLLM 0.32 tells it, else blocks times their size (hybrid models: a
    bound from above)."""
    told = {name: int(value) for name, value in _COUNT_LABEL.findall(labels)}
    size = told.get(b"kv_cache_size_tokens")
    if size is None and b"num_gpu_blocks" in told and b"block_size" in told:
        size = told[b"num_gpu_blocks"] * told[b"block_size"]
    return [size] if size else []
