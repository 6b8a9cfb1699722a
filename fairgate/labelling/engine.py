"""Asks an OpenAI-compatible engine for an answer."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import aiohttp

from fairgate.errors import EngineError

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
        model = await self._known_model()
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        told = await self._call("POST", "/v1/chat/completions", body)
        try:
            return str(told["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise EngineError(f"{self._url}: answered without a message: {told!r:.120}") from None

    async def _known_model(self) -> str:
        if not self._model:
            told = await self._call("GET", "/v1/models", None)
            try:
                self._model = str(told["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                raise EngineError(f"{self._url}: lists no models") from None
        return self._model

    async def _call(self, method: str, path: str, body: object) -> Any:
        """The decoded answer; ``Any``: it is another server's."""
        why = ""
        for attempt in range(_TRIES):
            try:
                async with self._session.request(
                    method, self._url + path, json=body, headers=self._headers
                ) as told:
                    if told.status == HTTPStatus.OK:
                        return await told.json(content_type=None)
                    why = f"answered {told.status}: {(await told.text())[:120]}"
                    if told.status < HTTPStatus.INTERNAL_SERVER_ERROR and told.status != _BUSY:
                        break
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                why = str(error) or type(error).__name__
            await asyncio.sleep(0.5 * 2**attempt)
        raise EngineError(f"{self._url}: {why}")
