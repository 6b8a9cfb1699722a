"""How much pressure an engine is under, by its own metrics."""

from __future__ import annotations

from fairgate.engines.base import EngineStatus

WAITING_SHARE = 5 / 64
"""Requests in the engine's own queue that mean saturation, of the sequences that it runs at once.

We hold no more than those, so its queue is empty unless others use it too, the limit is overstated,
or many prompts came at once. Those a large engine soon works off while the rest of its batch goes
on; with fewer sequences it would only do less in each step.
"""

WAITING_LEAST = 5
"""The same of a small engine (llm-d's default)."""

KV_THRESHOLD = 0.8
"""Share of the KV cache beyond which preemption is near."""


def pressure(status: EngineStatus, max_num_seqs: int) -> float:
    """1 and more is saturated, below 0 unknown: ``max(waiting / threshold, kv usage / 0.8)``.

    ``max_num_seqs``: sequences that the engine runs at once. KV usage counts only where the engine
    does not tell how many KV tokens it holds: otherwise every request reserves its own, which is
    exact and may fill the cache.
    """
    signals = []
    if status.num_requests_waiting is not None:
        threshold = max(WAITING_LEAST, WAITING_SHARE * max_num_seqs)
        signals.append(status.num_requests_waiting / threshold)
    if status.kv_cache_usage is not None and status.kv_cache_tokens is None:
        signals.append(status.kv_cache_usage / KV_THRESHOLD)
    return max(signals, default=-1.0)
