"""Scorers of others: a Python function, a reward model, or either behind a URL."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import aiohttp
import msgspec

from fairgate.scoring.base import Answer, ScoringFailed

Verify = Callable[[str, str], float | Awaitable[float]]
"""Prompt and answer in; out how good the answer is: a probability, a reward, or true and false."""

MAX_BYTES = 64 * 1024
"""Longest answer of a remote scorer."""


class RewardModel(Protocol):
    """Compares all answers to a prompt at once, as reward models do in a batch."""

    async def rewards(self, prompt: str, answers: Sequence[str]) -> Sequence[float]:
        """A reward for each answer, larger is better. What it raises fails the scoring."""


class Verifier:
    """Asks a function about each answer. Plain functions run in a thread, at once for all.

    One that takes longer than ``timeout_s`` fails the scoring; in a thread it runs to its end.
    """

    needs_logprobs = False
    compares = False

    def __init__(self, verify: Verify, timeout_s: float) -> None:
        self._verify = verify
        self._timeout_s = timeout_s
        self._is_async = inspect.iscoroutinefunction(verify)

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """See :class:`fairgate.scoring.base.Scorer`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                asked = (self._ask(prompt, answer.text) for answer in answers)
                return [float(score) for score in await asyncio.gather(*asked)]
        except TimeoutError:
            raise ScoringFailed(f"the verifier took longer than {self._timeout_s:g} s") from None
        except Exception as error:
            raise ScoringFailed(f"the verifier failed: {type(error).__name__}: {error}") from error

    async def _ask(self, prompt: str, answer: str) -> float:
        if self._is_async:
            told = self._verify(prompt, answer)
        else:
            told = await asyncio.to_thread(self._verify, prompt, answer)
        return await told if inspect.isawaitable(told) else told


class Reward:
    """Scores by a reward model, bounded by ``timeout_s``."""

    needs_logprobs = False
    compares = False

    def __init__(self, model: RewardModel, timeout_s: float) -> None:
        self._model = model
        self._timeout_s = timeout_s

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """See :class:`fairgate.scoring.base.Scorer`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._model.rewards(prompt, [answer.text for answer in answers])
        except TimeoutError:
            raise ScoringFailed(f"the scorer took longer than {self._timeout_s:g} s") from None
        except Exception as error:
            raise ScoringFailed(f"the scorer failed: {type(error).__name__}: {error}") from error


class _Scores(msgspec.Struct):
    scores: list[float]


class RemoteModel:
    """A verifier or reward model behind a URL; ``session`` stays the caller's."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str | None) -> None:
        self._session = session
        self._url = url
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    async def rewards(self, prompt: str, answers: Sequence[str]) -> Sequence[float]:
        """See :class:`RewardModel`. Raises ``aiohttp.ClientError`` and ``ValueError``."""
        body = msgspec.json.encode({"prompt": prompt, "answers": list(answers)})
        async with self._session.post(
            self._url, data=body, headers=self._headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            told = bytearray()
            async for part in response.content.iter_any():
                told += part
                if len(told) > MAX_BYTES:
                    raise ValueError(f"it answered more than {MAX_BYTES} bytes")
        return msgspec.json.decode(told, type=_Scores).scores
