"""Fits a timing profile of the simulated engine to calls that real engines served.

A call with o output tokens saw o - 1 steps between its first token and its last, each of which took

    base + per_prefill_token · prefilled + per_sequence · decoding + per_kv_token · attended

(:mod:`fairgate.engines.simulated.timing`), so its time per output token is linear in the four
coefficients: with what the other calls on its engine had in the batch meanwhile. A call that had an
engine for itself adds what its prompt took. The coefficients are those of least relative squared
error that are not below 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from fairgate.engines.simulated.scheduler import MAX_NUM_BATCHED_TOKENS
from fairgate.engines.simulated.timing import TimingProfile
from loadgen.errors import SpecError
from loadgen.records import Outcome

_FEWEST_CALLS = 30
_FEWEST_STEPS = 4
_ALONE = 1.1
"""Sequences decoding on average, of a call that had its engine about for itself."""

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile and how well it tells what was seen."""

    profile: TimingProfile
    calls: int
    """That it was fitted to."""
    error: float
    """Median relative error of the time per output token."""
    alone_ms: tuple[float, float] | None
    """Time per output token of calls alone on their engine, seen and fitted; ``None``: there were
    none."""
    full_ms: tuple[float, float]
    """The same of the tenth of the calls that shared their engine with most others."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Seconds, and what each coefficient is multiplied with in them."""

    seconds: float
    factors: tuple[float, float, float, float]
    """Steps, prefilled tokens, decoding sequences, attended tokens."""


def fit_profile(outcomes: Iterable[Outcome]) -> Fit:
    """Fit one profile to the completed calls of engines that are alike.

    Raises ``SpecError`` when they are too few, or too much alike to tell the coefficients apart.
    """
    by_engine: defaultdict[str | None, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        if o.result == "completed" and o.first_token_s is not None:
            by_engine[o.engine].append(o)
    decodes = [row for calls in by_engine.values() for row in _decodes(calls)]
    if len(decodes) < _FEWEST_CALLS:
        raise SpecError(
            f"expected at least {_FEWEST_CALLS} completed calls of more than {_FEWEST_STEPS} "
            f"output tokens, got {len(decodes)}"
        )
    prefills = [row for calls in by_engine.values() for row in _lone_prefills(calls)]
    found = _least_squares([*decodes, *prefills])
    paces = [(row, _told(row, found)) for row in decodes]
    alone = [(row.seconds, told) for row, told in paces if row.factors[2] < _ALONE]
    fullest = sorted(paces, key=lambda pace: -pace[0].factors[2])[: max(1, len(paces) // 10)]
    return Fit(
        profile=TimingProfile(*(round(seconds * _NS) for seconds in found)),
        calls=len(decodes),
        error=median(abs(told / row.seconds - 1) for row, told in paces),
        alone_ms=_medians_ms(alone) if alone else None,
        full_ms=_medians_ms([(row.seconds, told) for row, told in fullest]),
    )


def _decodes(calls: Sequence[Outcome]) -> list[_Row]:
    """One step each, on average, of the calls of one engine."""
    ordered = sorted(calls, key=_first_s)
    firsts = [_first_s(o) for o in ordered]
    rows = []
    for o in ordered:
        steps, (start_s, end_s) = o.completion_tokens - 1, (_first_s(o), o.end_s)
        if steps < _FEWEST_STEPS or end_s <= start_s:
            continue
        decoding = attended = prefilled = 0.0
        for other in ordered[: bisect_left(firsts, end_s)]:
            share = (min(end_s, other.end_s) - max(start_s, _first_s(other))) / (end_s - start_s)
            if share > 0:
                decoding += share
                attended += share * (other.prompt_tokens + other.completion_tokens / 2)
            if _first_s(other) > start_s:
                prefilled += other.prompt_tokens
        rows.append(_Row((end_s - start_s) / steps, (1.0, prefilled / steps, decoding, attended)))
    return rows


def _lone_prefills(calls: Sequence[Outcome]) -> list[_Row]:
    """Of calls during whose prefill no other call was on the engine."""
    ordered = sorted(calls, key=_granted_s)
    rows = []
    busy_until_s = -1.0
    for o, following in zip(ordered, [*ordered[1:], None], strict=True):
        granted_s, first_s = _granted_s(o), _first_s(o)
        disturbed = following is not None and _granted_s(following) < first_s
        if granted_s >= busy_until_s and first_s > granted_s and not disturbed:
            steps = -(-o.prompt_tokens // MAX_NUM_BATCHED_TOKENS)
            rows.append(_Row(first_s - granted_s, (steps, o.prompt_tokens, 0.0, o.prompt_tokens)))
        busy_until_s = max(busy_until_s, o.end_s)
    return rows


def _least_squares(rows: Sequence[_Row]) -> tuple[float, ...]:
    """The best of all choices of coefficients that are not 0, of those where none is below."""
    best: tuple[float, tuple[float, ...]] | None = None
    for count in range(1, 5):
        for chosen in combinations(range(4), count):
            solved = _solved(rows, chosen)
            if solved is None or min(solved) < 0:
                continue
            error = sum((_told(row, solved) / row.seconds - 1) ** 2 for row in rows)
            if best is None or error < best[0]:
                best = error, solved
    if best is None:
        raise SpecError("the calls are too much alike to tell what a step costs")
    return best[1]


def _solved(rows: Sequence[_Row], chosen: Sequence[int]) -> tuple[float, ...] | None:
    """By the normal equations (Gauss); ``None`` where they are singular."""
    scaled = [([row.factors[k] / row.seconds for k in chosen], 1.0) for row in rows]
    size = len(chosen)
    matrix = [
        [sum(x[i] * x[j] for x, _ in scaled) for j in range(size)] + [sum(x[i] for x, _ in scaled)]
        for i in range(size)
    ]
    for k in range(size):
        pivot = max(range(k, size), key=lambda i: abs(matrix[i][k]))
        matrix[k], matrix[pivot] = matrix[pivot], matrix[k]
        if abs(matrix[k][k]) < 1e-12:
            return None
        for i in range(size):
            if i != k:
                ratio = matrix[i][k] / matrix[k][k]
                matrix[i] = [a - ratio * b for a, b in zip(matrix[i], matrix[k], strict=True)]
    found = [0.0] * 4
    for k, coefficient in enumerate(chosen):
        found[coefficient] = matrix[k][size] / matrix[k][k]
    return tuple(found)


def _told(row: _Row, found: Sequence[float]) -> float:
    return sum(factor * seconds for factor, seconds in zip(row.factors, found, strict=True))


def _medians_ms(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return 1000 * median(seen for seen, _ in pairs), 1000 * median(told for _, told in pairs)


def _first_s(o: Outcome) -> float:
    return o.end_s if o.first_token_s is None else o.first_token_s


def _granted_s(o: Outcome) -> float:
    return o.sent_s if o.granted_s is None else o.granted_s
