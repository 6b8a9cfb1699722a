"""What calls cost the engines: engine time, the same whichever calls a policy serves.

Tokens per second tell policies apart that keep the engines equally busy: a token of a prompt costs
an engine a fraction of what a token of an answer does, so who serves more long prompts delivers
more tokens with the same engines. The *work* of a call is the engine time that the timing model
(:mod:`fairgate.engines.simulated.timing`) charges for it in a full batch: its own tokens, and of
the base of each step the part that one of ``max_num_seqs`` sequences bears. Engines that run full
batches deliver nearly one second of work per second (the base of a step that only prefills is
nobody's); smaller batches, also such as the KV cache forces, deliver less, idle engines nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fairgate.config import Lane, SimulatedEngine
from fairgate.engines.simulated.timing import PROFILES
from loadgen.records import Outcome
from loadgen.service import Interval, overlap

_NS = 1_000_000_000


class Work:
    """The work that calls received from simulated engines, as a function of time.

    What a prompt costs comes evenly from the grant to the first token, what an answer costs evenly
    from then to the end: a client cannot see more.
    """

    def __init__(self, outcomes: Iterable[Outcome], lanes: Mapping[str, Lane]) -> None:
        costs = {name: Cost(engine) for name, engine in named_engines(lanes)}
        self.engines = len(costs)
        """That are simulated; work of others is not known."""
        self._sequences = sum(engine.max_num_seqs for _, engine in named_engines(lanes))
        self._held: list[Interval] = []
        slopes: defaultdict[float, float] = defaultdict(float)
        for o in outcomes:
            if o.result == "completed" and o.engine in costs:
                self._held.append((_granted_s(o), o.end_s))
                for (start_s, end_s), work_s in _parts(o, costs[o.engine]):
                    slope = work_s / max(end_s - start_s, 1e-9)
                    slopes[start_s] += slope
                    slopes[max(end_s, start_s + 1e-9)] -= slope
        self._times = sorted(slopes)
        self._slopes: list[float] = []
        self._totals: list[float] = []
        total = slope = last_s = 0.0
        for at_s in self._times:
            total += slope * (at_s - last_s)
            slope, last_s = slope + slopes[at_s], at_s
            self._totals.append(total)
            self._slopes.append(slope)

    def until(self, at_s: float) -> float:
        """Seconds of work received so far."""
        index = bisect_right(self._times, at_s) - 1
        if index < 0:
            return 0.0
        return self._totals[index] + self._slopes[index] * (at_s - self._times[index])

    @property
    def total_s(self) -> float:
        """Seconds of work received until the end."""
        return self._totals[-1] if self._totals else 0.0

    def use(self, stretches: Sequence[Interval]) -> float | None:
        """Work received within the stretches (seconds) over what their engines could have given.

        About 0 to 1; ``None`` without stretches, or where no engine is simulated.
        """
        available_s = self.engines * sum(end_s - start_s for start_s, end_s in stretches)
        received_s = sum(self.until(end_s) - self.until(start_s) for start_s, end_s in stretches)
        return received_s / available_s if available_s else None

    def running(self, stretches: Sequence[Interval]) -> float | None:
        """Sequences that calls held within the stretches over ``max_num_seqs``: as :meth:`use`."""
        available_s = self._sequences * sum(end_s - start_s for start_s, end_s in stretches)
        held_s = sum(
            end_s - start_s for held in self._held for start_s, end_s in overlap([held], stretches)
        )
        return held_s / available_s if available_s else None


class Cost:
    """The work that calls are for one engine, in seconds."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._profile = PROFILES[engine.profile].at_speed(engine.speed)
        self._per_output_ns = (
            self._profile.base_ns / engine.max_num_seqs + self._profile.per_sequence_ns
        )

    def prompt_s(self, prompt_tokens: int) -> float:
        """Until the first token."""
        return self._profile.per_prefill_token_ns * prompt_tokens / _NS

    def answer_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """From the first token to the last."""
        attended = output_tokens * (prompt_tokens + output_tokens / 2)
        kv_ns = self._profile.per_kv_token_ns * attended
        return (self._per_output_ns * output_tokens + kv_ns) / _NS

    def call_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """The whole call."""
        return self.prompt_s(prompt_tokens) + self.answer_s(prompt_tokens, output_tokens)


def named_engines(lanes: Mapping[str, Lane]) -> list[tuple[str, SimulatedEngine]]:
    """The simulated engines by the names they go by in outcomes."""
    return [
        (engine.name or f"{name}-{index}", engine)
        for name, lane in lanes.items()
        for index, engine in enumerate(lane.engines)
        if isinstance(engine, SimulatedEngine)
    ]


def _parts(o: Outcome, cost: Cost) -> Iterator[tuple[Interval, float]]:
    """When the prompt and the answer were computed, and the seconds of work they are."""
    first_s = o.end_s if o.first_token_s is None else o.first_token_s
    yield (_granted_s(o), first_s), cost.prompt_s(o.prompt_tokens)
    yield (first_s, o.end_s), cost.answer_s(o.prompt_tokens, o.completion_tokens)


def _granted_s(o: Outcome) -> float:
    return o.sent_s if o.granted_s is None else o.granted_s
