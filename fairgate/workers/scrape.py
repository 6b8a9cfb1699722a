"""The metrics of all workers in one answer, whichever of them is asked.

Each worker gives its own Prometheus text to whoever connects to its Unix socket in the folder that
they share. What a process counts carries the label ``worker``; the state of the pool, which all of
them read from the same ledger, is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from fairgate.runtime import Runtime

_TIMEOUT_S = 1.0
_OF_THE_POOL = ("fairgate_lane_", "fairgate_engine_", "fairgate_gateways")


class Scraper:
    """This worker's part: gives its own metrics, and collects those of the others."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number

    @asynccontextmanager
    async def serving(self, runtime: Runtime) -> AsyncIterator[None]:
        """Give this worker's metrics to the others, until the context ends."""

        async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(runtime.metrics.render(runtime.pools))
            writer.close()

        path = self._folder / f"{self._number}.sock"
        path.unlink(missing_ok=True)  # of a predecessor that was killed
        server = await asyncio.start_unix_server(give, path)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)

    async def scrape(self, runtime: Runtime) -> bytes:
        """Prometheus text of all workers that answer within a second."""
        others = self._others()
        texts = await asyncio.gather(*map(_ask, others.values()))
        told = {number: text for number, text in zip(others, texts, strict=True) if text}
        told[self._number] = runtime.metrics.render(runtime.pools).decode()
        return merged(told, self._number)

    def _others(self) -> dict[int, Path]:
        numbered = {int(path.stem): path for path in self._folder.glob("*.sock")}
        numbered.pop(self._number, None)
        return numbered


def merged(texts: Mapping[int, str], own: int) -> bytes:
    """One text of those of all workers, by number; the pool's state as ``own`` tells it."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts, own))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, texts: Mapping[int, str], own: int) -> None:
        self._texts = texts
        self._own = own

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, text in sorted(self._texts.items()):
            for family in text_string_to_metric_families(text):
                of_the_pool = family.name.startswith(_OF_THE_POOL)
                if of_the_pool and number != self._own:
                    continue
                into = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                added = {} if of_the_pool else {"worker": str(number)}
                for sample in family.samples:
                    into.samples.append(sample._replace(labels={**sample.labels, **added}))
        yield from families.values()


async def _ask(path: Path) -> str:
    """What the worker there tells; nothing from one that is gone or hangs."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""
