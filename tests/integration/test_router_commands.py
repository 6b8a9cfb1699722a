"""``fairgate router record`` and ``label``, against gateways and engines that run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import yaml
from aiohttp import web
from support.gateway import bearer, chat, config, eventually, fake_engine, gateway, lane
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.engines.process import free_port
from fairgate.routing.listening import listen

CHAT = "/v1/chat/completions"


def fairgate(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "17 + 25?", "expected": 42, "task": "sum", "check": {"number": 42}},
        {"prompt": "capital of France?", "expected": "Paris", "check": {"contains": ["paris"]}},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


KNOWN = {
    "small": {"17 + 25?": "It is 32.", "capital of France?": "Paris"},
    "large": {"17 + 25?": "It is 42.", "capital of France?": "Paris, I think"},
}


async def says(request: web.Request) -> web.Response:
    """Small, large, and a judge who likes right answers and whatever stands first."""
    body = json.loads(await request.read())
    prompt = body["messages"][-1]["content"]
    if body["model"] == "judge":
        if "[Answer A]" in prompt:
            a, b = prompt.split("[Answer A]")[1].split("[Answer B]")
            right = ["42" in x for x in (a, b)]
            told = "A" if right[0] or not right[1] else "B"
        else:
            told = "Mark: 8" if "42" in prompt or "Paris" in prompt else "Mark: 1"
    else:
        told = KNOWN[body["model"]][prompt]
    message = {"role": "assistant", "content": told}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


async def echo(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return web.json_response({"choices": [{"message": body["messages"][-1]}], "usage": usage})


@pytest.mark.parametrize(
    ("by", "scores"),
    [
        ("exact", [{"small": 0, "large": 1}, {"small": 1, "large": 0}]),
        ("unit", [{"small": 0, "large": 1}, {"small": 1, "large": 1}]),
        ("judge", [{"small": 0.1, "large": 0.8}, {"small": 0.8, "large": 0.8}]),
        ("pairwise", [{"small": 0, "large": 0.5}, {"small": 0.5, "large": 0.5}]),
    ],
)
async def test_label_asks_the_engines_and_scores(
    prompts: Path, tmp_path: Path, by: str, scores: list[dict[str, float]]
) -> None:
    port, out = free_port(), tmp_path / "labels.jsonl"
    async with fake_engine(port, says):
        url = f"http://127.0.0.1:{port}"
        engines = ["--engine", f"small={url}", "--engine", f"large={url}"]
        judge = ["--judge", f"judge={url}"]
        code, text = await asyncio.to_thread(
            fairgate, "router", "label", prompts, "--out", out, "--by", by, *engines, *judge
        )
    assert (code, text) == (0, "labelled 2 of 2 lines\n")
    found = lines(out)
    assert [label["scores"] for label in found] == scores
    assert found[0]["task"] == "sum"
    assert found[0]["answers"]["large"] == "It is 42."


def test_what_cannot_be_labelled_is_told_and_the_rest_is_kept(
    prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": "a", "expected": "x", "answers": {"m": "x"}},
        {"prompt": "b", "answers": {"m": "x"}},
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, text = fairgate("router", "label", prompts, "--out", out)
    assert code == 1
    assert "no 'expected' for the prompt 'b'" in text
    assert [label["scores"] for label in lines(out)] == [{"m": 1}]
    code, text = fairgate("router", "label", prompts, "--out", out, "--by", "guess")
    assert code == 2
    assert "guess" in text
    prompts.write_text('{"prompt": 1}\n')
    code, text = fairgate("router", "label", prompts, "--out", out)
    assert code == 2
    assert "line 1" in text


async def rewards(request: web.Request) -> web.Response:
    """The longer, the better."""
    told = json.loads(await request.read())
    return web.json_response({"scores": [len(answer) for answer in told["answers"]]})


async def test_label_says_what_a_verifier_and_a_service_would_pick(tmp_path: Path) -> None:
    prompts, out, port = tmp_path / "prompts.jsonl", tmp_path / "labels.jsonl", free_port()
    answers = ["nowhere", "France", "I do not know"]
    row = {"prompt": "capital of France?", "expected": "France", "answers": {"m": answers}}
    prompts.write_text(json.dumps(row) + "\n")

    def picked(scorer: str) -> tuple[str, list[float]]:
        words = ["--samples", "3", "--most", "3", "--scorer", scorer]
        code, text = fairgate("router", "label", prompts, "--out", out, *words)
        assert code == 0, text
        (label,) = lines(out)
        return label["scorer"], label["chosen"]["m"][2]

    by_function = await asyncio.to_thread(picked, "verifier=operator:contains")
    assert by_function == ("verifier", [0, 1, 0]), "of these only France stands in the prompt"
    async with fake_engine(port, rewards):
        url = f"http=http://127.0.0.1:{port}/v1/chat/completions"
        assert await asyncio.to_thread(picked, url) == ("http", [0, 0, 1])


@pytest.mark.parametrize("scorer", ["guess", "verifier", "http=here", "verifier=nowhere:none"])
def test_label_says_which_scorers_there_are(prompts: Path, tmp_path: Path, scorer: str) -> None:
    out = tmp_path / "labels.jsonl"
    out.write_text("labels of before")
    words = ["--samples", "2", "--scorer", scorer]
    code, text = fairgate("router", "label", prompts, "--out", out, *words)
    assert code == 2
    assert "--scorer" in text
    assert out.read_text() == "labels of before"


async def test_record_takes_from_running_gateways_what_they_decide(
    valkey_server: str, valkey: redis.Redis, tmp_path: Path
) -> None:
    port = free_port()
    async with fake_engine(port, echo):
        url = f"http://127.0.0.1:{port}"
        small, large = lane(url), lane(url, price=8.0)
        settings = config({"small": small | {"model": "s"}, "large": large | {"model": "l"}},
                          store=valkey_server)  # fmt: skip
        settings["pools"]["main"]["routing"] = {
            "router": "price-order", "record": {"prompts": True},
        }  # fmt: skip
        taken: list[bytes] = []
        with gateway(tmp_path / "gate", settings, ready=False) as gate:
            await eventually(lambda: "ready http" in gate.text())
            async with aiohttp.ClientSession() as http:
                work = asyncio.create_task(
                    listen(valkey_server, "main", taken.append, prompts=True)
                )

                async def asked() -> bool:
                    body = chat("tell 0.1", model="auto", max_tokens=2)
                    async with http.post(gate.url + CHAT, json=body, headers=bearer()) as answer:
                        assert answer.status == 200
                        told = {"request_id": answer.headers["x-request-id"], "score": 1}
                    url = f"{gate.url}/fairgate/v1/feedback"
                    async with http.post(url, json=told, headers=bearer()) as judged:
                        assert judged.status == 200
                    return len(taken) >= 4

                await eventually(asked)
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"".join(taken))
    first = lines(file)[0]
    assert (first["event"], first["prompt"], first["lane"]) == ("served", "tell 0.1", "small")
    assert not valkey.exists("fg:{main}:recording")
    out = tmp_path / "labels.jsonl"
    code, _ = await asyncio.to_thread(
        fairgate, "router", "label", file, "--out", out, "--by", "feedback"
    )
    assert code == 0
    assert lines(out)[0] == {"prompt": "tell 0.1", "task": "default", "scores": {"s": 1.0}}


def test_record_says_why_it_cannot_reach_an_embedded_store(tmp_path: Path) -> None:
    file = tmp_path / "fairgate.yaml"
    file.write_text(yaml.safe_dump(config({"tiny": lane("http://127.0.0.1:9")})))
    code, text = fairgate("router", "record", "--config", file, "--out", tmp_path / "out")
    assert code == 2
    assert "routing.record.file" in text
