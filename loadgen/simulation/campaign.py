"""Runs scenarios, policies and seeds, side by side on the cores there are."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from random import Random

import structlog
from msgspec.structs import replace as replace_struct

from fairgate.admission.embedded import EmbeddedStore
from fairgate.config import Policy, Queue
from loadgen.records import Call, Chain
from loadgen.simulation.curves import Curves, curves
from loadgen.simulation.driver import simulate
from loadgen.simulation.figures import Conditions, Run, figures
from loadgen.simulation.policies import PRESETS
from loadgen.simulation.scenarios import REFUSED_BY_RPM, Scenario
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import POOL, Workload, rpm_that_refuses

_PROBE_CALLS = 1500


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
    headroom: float = 0.0
    """Of every lane."""

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
    headrooms: Sequence[float] = (0.0,),
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
        rpm = 0
        if drawn.limited or settings.preset == "rpm":
            rpm = rpm_that_refuses(paced.without_abuser().plan, REFUSED_BY_RPM)
        workload = paced.with_user_rpm(rpm).with_headroom(experiment.headroom)
        how = {"seed": experiment.seed, "retries": experiment.retries}
        recording = simulate(workload, settings, store, **how)
        without = None
        if workload.abuser:
            without = simulate(workload.without_abuser(), settings, store, **how)
    conditions = Conditions(
        scenario=experiment.scenario.name,
        policy=experiment.name,
        headroom=experiment.headroom,
        seed=experiment.seed,
        load=experiment.load,
        capacity=capacity,
        rpm=rpm,
    )
    run = figures(conditions, settings, workload, recording, without)
    return Result(run, curves(recording.outcomes, workload.weights, workload.span_s))


def measure_capacity(workload: Workload, store: str, seed: int) -> float:
    """Calls per second of the engines when a sample of the calls all come at once (``fcfs``).

    Measured between two fifths and nine tenths of the answers: before, the apps' profiles are not
    yet learned and more is reserved than needed; after, the last stragglers remain.
    """
    calls = [call for chain in workload.plan for call in chain.calls]
    chosen = Random(f"probe {seed}").sample(calls, min(_PROBE_CALLS, len(calls)))  # noqa: S311
    alone = [Chain(0.0, (_single(call),)) for call in chosen]
    patient = _patient(replace(workload, plan=alone, gateways=1))
    ends = sorted(o.end_s for o in simulate(patient, PRESETS["fcfs"], store, seed=seed).outcomes)
    first, last = len(ends) * 2 // 5, len(ends) * 9 // 10
    return (last - first) / (ends[last] - ends[first])


def _single(call: Call) -> Call:
    return replace(call, interaction=None, number=0, calls=1, think_s=0.0)


def _patient(workload: Workload) -> Workload:
    """Nobody gives up in line."""
    pool = workload.config.pools[POOL]
    queue = Queue(timeout_s=1e9)
    lanes = {name: replace_struct(lane, queue=queue) for name, lane in pool.lanes.items()}
    pools = {POOL: replace_struct(pool, lanes=lanes)}
    return replace(workload, config=replace_struct(workload.config, pools=pools))


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
