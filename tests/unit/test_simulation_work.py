"""Work: engine time, whichever calls are served."""

from __future__ import annotations

import pytest

from fairgate.config import HttpEngine, Lane, SimulatedEngine
from fairgate.engines.simulated.scheduler import Scheduler, Sequence
from fairgate.engines.simulated.timing import PROFILES
from loadgen.records import Outcome
from loadgen.simulation.work import Work

ENGINE = SimulatedEngine(profile="a100-70b", max_num_seqs=8, kv_cache_tokens=100_000)
LANES = {"main": Lane(engines=(ENGINE,))}


def completed(prompt: int, output: int, first_token_s: float, end_s: float) -> Outcome:
    return Outcome(
        tenant="a", user=None, app=None, interaction=None, number=0, calls=1, result="completed",
        wanted_prompt_tokens=prompt, wanted_output_tokens=output, prompt_tokens=prompt,
        completion_tokens=output, intended_s=0.0, sent_s=0.0, first_token_s=first_token_s,
        end_s=end_s, engine="main-0",
    )  # fmt: skip


def served(sizes: list[tuple[int, int]]) -> tuple[list[Outcome], float]:
    """What eight sequences at a time take on the engine, one batch of equal calls each."""
    scheduler = Scheduler(
        PROFILES[ENGINE.profile],
        max_num_seqs=ENGINE.max_num_seqs,
        kv_cache_tokens=ENGINE.kv_cache_tokens,
    )
    now_s, outcomes = 0.0, []
    for prompt, output in sizes:
        for n in range(ENGINE.max_num_seqs):
            scheduler.add(Sequence(f"{prompt} {n}", prompt, output))
        began_s = now_s
        while scheduler.busy:
            now_s += scheduler.step().duration_s
        outcomes += [completed(prompt, output, began_s, now_s) for _ in range(ENGINE.max_num_seqs)]
    return outcomes, now_s


@pytest.mark.parametrize("sizes", [[(200, 150)], [(1000, 400)], [(200, 150), (1000, 400)]])
def test_full_batches_are_all_that_an_engine_can_give(sizes: list[tuple[int, int]]) -> None:
    outcomes, end_s = served(sizes)
    assert Work(outcomes, LANES).use([(0.0, end_s)]) == pytest.approx(1.0, abs=0.02)


def test_half_a_batch_is_less_and_half_the_time_is_half() -> None:
    outcomes, end_s = served([(200, 150)])
    assert Work(outcomes[:4], LANES).use([(0.0, end_s)]) == pytest.approx(0.5, abs=0.01)
    assert Work(outcomes, LANES).use([(0.0, 2 * end_s)]) == pytest.approx(0.5, abs=0.01)


def test_sequences_count_whatever_is_in_them() -> None:
    outcomes, end_s = served([(1000, 400)])
    assert Work(outcomes, LANES).running([(0.0, end_s)]) == pytest.approx(1.0)
    assert Work(outcomes[:2], LANES).running([(0.0, end_s)]) == pytest.approx(0.25)
    assert Work(outcomes, LANES).running([(0.0, 2 * end_s)]) == pytest.approx(0.5)


def test_what_is_not_simulated_has_no_known_work() -> None:
    outcomes, end_s = served([(200, 150)])
    lanes = {"main": Lane(engines=(HttpEngine(url="http://127.0.0.1:1"),))}
    assert Work(outcomes, lanes).use([(0.0, end_s)]) is None
    assert Work(outcomes, lanes).running([(0.0, end_s)]) is None
    assert Work(outcomes, LANES).use([]) is None
