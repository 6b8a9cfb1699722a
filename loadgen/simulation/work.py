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

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from fairgate.config import Lane, SimulatedEngine
from fairgate.engines.simulated.timing import PROFILES
from loadgen.records import Outcome
from loadgen.service import Accumulated, Interval, Price

_NS = 1_000_000_000


class Work:
    """The work that calls received from simulated engines, as a function of time.

    As a client sees it: what a prompt costs comes with the first token, what an answer costs evenly
    from then to the end (:mod:`loadgen.service`).
    """

    def __init__(self, outcomes: Iterable[Outcome], lanes: Mapping[str, Lane]) -> None:
        engines = {name: _price(engine) for name, engine in named_engines(lanes)}
        calls: defaultdict[str, list[Outcome]] = defaultdict(list)
        for o in outcomes:
            if o.result == "completed" and o.engine in engines:
                calls[o.engine].append(o)
        self.engines = len(engines)
        """That are simulated; work of others is not known."""
        self._received = [
            Accumulated(served, engines[name][0], [_unit(o, *engines[name]) for o in served])
            for name, served in calls.items()
        ]

    def use(self, stretches: Sequence[Interval]) -> float | None:
        """Work received within the stretches (seconds) over what their engines could have given.

        0 to 1; ``None`` without stretches, or where no engine is simulated.
        """
        available_s = self.engines * sum(end_s - start_s for start_s, end_s in stretches)
        received_s = sum(
            work.through(end_s) - work.until(start_s)
            for work in self._received
            for start_s, end_s in stretches
        )
        return received_s / available_s if available_s else None


def named_engines(lanes: Mapping[str, Lane]) -> list[tuple[str, SimulatedEngine]]:
    """The simulated engines by the names they go by in outcomes."""
    return [
        (engine_name(name, index, engine), engine)
        for name, lane in lanes.items()
        for index, engine in enumerate(lane.engines)
        if isinstance(engine, SimulatedEngine)
    ]


def engine_name(lane: str, index: int, engine: SimulatedEngine) -> str:
    """Its own, else that of its place in the lane, as a gateway names it."""
    return engine.name or f"{lane}-{index}"


def _price(engine: SimulatedEngine) -> tuple[Price, float]:
    """Seconds per prompt and output token; and per KV token that an output token attends to."""
    profile = PROFILES[engine.profile].at_speed(engine.speed)
    output_ns = profile.base_ns / engine.max_num_seqs + profile.per_sequence_ns
    return Price(profile.per_prefill_token_ns / _NS, output_ns / _NS), profile.per_kv_token_ns / _NS


def _unit(o: Outcome, price: Price, kv_s: float) -> float:
    """What divides its price, so that the KV tokens it attends to count too."""
    plain_s = price.cost(o.prompt_tokens, o.completion_tokens)
    attended = o.completion_tokens * (o.prompt_tokens + o.completion_tokens / 2)
    return plain_s / (plain_s + kv_s * attended) if plain_s else 1.0
