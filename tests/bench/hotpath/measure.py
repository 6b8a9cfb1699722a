"""Starts every subject and has them take turns under each case."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fairgate.engines.process import free_port
from tests.bench.hotpath.cases import SMALL, Case
from tests.bench.hotpath.figures import Turn, Turns
from tests.bench.hotpath.peers import peers
from tests.bench.hotpath.subjects import CHAT, KEYS, ROOT, UPSTREAM, Subject, imported_from, ours
from tests.bench.parts.load import Fleet, ask_once, request_bytes
from tests.bench.parts.nginx import nginx_command
from tests.bench.parts.processes import Process, allow_open_files, running, until_ready
from tests.bench.parts.valkey import Valkey, valkey

_OPEN_FILES = 16_384
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    cases: Sequence[Case]
    rounds: int
    """Turns of every subject under each case, besides one to warm up."""
    seconds: float
    """Of each turn."""
    with_peers: bool = True
    compiled: Path | None = None
    """Where the compiled package is, if it is to be measured as well."""


@dataclass(frozen=True, slots=True)
class _Serving:
    subject: Subject
    port: int
    process: Process

    def request(self, case: Case, key: str) -> bytes:
        return request_bytes(self.subject.path, key, case.body())


async def measure(plan: Plan, say: Say) -> Turns:
    """Every turn of every subject, by case. Raises ``RuntimeError`` for one that does not serve."""
    allow_open_files(_OPEN_FILES)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(valkey())
        turns: Turns = {}
        for streams in (False, True):
            cases = [case for case in plan.cases if bool(case.chunks) == streams]
            if not cases:
                continue
            async with _everything(folder, store, plan, streams, say) as serving:
                for case in cases:
                    say(f"{case.name}: {case.about}")
                    turns[case.name] = await _rounds(case, serving, store, plan, say)
        return turns


@asynccontextmanager
async def _everything(
    folder: Path, store: Valkey, plan: Plan, streams: bool, say: Say
) -> AsyncIterator[list[_Serving]]:
    """All subjects, over an upstream that can do what is asked for."""
    async with AsyncExitStack() as stack:
        port = free_port()
        command = None if streams else nginx_command(folder, port)
        say(f"upstream: {'nginx' if command else 'tests.bench.parts.upstream'}")
        command = command or (sys.executable, "-m", "tests.bench.parts.upstream", str(port))
        upstream = stack.enter_context(running(command, folder / "upstream.log"))
        await until_ready(upstream, lambda: ask_once(port, _probe(CHAT)))
        url = f"http://127.0.0.1:{port}"
        every = ours(folder, store.url, url, plan.compiled)
        if plan.with_peers:
            every += peers(folder, store.port, url)
        serving: list[_Serving] = []
        for subject in every:
            if not subject.command:
                serving.append(_Serving(subject, port, upstream))
            elif subject.proxy or SMALL in plan.cases:
                try:
                    serving.append(await _start(subject, folder, stack))
                except RuntimeError as error:
                    _excuse(subject, error, say)
        yield serving


async def _start(subject: Subject, folder: Path, stack: AsyncExitStack) -> _Serving:
    port = free_port()
    command = [part.format(port=port) for part in subject.command]
    log = folder / f"{subject.name}.log"
    environ = {**imported_from(ROOT), **subject.environ}
    process = stack.enter_context(running(command, log, environ))
    await until_ready(process, lambda: ask_once(port, _probe(subject.path)))
    return _Serving(subject, port, process)


def _probe(path: str) -> bytes:
    return request_bytes(path, KEYS[0], SMALL.body())


async def _rounds(
    case: Case, serving: Sequence[_Serving], store: Valkey, plan: Plan, say: Say
) -> dict[str, list[Turn]]:
    some = [one for one in serving if one.subject.proxy or case.subjects == "all"]
    turns: dict[str, list[Turn]] = {one.subject.name: [] for one in some}
    for number in range(plan.rounds + 1):
        for one in list(some):
            try:
                turn = await _turn(case, one, store, plan.seconds)
            except (OSError, RuntimeError) as error:
                _excuse(one.subject, error, say)
                some.remove(one)
                del turns[one.subject.name]
            else:
                if number:  # the first only warms up
                    turns[one.subject.name].append(turn)
    return turns


def _excuse(subject: Subject, error: Exception, say: Say) -> None:
    """A peer that fails is left out; anything else ends the run."""
    if not subject.peer:
        raise error
    say(f"{subject.name} is left out: {str(error)[:300]}")


async def _turn(case: Case, one: _Serving, store: Valkey, seconds: float) -> Turn:
    requests = [one.request(case, key) for key in KEYS]
    async with await Fleet.open(one.port, case.connections) as fleet:
        before = one.process.cpu_s(), store.process.cpu_s()
        if case.per_s is None:
            timing = await fleet.drive(requests, seconds=seconds)
        else:
            timing = await fleet.pace(requests, seconds=seconds, per_s=case.per_s)
        after = one.process.cpu_s(), store.process.cpu_s()
    return Turn.of(
        timing,
        cpu_s=after[0] - before[0],
        store_s=0.0 if one.subject.name == UPSTREAM else after[1] - before[1],
        rss_mib=one.process.rss_mib(),
    )
