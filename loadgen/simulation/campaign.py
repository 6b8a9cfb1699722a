"""Runs scenarios, policies and seeds, side by side on the cores there are."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import structlog

from fairgate.admission.embedded import EmbeddedStore
from fairgate.config import Policy
from loadgen.simulation.capacity import measure_capacity
from loadgen.simulation.curves import Curves, curves
from loadgen.simulation.driver import simulate
from loadgen.simulation.figures import Conditions, Run, figures
from loadgen.simulation.scenarios import Scenario
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One run to be made."""

    scenario: Scenario
    policy: str
    settings: Policy
    seed: int
    load: float
    calls: int
    source: Source
    retries: int = 0
    headroom: float | None = None
    """Of every lane; ``None``: as the site has it."""

    @property
    def name(self) -> str:
        """The policy as it is called in figures."""
        return f"{self.policy}+{100 * self.headroom:g}%" if self.headroom else self.policy

    @property
    def draw(self) -> tuple[str, int]:
        """What its calls are drawn by: experiments with the same one send the same calls."""
        return self.scenario.name, self.seed


@dataclass(frozen=True, slots=True)
class Result:
    """One run that was made."""

    run: Run
    curves: Curves


def experiments(
    scenarios: Sequence[Scenario], policies: Mapping[str, Policy], seeds: int, *,
    load: float | None, calls: int, source: Source, retries: int = 0,
    headrooms: Sequence[float | None] = (None,),
) -> list[Experiment]:  # fmt: skip
    """Every scenario with every policy, headroom and seed; ``load`` replaces the scenarios' own."""
    return [
        Experiment(
            scenario=scenario,
            policy=policy,
            settings=settings,
            seed=seed,
            load=scenario.load if load is None else load,
            calls=calls,
            source=source,
            retries=retries,
            headroom=headroom,
        )
        for scenario, (policy, settings), headroom, seed in product(
            scenarios, policies.items(), headrooms, range(seeds)
        )
    ]


def run_all(planned: Sequence[Experiment], jobs: int) -> Iterator[Result]:
    """Run them in ``jobs`` processes; results come in the order in which they are done.

    The engines' capacity for a draw of calls is measured once, whatever runs it.
    """
    draws = {one.draw: one for one in planned}
    if jobs <= 1:
        _only_warnings()
        capacities = {draw: capacity_for(one) for draw, one in draws.items()}
        yield from (run_one(one, capacities[one.draw]) for one in planned)
        return
    context = multiprocessing.get_context("spawn")
    size = min(jobs, len(planned))
    with ProcessPoolExecutor(size, context, initializer=_only_warnings) as pool:
        capacities = dict(zip(draws, pool.map(capacity_for, draws.values()), strict=True))
        running = [pool.submit(run_one, one, capacities[one.draw]) for one in planned]
        for future in as_completed(running):
            yield future.result()


def capacity_for(experiment: Experiment) -> float:
    """Calls per second that the engines can serve of those that the experiment draws."""
    with _store() as store:
        return measure_capacity(_drawn(experiment), store, experiment.seed)


def run_one(experiment: Experiment, capacity: float) -> Result:
    """Draw the workload and run it on a store of its own, at the ``capacity`` of its draw."""
    with _store() as store:
        paced = _drawn(experiment).at_rate(experiment.load * capacity)
        settings = experiment.settings
        workload, rpm = paced.with_limits(settings.preset)
        if experiment.headroom is not None:
            workload = workload.with_headroom(experiment.headroom)
        how = {"seed": experiment.seed, "retries": experiment.retries}
        recording = simulate(workload, settings, store, **how)
        without = None
        if workload.abuser:
            without = simulate(workload.without_abuser(), settings, store, **how)
    conditions = Conditions(
        scenario=experiment.scenario.name,
        policy=experiment.name,
        headroom=experiment.headroom or 0.0,
        seed=experiment.seed,
        load=experiment.load,
        capacity=capacity,
        rpm=rpm,
    )
    run = figures(conditions, settings, workload, recording, without)
    return Result(run, curves(recording.outcomes, workload.weights, workload.span_s))


def _only_warnings() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def _drawn(experiment: Experiment) -> Workload:
    return experiment.scenario.build(experiment.calls, experiment.seed, experiment.source)


@contextmanager
def _store() -> Iterator[str]:
    """The socket of an embedded store that is ours alone."""
    store = EmbeddedStore()
    with asyncio.Runner() as runner:
        runner.run(store.start())
        try:
            yield store.url.removeprefix("unix://")
        finally:
            runner.run(store.stop())
