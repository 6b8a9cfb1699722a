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
    """Run them in ``jobs`` processes; results come in the order in which they are done."""
    if jobs <= 1:
        yield from map(run_one, planned)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(planned)), mp_context=context) as pool:
        for future in as_completed([pool.submit(run_one, one) for one in planned]):
            yield future.result()


def run_one(experiment: Experiment) -> Result:
    """Draw the workload, measure the engines' capacity for it, and run it on a store of its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    drawn = experiment.scenario.build(experiment.calls, experiment.seed, experiment.source)
    with _store() as store:
        capacity = measure_capacity(drawn, store, experiment.seed)
        paced = drawn.at_rate(experiment.load * capacity)
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
