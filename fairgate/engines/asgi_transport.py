"""Carries requests to an engine whose server is an ASGI app in this process: no socket between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from starlette.types import ASGIApp, Message, Scope

from fairgate.errors import EngineError, EngineUnreachable
from fairgate.pipe import Put
from fairgate.within import Deadlines, Line, Within

GRACE_S = 5.0
"""After the disconnect an app may work on for so long, then it is cancelled."""

_BODY = "http.response.body"


class AsgiTransport:
    """See :class:`fairgate.engines.transport.Transport`.

    ``find_app`` gives the app, or ``None`` while there is none. Each request runs as a task of its
    own; the app may be at most one part ahead of who reads its answer.
    """

    def __init__(
        self, find_app: Callable[[], ASGIApp | None], headers: Mapping[str, str] | None = None
    ) -> None:
        """``headers`` go with every request."""
        self._find_app = find_app
        self._headers = dict(headers or {})
        self._running: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsgiAnswer:
        """See :meth:`fairgate.engines.transport.Transport.post`."""
        app = self._find_app()
        if app is None:
            raise EngineUnreachable("NotRunning")
        answer = AsgiAnswer(
            _scope(path, {**headers, **self._headers}, len(body)), body, self._deadlines
        )
        task = asyncio.create_task(answer.run(app), name=f"engine request {path}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        answer.on_close(task)
        try:
            await answer.begun()
        except BaseException:
            answer.close()
            raise
        return answer

    async def stop(self) -> None:
        """Cancel what runs, and wait for its end."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)


class AsgiAnswer:
    """See :class:`fairgate.engines.transport.Answer`."""

    def __init__(self, scope: Scope, body: bytes, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._scope = scope
        self._body: bytes | None = body
        self._start: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._parts: asyncio.Queue[tuple[bytes, bool] | EngineError] = asyncio.Queue(maxsize=1)
        self._gone = asyncio.Event()
        """The client left, or has all it wanted."""
        self._failure: EngineError | None = None
        self._complete = False
        """The app sent its last part."""
        self._read = False
        """The last part was taken."""
        self._task: asyncio.Task[None] | None = None
        self._silence: Line | None = None
        """Limits the time between two parts."""
        self._ends_at: float | None = None
        """By the event loop's clock."""

    async def run(self, app: ASGIApp) -> None:
        """Let the app answer; what it raises is the engine's failure, not ours."""
        failure = EngineError("Stopped")
        try:
            await app(self._scope, self._receive, self._send)
            failure = EngineError("NoEndOfAnswer")
        except Exception as error:
            failure = EngineError(type(error).__name__)
            failure.__cause__ = error
        finally:
            if not self._complete:
                self._fail(failure)

    def _fail(self, failure: EngineError) -> None:
        self._failure = failure
        if not self._start.done():
            self._start.set_exception(failure)
            self._start.exception()  # who asked may have left: it is not left unseen
        elif self._parts.empty():
            self._parts.put_nowait(failure)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            return  # as servers do: what is sent to nobody is dropped
        if message["type"] == "http.response.start":
            self._start.set_result(message)
        elif message["type"] == _BODY:
            more = message.get("more_body", False)
            await self._parts.put((bytes(message.get("body", b"")), more))
            if not more:
                self._complete = True
                self._gone.set()

    async def begun(self) -> None:
        """Wait for the answer's start. Raises ``EngineError`` when none comes."""
        await asyncio.shield(self._start)

    def on_close(self, task: asyncio.Task[None]) -> None:
        """``task`` runs the app: it ends, if need be by cancellation, when nobody listens."""
        self._task = task

    @property
    def status(self) -> int:
        return int(self._start.result()["status"])

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return list(self._start.result().get("headers", ()))

    @property
    def complete(self) -> bool:
        return self._read

    async def read(self) -> bytes:
        parts = []
        while part := await self.part():
            parts.append(part)
        return b"".join(parts)

    async def part(self, put: Put | None = None) -> bytes:
        while not self._read:
            if self._failure is not None and self._parts.empty():
                raise self._failure
            item = await self._next()
            if isinstance(item, EngineError):
                raise item
            chunk, more = item
            self._read = not more
            if chunk:
                return chunk
        return b""

    async def _next(self) -> tuple[bytes, bool] | EngineError:
        ends_at = self._ends_at
        if ends_at is not None and asyncio.get_running_loop().time() > ends_at:
            raise EngineError("no end in time")
        if self._silence is None:
            return await self._parts.get()
        try:
            with Within(self._silence):
                return await self._parts.get()
        except TimeoutError:
            raise EngineError(f"silent for {self._silence.seconds:g} s") from None

    def limit_time(self, *, idle_s: float, total_s: float) -> None:
        self._silence = self._deadlines.of(idle_s)
        self._ends_at = asyncio.get_running_loop().time() + total_s

    def close(self) -> None:
        if self._read or self._gone.is_set():
            return
        self._gone.set()
        while not self._parts.empty():  # nobody waits to hand over what nobody reads
            self._parts.get_nowait()
        if self._task is not None:
            asyncio.get_running_loop().call_later(GRACE_S, self._task.cancel)


def _scope(path: str, headers: Mapping[str, str], length: int) -> Scope:
    sent = {**headers, "host": "in-process", "content-length": str(length)}
    return {
        "type": "http",
        # 2.3: the app listens for the disconnect; nothing is raised where it sends.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(n.encode(), v.encode("latin-1")) for n, v in sent.items()],
        "client": None,
        "server": None,
        "state": {},
    }
