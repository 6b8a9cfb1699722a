"""Send one call to an OpenAI-compatible target and watch its answer stream in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import aiohttp
import orjson

from loadgen.errors import TargetError
from loadgen.observation import Observation
from loadgen.prompts import Prompts
from loadgen.records import Call
from loadgen.stream import error_code

Api = Literal["chat", "completions"]

_PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_ERROR_BYTES = 65_536
# Below the 5 s after which uvicorn drops idle connections: a request never meets a closing one.
_KEEPALIVE_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How every call is asked for."""

    model: str
    api: Api = "chat"
    timeout_s: float = 600.0
    """Per attempt."""
    retries: int = 0
    natural_length: bool = False
    """Let the model end where it likes; else the wanted number of output tokens is forced."""


def open_session() -> aiohttp.ClientSession:
    """A session with any number of connections and nothing done to the bytes."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        auto_decompress=False,
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
    )


def base_url(target: str) -> str:
    """The address without trailing ``/`` and ``/v1``; ``http://`` is added if missing."""
    url = target if "://" in target else f"http://{target}"
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


async def list_models(session: aiohttp.ClientSession, target: str, key: str) -> list[str]:
    """Model names that the target lists; none when it does not.

    Raises ``TargetError`` when it does not answer at all.
    """
    url = f"{base_url(target)}/v1/models"
    try:
        async with asyncio.timeout(10.0), session.get(url, headers=_bearer(key)) as response:
            listed = orjson.loads(await response.read()) if response.status == 200 else {}
    except orjson.JSONDecodeError:
        return []
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TargetError(f"{target} does not answer: {error or type(error).__name__}") from error
    models = listed.get("data") if isinstance(listed, dict) else None
    return [str(model["id"]) for model in models or () if isinstance(model, dict) and "id" in model]


class Client:
    """Sends calls with their tenants' keys. ``clock`` tells the seconds since the replay began.

    ``run`` tells this replay's interactions from those of an earlier one at the same target.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: str,
        keys: Mapping[str, str],
        request: Request,
        *,
        prompts: Prompts,
        clock: Callable[[], float],
        run: str,
        seed: int = 0,
    ) -> None:
        self._session = session
        self._url = base_url(target) + _PATHS[request.api]
        self._headers = {tenant: _bearer(key) for tenant, key in keys.items()}
        self._request = request
        self._prompts = prompts
        self._clock = clock
        self._run = run
        self._random = Random(f"backoff {seed}")  # noqa: S311  jitter, not a secret

    async def send(self, call: Call, seen: Observation) -> None:
        """Send ``call``, with retries, and note in ``seen`` what comes back.

        Failures are noted, not raised. Cancelled: the connection is closed, which tells the target;
        ``seen`` holds what had come.
        """
        body, headers = self._body(call), self._call_headers(call)
        for attempt in range(self._request.retries + 1):
            if attempt:
                await asyncio.sleep(self._backoff_s(attempt, seen.retry_after_s))
            seen.begin(self._clock())
            await self._attempt(body, headers, seen)
            if not seen.retryable:
                return

    async def _attempt(self, body: bytes, headers: dict[str, str], seen: Observation) -> None:
        try:
            async with (
                asyncio.timeout(self._request.timeout_s),
                self._session.post(self._url, data=body, headers=headers) as response,
            ):
                seen.answered(response.status, response.headers)
                if response.status == 200:
                    await self._watch(response, seen)
                else:
                    seen.lose(_refusal(response.status, await response.content.read(_ERROR_BYTES)))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            seen.lose("connect")
        except TimeoutError:
            seen.lose("timeout")
        except (aiohttp.ClientError, OSError):
            seen.lose("disconnected")

    async def _watch(self, response: aiohttp.ClientResponse, seen: Observation) -> None:
        scan, clock = seen.scan, self._clock
        async for chunk in response.content.iter_any():
            scan.feed(chunk, clock())
        fault = scan.fault()
        if fault:
            seen.lose(fault)
        else:
            seen.complete()

    def _body(self, call: Call) -> bytes:
        family = f"{call.tenant} {call.app}"
        text = self._prompts.write(call.index, call.prompt_tokens, family)
        body: dict[str, Any] = {
            "model": self._request.model,
            "max_tokens": call.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if not self._request.natural_length:
            body |= {"ignore_eos": True, "min_tokens": call.output_tokens}
        if self._request.api == "chat":
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        return orjson.dumps(body)

    def _call_headers(self, call: Call) -> dict[str, str]:
        headers = dict(self._headers[call.tenant])
        if call.user is not None:
            headers["X-Fairgate-User"] = call.user
        if call.app is not None:
            headers["X-Fairgate-App"] = call.app
        if call.interaction is not None:
            headers["X-Fairgate-Interaction"] = f"{self._run}-{call.interaction}"
        return headers

    def _backoff_s(self, attempt: int, retry_after_s: float | None) -> float:
        """``Retry-After`` if told, else doubling from 0.5 s to 8 s less up to a quarter."""
        if retry_after_s is not None:
            return retry_after_s
        return min(0.5 * 2.0 ** (attempt - 1), 8.0) * (1 - 0.25 * self._random.random())


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _refusal(status: int, body: bytes) -> str:
    """Machine-readable reason of an answer that is no stream."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    code = error_code(parsed) if isinstance(parsed, dict) else ""
    return f"http_{status}:{code}" if code else f"http_{status}"
