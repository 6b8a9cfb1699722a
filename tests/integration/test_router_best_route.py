"""BEST-Route from labels to the ledger: several answers are labelled, heads trained on them, and a
gateway asks the small model several times where that will do, else the large one once."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from support.gateway import (
    LedgerView,
    bearer,
    chat,
    config,
    engine,
    eventually,
    fake_engine,
    gateway,
    lane,
)
from support.routing import prompts
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.engines.process import free_port
from fairgate.routing.loading import load_predictor

CHAT = "/v1/chat/completions"
SMALL, LARGE = "tiny", "huge"
SAMPLES = 6


def fairgate(*words: object) -> str:
    ran = CliRunner().invoke(app, ["router", *map(str, words)])
    assert ran.exit_code == 0, ran.output
    return ran.output


def right(model: str, prompt: str, rng: random.Random) -> bool:
    """The large model is nearly always right; the small one often where words are easy, and hardly
    ever where they are not."""
    if model == LARGE:
        return rng.random() < 0.97
    return rng.random() < (0.7 if "hard" not in prompt else 0.04)


async def writes(request: web.Request) -> web.Response:
    """As many answers as are asked for, the surer the better."""
    body = json.loads(await request.read())
    prompt = body["messages"][-1]["content"]
    rng = random.Random(f"{body['model']} {prompt}")
    choices = []
    for index in range(body.get("n", 1)):
        good = right(body["model"], prompt, rng)
        logprob = rng.gauss(-0.5 if good else -2.5, 0.4)
        choices.append({
            "index": index,
            "message": {"role": "assistant", "content": "yes" if good else "no"},
            "logprobs": {"content": [{"token": "t", "logprob": min(logprob, 0.0)}]},
        })  # fmt: skip
    return web.json_response({"choices": choices})


async def labelled(folder: Path) -> Path:
    """What ``fairgate router label`` makes of live traffic's prompts, and of two engines."""
    live, out = folder / "live.jsonl", folder / "labels.jsonl"
    rows: list[dict[str, Any]] = []
    for text, hard in prompts(240, seed=1):
        prompt = f"{text} {'hard' if hard else 'easy'}"
        rows.append({"event": "served", "id": text, "prompt": prompt, "expected": "yes"})
        rows.append({"event": "scored", "id": text, "score": 1})
    live.write_text("".join(json.dumps(row) + "\n" for row in rows))
    port = free_port()
    async with fake_engine(port, writes):
        url = f"http://127.0.0.1:{port}"
        engines = ["--engine", f"{SMALL}={url}", "--engine", f"{LARGE}={url}"]
        several = ["--samples", SAMPLES, "--most", 4, "--scorer", "log-probability"]
        told = await asyncio.to_thread(
            fairgate, "label", live, "--out", out, "--max-tokens", 4, *engines, *several
        )
    assert told == "labelled 240 of 480 lines\n"
    return out


async def test_from_labels_to_the_ledger(tmp_path: Path, valkey_server: str) -> None:
    labels, file = await labelled(tmp_path), tmp_path / "router.safetensors"
    first = json.loads(labels.read_text().splitlines()[0])
    assert [len(first[part][SMALL]) for part in ("scores", "answers", "chosen")] == [
        SAMPLES
    ] * 2 + [4]
    said = await asyncio.to_thread(fairgate, "train", labels, "--out", file)
    assert "heads for 1 to 4 answers, picked by log-probability" in said
    several = load_predictor(file).predict(EASY).several
    assert several is not None
    one, *_, most = several.as_good[SMALL]
    assert one < 0.8 < most, "one answer is not good enough, several are"

    with (
        engine(tmp_path, "--profile", "instant", "--model", SMALL) as small,
        engine(tmp_path, "--profile", "instant", "--model", LARGE) as large,
    ):
        lanes = {
            "small": lane(small.url, model=SMALL), "large": lane(large.url, model=LARGE, price=50.0)
        }  # fmt: skip
        settings = config(lanes, store=valkey_server, pool="best-route")
        pool = settings["pools"]["best-route"]
        pool["best_of"] = {"max_samples": 4, "scorer": {"type": "log-probability"}}
        pool["routing"] = {
            "router": "best-route", "artifact": str(file), "best_route": {"threshold": 0.8},
        }  # fmt: skip
        with (
            LedgerView(valkey_server, "best-route") as ledger,
            gateway(tmp_path / "gate", settings) as gate,
        ):
            async with aiohttp.ClientSession() as http:

                async def asked(text: str, **fields: Any) -> tuple[dict[str, str], Any]:
                    body = chat(text, model="auto", max_tokens=5) | fields
                    async with http.post(gate.url + CHAT, json=body, headers=bearer()) as answer:
                        assert answer.status == 200, await answer.text()
                        return dict(answer.headers), await answer.json()

                headers, got = await asked(EASY)
                assert headers["x-fairgate-lane"] == "small"
                samples = int(headers["x-fairgate-samples"])
                assert samples > 1
                assert headers["x-fairgate-router"].startswith("best-route; reason=samples;")
                assert len(got["choices"]) == 1
                assert got["usage"]["completion_tokens"] == samples * 5
                paid = got["usage"]["total_tokens"]
                await eventually(lambda: ledger.idle() and ledger.tokens() == paid)

                headers, got = await asked(HARD)
                assert headers["x-fairgate-lane"] == "large"
                assert headers["x-fairgate-router"].startswith("best-route; reason=difficulty;")
                assert got["usage"]["completion_tokens"] == 5
                paid += got["usage"]["total_tokens"]
                await eventually(lambda: ledger.idle() and ledger.tokens() == paid)

                # Of equal quality: what cannot be sampled needs the large model's one answer.
                headers, _ = await asked(EASY, temperature=0)
                assert headers["x-fairgate-lane"] == "large"


EASY = "Question 3 about sea tree dog house river bread?\n easy"
HARD = (
    "Question 4 about lemma kernel tensor measure theorem integral?\nA. 12\nB. 3\nC. 45\nD. 6 hard"
)
