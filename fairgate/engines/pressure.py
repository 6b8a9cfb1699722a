"""How much pressure an engine is under, by its own metrics."""

from __future__ import annotations

from fairgate.engines.base import EngineStatus

WAITING_THRESHOLD = 5
"""Requests in the engine's own queue that mean saturation (llm-d's default). We hold no more than
it can run, so its queue is empty unless others use it too or its limit is overstated."""

KV_THRESHOLD = 0.8
"""Share of the KV cache beyond which preemption is near."""


def pressure(status: EngineStatus) -> float:
    """1 and more is saturated, below 0 unknown: ``max(waiting / threshold, kv usage / 0.8)``.

    KV usage counts only where the engine does not tell how many KV tokens it holds: otherwise
    every request reserves its own, which is exact and may fill the cache.
    """
    signals = []
    if status.num_requests_waiting is not None:
        signals.append(status.num_requests_waiting / WAITING_THRESHOLD)
    if status.kv_cache_usage is not None and status.kv_cache_tokens is None:
        signals.append(status.kv_cache_usage / KV_THRESHOLD)
    return max(signals, default=-1.0)
