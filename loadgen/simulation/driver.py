"""Runs one workload under one policy, from its first call to its last answer, in virtual time.

Clients and engines are simulated; between them stands fairgate's own code, the admission client and
the Lua scripts included, on a real embedded store. Heartbeats go out every virtual second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from fairgate.admission.scripts import compose_script
from fairgate.config import Policy
from fairgate.config.policy import resolve_policy
from loadgen.records import Call, Chain, Outcome
from loadgen.simulation.clock import VirtualLoop
from loadgen.simulation.engine import VirtualEngine, step_due
from loadgen.simulation.gate import Answer, Gate, build_engines
from loadgen.simulation.link import InstantLink
from loadgen.simulation.typical import typical_costs
from loadgen.simulation.workload import POOL, Workload

_PREFIX = f"fg:{{{POOL}}}:"

HEAD_FITS = compose_script(
    "head_fits",
    b"""
    fg.load_settings()
    for _, lane in ipairs(fg.settings.lane_names) do
      local r = fg.head_of_line(lane, 0)
      if r and fg.pick(lane, r.kv, r.avoid) then
        return 1
      end
    end
    return 0
    """,
)
"""Whether the head of any line would fit now, by the scripts' own notion of both; reads only."""


@dataclass(slots=True)
class Recording:
    """What came of a run. Times are virtual seconds."""

    outcomes: list[Outcome] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    """Beside each outcome: what calls of its app typically cost when it was granted (W_a)."""
    idle_while_waiting_s: float = 0.0
    peak_tokens: int = 0
    """Most KV tokens in use at once, over the engines."""
    busy_s: float = 0.0
    """Engine time, summed over engines."""
    script_calls: int = 0


def simulate(
    workload: Workload, policy: Policy, store: str, *, seed: int, retries: int = 0
) -> Recording:
    """Run it on the store at the Unix socket ``store``, which is emptied first.

    ``retries``: how often a client comes back after a 429, honouring ``Retry-After``. Same
    arguments, same recording.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        run = _Run(workload.under(policy), store, runner.get_loop(), seed=seed, retries=retries)
        return runner.run(run.run())


class _Run:
    def __init__(
        self, workload: Workload, store: str, loop: asyncio.AbstractEventLoop,
        *, seed: int, retries: int,
    ) -> None:  # fmt: skip
        assert isinstance(loop, VirtualLoop)  # noqa: S101
        self._workload = workload
        self._loop = loop
        self._retries = retries
        self._link = InstantLink(store, loop.time)
        engines = build_engines(workload, loop)
        self._engines: list[VirtualEngine] = [e for lane in engines.values() for e in lane]
        self._gates = [
            Gate(f"g{n}", workload, engines, self._link, seed=seed)
            for n in range(workload.gateways)
        ]
        self._recording = Recording()
        self._policy = resolve_policy(workload.config.pools[POOL].policy)
        self._looked_at = 0
        self._idle_since: float | None = None

    async def run(self) -> Recording:
        for gate in self._gates:
            await gate.start()
        self._loop.at_rest = self._at_rest
        await self._clients(self._workload.plan)
        self._loop.at_rest = lambda _: False
        for gate in self._gates:
            await gate.stop()
        await self._link.close()
        recording = self._recording
        recording.units = typical_costs(recording.outcomes, self._policy)
        recording.peak_tokens = sum(engine.peak_tokens for engine in self._engines)
        recording.busy_s = sum(engine.busy_s for engine in self._engines)
        recording.script_calls = self._link.calls
        return recording

    def _at_rest(self, until_next_s: float | None) -> bool:
        self._watch_capacity()
        return step_due(self._engines, until_next_s)

    def _watch_capacity(self) -> None:
        """Work conservation, asked of the ledger after whatever scripts ran at this instant."""
        if self._link.calls == self._looked_at:
            return
        self._looked_at = self._link.calls
        now_s = self._loop.time()
        if self._idle_since is not None:
            self._recording.idle_while_waiting_s += now_s - self._idle_since
        somebody_waits = any(gate.asking for gate in self._gates)
        fits = somebody_waits and self._link.run(HEAD_FITS, (f"{_PREFIX}settings",), ())
        self._idle_since = now_s if fits else None

    async def _clients(self, plan: Sequence[Chain]) -> None:
        async with asyncio.TaskGroup() as chains:
            for number, chain in enumerate(plan):
                await asyncio.sleep(max(0.0, chain.start_s - self._loop.time()))
                chains.create_task(self._follow(chain, self._gates[number % len(self._gates)]))

    async def _follow(self, chain: Chain, gate: Gate) -> None:
        for call in chain.calls:
            intended_s = chain.start_s
            if call.number:
                intended_s = self._loop.time() + call.think_s
                await asyncio.sleep(call.think_s)
            if not await self._make(call, intended_s, gate):
                return  # without this call's answer its user has nothing to go on with

    async def _make(self, call: Call, intended_s: float, gate: Gate) -> bool:
        """Whether the call was completed."""
        sent_s = self._loop.time()
        answer = await gate.send(call)
        retries = 0
        while answer.status == 429 and retries < self._retries:
            await asyncio.sleep(answer.retry_after_s)
            retries += 1
            answer = await gate.send(call)
        self._recording.outcomes.append(
            _outcome(call, answer, intended_s, sent_s, self._loop.time(), retries)
        )
        return answer.result == "completed"


def _outcome(
    call: Call, answer: Answer, intended_s: float, sent_s: float, end_s: float, retries: int
) -> Outcome:
    done = answer.result == "completed"
    return Outcome(
        tenant=call.tenant,
        user=call.user,
        app=call.app,
        interaction=call.interaction,
        number=call.number,
        calls=call.calls,
        result=answer.result,
        reason=answer.reason,
        status=answer.status,
        retries=retries,
        wanted_prompt_tokens=call.prompt_tokens,
        wanted_output_tokens=call.output_tokens,
        prompt_tokens=call.prompt_tokens if done else 0,
        completion_tokens=call.output_tokens if done else 0,
        intended_s=intended_s,
        sent_s=sent_s,
        granted_s=answer.granted_s,
        first_token_s=answer.first_token_s,
        end_s=end_s,
        queue_s=answer.queue_s,
        lane=answer.lane or None,
        engine=answer.engine or None,
    )
