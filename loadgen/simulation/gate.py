"""The gateway of a simulation: the real identity, estimates, admission and accounting of fairgate.

Only what lies outside of it is simulated: clients, the way of the bytes, and engines.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from fairgate import codec
from fairgate.admission.ledger import Ledger, parse_notes
from fairgate.errors import Refusal, Throttled
from fairgate.identity import Identity, Principal, complete
from fairgate.pool import Pool
from fairgate.usage import Usage
from loadgen.records import Call, Result
from loadgen.simulation.engine import VirtualEngine
from loadgen.simulation.link import InstantLink
from loadgen.simulation.work import named_engines
from loadgen.simulation.workload import POOL, Workload, key_of

_JSON_BYTES_PER_TOKEN = 4.0
_SPREAD = 0.1  # of bytes per token between prompts


@dataclass(frozen=True, slots=True)
class Answer:
    """How the gateway answered one attempt; times are virtual seconds."""

    result: Result
    reason: str = ""
    status: int = 200
    retry_after_s: float = 0.0
    queue_s: float = 0.0
    granted_s: float | None = None
    first_token_s: float | None = None
    lane: str = ""
    engine: str = ""


class Gate:
    """One gateway process on the virtual loop."""

    def __init__(
        self, name: str, workload: Workload, engines: dict[str, list[VirtualEngine]],
        link: InstantLink, *, seed: int,
    ) -> None:  # fmt: skip
        self._config = workload.config
        self._models = workload.models
        self._caps_output = workload.caps_output
        self._identity = Identity(workload.config)
        self._engines = {lane: {e.name: e for e in found} for lane, found in engines.items()}
        self._seed = seed
        self._name = name
        self._attempts = 0
        self.asking = 0
        """Calls that are neither granted nor refused yet."""
        self.pool = Pool(
            POOL, workload.config, engines, link=link, store_url="unix://", gateway=name
        )
        self._link = link

    async def start(self) -> None:
        """Join the pool."""
        channel = Ledger(self._link, POOL, self._name).channel
        self._link.listen(channel, lambda text: self.pool.admission.take(parse_notes(text)))
        await self.pool.monitor.start()
        await self.pool.admission.start()

    async def stop(self) -> None:
        """Leave the pool."""
        await self.pool.monitor.stop()
        await self.pool.admission.stop()

    async def send(self, call: Call) -> Answer:
        """One attempt at ``call``, from its arrival to its last token."""
        loop = asyncio.get_running_loop()
        pool, body = self.pool, self._body(call)
        principal = self._principal(call)
        lanes = pool.lanes_for(self._models.get(principal.app), body)
        estimate = pool.estimate(body, principal, lanes[0], self._config)
        self._attempts += 1
        ask = pool.ask(f"{self._name}-{self._attempts}", principal, lanes, estimate)
        came_s = loop.time()
        self.asking += 1
        try:
            grant = await pool.admission.acquire(ask)
        except Refusal as refusal:
            return _refused(refusal, queue_s=loop.time() - came_s)
        finally:
            self.asking -= 1
        granted_s = loop.time()
        engine = self._engines[grant.lane][grant.engine]
        run = engine.submit(ask.id, call.prompt_tokens, call.output_tokens)
        await run.ended
        usage = Usage(call.prompt_tokens, call.output_tokens, exact=True)
        pool.admission.settle(grant.id, pool.served(body, estimate, usage, learn=True))
        return Answer(
            "completed", queue_s=grant.queue_s, granted_s=granted_s, lane=grant.lane,
            engine=grant.engine, first_token_s=run.first_token_s,
        )  # fmt: skip

    def _body(self, call: Call) -> codec.Call:
        """What the gateway would read: bytes, and no token counts but a cap of the output."""
        ratio = Random(f"bytes {self._seed} {call.index}").gauss(1.0, _SPREAD)  # noqa: S311
        size = _JSON_BYTES_PER_TOKEN * max(0.5, ratio) * call.prompt_tokens
        return codec.Call(
            route="completions",
            stream=True,
            prompt_bytes=round(size),
            max_output_tokens=call.output_tokens if self._caps_output else None,
            fields={},
        )

    def _principal(self, call: Call) -> Principal:
        headers = [(b"authorization", f"Bearer {key_of(call.tenant)}".encode())]
        for name, value in (
            (b"x-fairgate-app", call.app),
            (b"x-fairgate-user", call.user),
            (b"x-fairgate-interaction", call.interaction),
        ):
            if value:
                headers.append((name, value.encode()))
        return complete(self._identity.identify(headers), None, None)


def build_engines(
    workload: Workload, loop: asyncio.AbstractEventLoop
) -> dict[str, list[VirtualEngine]]:
    """The engines of each lane; every one must be simulated."""
    lanes = workload.config.pools[POOL].lanes
    return {
        name: [
            VirtualEngine(engine_name, spec, loop)
            for engine_name, spec in named_engines({name: lane})
        ]
        for name, lane in lanes.items()
    }


def _refused(refusal: Refusal, *, queue_s: float) -> Answer:
    throttled = refusal.status == Throttled.status
    limit = refusal.limit if isinstance(refusal, Throttled) else None
    return Answer(
        "throttled" if throttled else "error",
        reason=limit or refusal.code or "",
        status=refusal.status,
        retry_after_s=refusal.retry_after or 0.0,
        queue_s=queue_s,
    )
