"""Asks prompts through a gateway with three tenants' knobs, and scores what comes back."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import numpy as np

from fairgate.engines.process import free_port
from fairgate.labelling.exact import Check, passes
from tests.bench.routing_real.labelled import LARGE, MAX_TOKENS, SMALL, Labelled
from tests.bench.routing_real.recorded import Chosen, Floats, Knob, Row, interval

SEQUENCES = 32
AT_ONCE = 24
START_S = 600.0
PRICES = {"small": 1.0, "large": 4.0}


@dataclass(frozen=True, slots=True)
class Answered:
    """What one tenant got, in the order of the prompts."""

    small: Chosen
    """The small model answered."""
    score: Floats


def configuration(
    engines: Mapping[str, Mapping[str, Any]], tenants: Mapping[str, Knob], artifact: Path
) -> dict[str, Any]:
    """A gateway for ``tenants`` before ``engines``, by lane. A call waits for the lane that the
    knob chose, so that what is measured is the knob and not the load."""
    models = {"small": SMALL, "large": LARGE}
    lanes = {
        lane: {
            "model": models[lane], "price": PRICES[lane], "engines": [dict(engine)],
            "queue": {"timeout_s": START_S},
        }
        for lane, engine in engines.items()
    }  # fmt: skip
    routing = {"router": "hybrid", "artifact": str(artifact), "overflow": False}
    return {
        "pools": {"main": {"lanes": lanes, "routing": routing}},
        "tenants": {
            name: {"keys": [{"sha256": sha256(name.encode()).hexdigest()}], **_named(knob)}
            for name, knob in tenants.items()
        },
    }


def spawned(folder: Path) -> dict[str, dict[str, Any]]:
    """Engines that the gateway starts by itself, from the weights in ``folder``."""
    names = {"small": "smollm2-135m-instruct", "large": "qwen2.5-coder-0.5b-instruct"}
    return {
        lane: {
            "type": "vllm", "model": str(folder / name), "max_num_seqs": SEQUENCES,
            "args": ["--enforce-eager", "--max-model-len", "2048"],
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}, "start_timeout_s": START_S,
        }
        for lane, name in names.items()
    }  # fmt: skip


def running(small: str, large: str) -> dict[str, dict[str, Any]]:
    """Engines that run at these addresses."""
    urls = {"small": small, "large": large}
    return {
        lane: {"type": "http", "url": url, "max_num_seqs": SEQUENCES} for lane, url in urls.items()
    }


async def ask(
    settings: Mapping[str, Any], prompts: Labelled, tenants: Sequence[str]
) -> dict[str, Answered]:
    """Every prompt once for each tenant, all tenants at once, in an order of chance."""
    texts = prompts.records.prompts
    calls = [(tenant, i) for tenant in tenants for i in range(len(texts))]
    Random(0).shuffle(calls)
    lanes = {tenant: np.zeros(len(texts), np.bool_) for tenant in tenants}
    scores = {tenant: np.zeros(len(texts)) for tenant in tenants}
    free = asyncio.Semaphore(AT_ONCE)
    async with _gateway(settings) as url, aiohttp.ClientSession() as http:

        async def one(tenant: str, i: int) -> None:
            async with free:
                lane, answer = await _call(http, url, tenant, texts[i])
            lanes[tenant][i] = lane == "small"
            scores[tenant][i] = _score(prompts.checks[i], answer)

        await asyncio.gather(*(one(*call) for call in calls))
    return {tenant: Answered(lanes[tenant], scores[tenant]) for tenant in tenants}


async def _call(http: aiohttp.ClientSession, url: str, tenant: str, prompt: str) -> tuple[str, str]:
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    sent = {"authorization": f"Bearer {tenant}"}
    timeout = aiohttp.ClientTimeout(total=START_S)
    path = f"{url}/v1/chat/completions"
    async with http.post(path, json=body, headers=sent, timeout=timeout) as told:
        if told.status != 200:
            raise RuntimeError(f"{told.status}: {(await told.text())[:200]}")
        answer = await told.json()
        return told.headers["x-fairgate-lane"], answer["choices"][0]["message"]["content"] or ""


@asynccontextmanager
async def _gateway(settings: Mapping[str, Any]) -> AsyncIterator[str]:
    """The address of a gateway that is ready; it ends, with what it started, on leaving."""
    with tempfile.TemporaryDirectory(prefix="routing-real-") as folder:
        file, log, port = Path(folder) / "fairgate.json", Path(folder) / "log", free_port()
        file.write_bytes(msgspec.json.encode(settings))
        command = [sys.executable, "-m", "fairgate.cli", "serve", "--config", str(file)]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, "--port", str(port), "--log-dir", folder, stdout=output, stderr=output
            )
        try:
            url = f"http://127.0.0.1:{port}"
            if not await _ready(process, url):
                raise RuntimeError(f"the gateway is not ready:\n{_end(log)}")
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str) -> bool:
    until = time.monotonic() + START_S
    async with aiohttp.ClientSession() as http:
        while process.returncode is None and time.monotonic() < until:
            try:
                async with http.get(f"{url}/readyz") as told:
                    if told.status == 200:
                        return True
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    return False


def _end(log: Path) -> str:
    return log.read_text()[-2000:]


def row(prompts: Labelled, got: Answered) -> Row:
    """What one tenant saved, and lost against the large model's recorded answers."""
    small, large = prompts.records.quality.astype(np.float64).T
    again = np.where(got.small, small, large)
    return {
        "prompts": str(len(large)),
        "large calls saved": f"{got.small.mean():.1%}",
        "quality": f"{got.score.mean():.3f}",
        "large alone": f"{large.mean():.3f}",
        "drop": f"{1 - got.score.sum() / large.sum():+.1%}",
        "95 %": "{:+.1%}..{:+.1%}".format(*interval(large - got.score, large)),
        "scored as before": f"{(got.score == again).mean():.1%}",
    }


def _named(knob: Knob) -> dict[str, float]:
    return {"drop": knob.drop} if knob.drop is not None else {"quality": knob.quality or 0.0}


def _score(check: Check, answer: str) -> float:
    return float(passes(check, answer))
