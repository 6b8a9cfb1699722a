"""Asks an OpenAI-compatible engine for an answer."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from fairgate.choices import read_choices
from fairgate.errors import EngineError
from fairgate.scoring.base import Answer

_TRIES = 3
_BUSY = HTTPStatus.TOO_MANY_REQUESTS


class Asked:
    """One engine. ``url`` ends before ``/v1``; ``model`` empty: the first one that it lists."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, model: str = "", key: str = ""
    ) -> None:
        self._session = session
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def answer(self, prompt: str, *, max_tokens: int) -> str:
        """The text of its answer at temperature 0. Raises ``EngineError`` after three tries."""
        (answer,) = await self.answers(prompt, 1, max_tokens=max_tokens, temperature=0.0)
        return answer.text

    async def answers(
        self,
        prompt: str,
        count: int,
        *,
        max_tokens: int,
        temperature: float,
        logprobs: bool = False,
    ) -> list[Answer]:
        """``count`` answers to the same prompt, asked for in one request.

        Raises ``EngineError`` after three tries, or where there are not so many.
        """
        body: dict[str, Any] = {
            "model": await self._known_model(),
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if count > 1:
            body["n"] = count
        if logprobs:
            body["logprobs"] = True
        told = await self._call("POST", "/v1/chat/completions", body)
        choices = read_choices(told)
        if choices is None or len(choices.answers) != count:
            raise EngineError(
                f"{self._url}: expected an answer with {count} choices, got {told[:120]!r}"
            )
        return choices.answers

    async def _known_model(self) -> str:
        if not self._model:
            told = await self._call("GET", "/v1/models", None)
            try:
                self._model = str(orjson.loads(told)["data"][0]["id"])
            except (ValueError, KeyError, IndexError, TypeError):
                raise EngineError(f"{self._url}: lists no models") from None
        return self._model

    async def _call(self, method: str, path: str, body: object) -> bytes:
        why = ""
        for attempt in range(_TRIES):
            try:
                async with self._session.request(
                    method, self._url + path, json=body, headers=self._headers
                ) as told:
                    if told.status == HTTPStatus.OK:
                        return await told.read()
                    why = f"answered {told.status}: {(await told.text())[:120]}"
                    if told.status < HTTPStatus.INTERNAL_SERVER_ERROR and told.status != _BUSY:
                        break
            except (aiohttp.ClientError, TimeoutError) as error:
                why = str(error) or type(error).__name__
            await asyncio.sleep(0.5 * 2**attempt)
        raise EngineError(f"{self._url}: {why}")
