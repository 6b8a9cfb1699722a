"""Sends a workload to a gateway in real time, and records it as the simulation records its runs."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from msgspec.structs import replace

from fairgate.config import Policy
from fairgate.config.policy import resolve_policy
from loadgen.client import Request
from loadgen.errors import TargetError
from loadgen.job import Finished, Job, send
from loadgen.measurement.gateway import gateway
from loadgen.measurement.scaling import longest_s
from loadgen.records import Outcome
from loadgen.report import lost_by_cause
from loadgen.simulation.driver import Recording
from loadgen.simulation.typical import typical_costs
from loadgen.simulation.workload import POOL, Workload, key_of
from loadgen.tenants import Tenant


async def play(
    workloads: Sequence[Workload], policy: Policy, folder: Path, *, seed: int, retries: int = 0
) -> list[Recording]:
    """Run them one after the other on a gateway that is started for them.

    They share a site. The clients are those of ``loadgen replay``; ``folder`` gets the gateway's
    file and log. Raises ``TargetError`` when it does not start or serves nothing. Cancelled:
    nothing is left running.
    """
    async with gateway(workloads[0].under(policy).config, folder) as url:
        return [
            Recording(outcomes=outcomes, units=typical_costs(outcomes, resolve_policy(policy)))
            for workload in workloads
            for outcomes in [await _outcomes(_job(workload, url, seed, retries), folder)]
        ]


async def _outcomes(job: Job, folder: Path) -> list[Outcome]:
    finished = Finished()
    await send(job, finished)
    outcomes = [_named(outcome) for outcome in finished.outcomes]
    if all(outcome.result == "error" for outcome in outcomes):
        raise TargetError(f"the gateway served nothing, see {folder}: {lost(outcomes)}")
    return outcomes


def lost(outcomes: Sequence[Outcome]) -> str:
    """Errors by cause, in words; empty where there is none."""
    causes = sorted(lost_by_cause(outcomes).items())
    return ", ".join(
        f"{count} of {tenant}: {reason}"
        for (result, tenant, reason), count in causes
        if result == "error"
    )


def _job(workload: Workload, url: str, seed: int, retries: int) -> Job:
    (lane,) = workload.config.pools[POOL].lanes
    return Job(
        target=url,
        tenants={name: Tenant(key=key_of(name)) for name in workload.weights},
        plan=workload.plan,
        # Without a chat template a prompt has the tokens that the plan says.
        request=Request(model=lane, api="completions", retries=retries),
        max_duration_s=longest_s(workload),
        seed=seed,
    )


def _named(outcome: Outcome) -> Outcome:
    """With the cause of a 429 as the simulation calls it, as far as an answer tells: the deadline
    of the line, but not which limit it was."""
    if outcome.status != HTTPStatus.TOO_MANY_REQUESTS:
        return outcome
    return replace(outcome, reason=outcome.reason.partition(":")[2] or outcome.reason)
