"""``model: auto`` on day one: the shipped artefact routes between lanes called small and large."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
from aiohttp import web
from support.gateway import bearer, chat, config, eventually, fake_engine, gateway, lane, metrics

from fairgate.engines.process import free_port

HARD = (
    "Let G be a finite group of order 2023. Determine, up to isomorphism, all G whose centre is "
    "trivial, and prove that the list is complete.\nA. none\nB. one\nC. two\nD. three\nAnswer:"
)


async def says_its_name(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    message = {"role": "assistant", "content": body["model"]}
    return web.json_response({"choices": [{"message": message}], "usage": {}})


async def test_the_shipped_artefact_decides_without_any_configuration(tmp_path: Path) -> None:
    port = free_port()
    async with fake_engine(port, says_its_name), aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}"
        lanes = {
            "small": lane(url) | {"model": "tiny-7b"},
            "large": lane(url, price=8.0) | {"model": "huge-70b"},
        }
        with gateway(tmp_path / "gate", config(lanes), ready=False) as gate:
            await eventually(lambda: "ready http" in gate.text())

            async def lane_of(text: str, quality: float) -> str:
                body = chat(text, model=f"auto:{quality}")
                post = http.post(f"{gate.url}/v1/chat/completions", json=body, headers=bearer())
                async with post as answer:
                    assert answer.status == 200
                    assert answer.headers["x-fairgate-router"].startswith("hybrid; ")
                    return answer.headers["x-fairgate-lane"]

            prompts = (HARD, "What is the capital of France?\nA. Rome\nB. Paris\nAnswer:")
            assert {await lane_of(text, 0.0) for text in prompts} == {"small"}
            assert {await lane_of(text, 1.0) for text in prompts} == {"large"}
            await asyncio.gather(*(lane_of(text, 0.5) for text in prompts))
            samples = await metrics(http, gate.url)
    decided = sum(
        value
        for name, value in samples.items()
        if name.startswith("fairgate_router_decisions_total") and "router=hybrid" in name
    )
    assert decided == 6
