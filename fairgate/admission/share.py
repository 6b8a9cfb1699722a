"""A replica's share of what all of them may give: of engines' capacity and of limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import msgspec

from fairgate.admission.model import Ask, EngineReport
from fairgate.config import Limits, RateLimits

_L = TypeVar("_L", Limits, RateLimits)


def share_of_engines(
    reports: Sequence[EngineReport], *, replicas: int, rank: int
) -> list[EngineReport]:
    """The engines as the replica of ``rank`` (from 0) may use them.

    The shares of all add up to the capacity, but that each has at least one sequence in every lane
    that is up.
    """
    shares = [_part(r.max_num_seqs, replicas, rank + i) for i, r in enumerate(reports)]
    served = {r.lane for r, seqs in zip(reports, shares, strict=True) if r.up and seqs}
    for i, report in enumerate(reports):
        if report.up and report.lane not in served:
            shares[i] = 1
            served.add(report.lane)
    return [
        EngineReport(
            r.lane, r.name, r.up, seqs, r.kv_cache_tokens and max(1, r.kv_cache_tokens // replicas)
        )
        for r, seqs in zip(reports, shares, strict=True)
    ]


def within(share: Sequence[EngineReport], told: Iterable[EngineReport]) -> list[EngineReport]:
    """``share``, but of no engine more than ``told``, which may know less of them."""
    most = {(r.lane, r.name): r for r in told}

    def bounded(report: EngineReport) -> EngineReport:
        bound = most.get((report.lane, report.name))
        if bound is None:
            return replace(report, max_num_seqs=0)
        kv = report.kv_cache_tokens, bound.kv_cache_tokens
        return replace(
            report,
            max_num_seqs=min(report.max_num_seqs, bound.max_num_seqs),
            kv_cache_tokens=min(kv) or max(kv),
        )

    return [bounded(report) for report in share]


def less_held(
    share: Sequence[EngineReport], held: Iterable[tuple[str, str, int]]
) -> list[EngineReport]:
    """What is left of ``share``. ``held``: lane, engine and KV tokens of each request that runs."""
    running: Counter[tuple[str, str]] = Counter()
    kv: Counter[tuple[str, str]] = Counter()
    for lane, engine, tokens in held:
        running[lane, engine] += 1
        kv[lane, engine] += tokens
    return [
        replace(
            r,
            max_num_seqs=max(0, r.max_num_seqs - running[r.lane, r.name]),
            kv_cache_tokens=r.kv_cache_tokens and max(1, r.kv_cache_tokens - kv[r.lane, r.name]),
        )
        for r in share
    ]


def _part(whole: int, replicas: int, rank: int) -> int:
    each, left = divmod(whole, replicas)
    return each + (rank % replicas < left)


def share_of_limits(ask: Ask, replicas: int) -> Ask:
    """``ask`` with limits divided by the replicas; none becomes less than 1."""
    return msgspec.structs.replace(
        ask,
        tenant_limits=_divided(ask.tenant_limits, replicas),
        user_limits=_divided(ask.user_limits, replicas),
        app_limits=_divided(ask.app_limits, replicas),
    )


@lru_cache(maxsize=4096)
def _divided(limits: _L, replicas: int) -> _L:
    given = {name: n for name in limits.__struct_fields__ if (n := getattr(limits, name))}
    return msgspec.structs.replace(
        limits, **{name: max(1, n // replicas) for name, n in given.items()}
    )
