"""Chat and text completions in vLLM's JSON, whole and as event-stream chunks.

Words of the simulated model are plain ASCII without quotes, so text chunks are put together from
bytes that need no escaping.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import orjson

from fairgate.engines.simulated.loop import Delta
from fairgate.engines.simulated.outputs import Output, ToolCall

DONE = b"data: [DONE]\n\n"


def event(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """A usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


class Renderer(Protocol):
    """One kind of answer."""

    def first(self) -> bytes:
        """Chunks that come before the first token."""

    def chunk(self, output: Output, delta: Delta) -> bytes:
        """The chunk of new tokens."""

    def last(self, usage: dict[str, Any]) -> bytes:
        """The chunk with the usage of the whole answer."""

    def whole(self, outputs: Sequence[Output], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer without streaming."""


class _Completions:
    """What both kinds share: the envelope, and the usage inside each chunk if asked for."""

    def __init__(self, object_: str, id_: str, model: str, *, continuous_usage: bool) -> None:
        self._meta = {"id": id_, "object": object_, "created": int(time.time()), "model": model}
        self._continuous = continuous_usage
        self._head = b"data: " + orjson.dumps(self._meta)[:-1] + b',"choices":['

    def last(self, usage: dict[str, Any]) -> bytes:
        return event(self._meta | {"choices": [], "usage": usage})

    def _close(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        if not self._continuous:
            return b"]}\n\n"
        return b'],"usage":%b}\n\n' % orjson.dumps(usage(prompt_tokens, completion_tokens))


class ChatRenderer(_Completions):
    """``chat.completion`` and its chunks."""

    def __init__(
        self,
        id_: str,
        model: str,
        outputs: Sequence[Output],
        *,
        named: bool,
        continuous_usage: bool,
    ) -> None:
        """``named``: the tool was named, for which the finish reason stays ``stop`` in vLLM."""
        super().__init__(
            "chat.completion.chunk", f"chatcmpl-{id_}", model, continuous_usage=continuous_usage
        )
        self._outputs = outputs
        self._call_reason = "stop" if named else "tool_calls"

    def first(self) -> bytes:
        """The role, once per choice."""
        delta = b'{"role":"assistant","content":""}'
        role = b'{"index":%%d,"delta":%b,"logprobs":null,"finish_reason":null}' % delta
        return b"".join(
            self._head + role % index + self._close(output.sequence.prompt_tokens, 0)
            for index, output in enumerate(self._outputs)
        )

    def chunk(self, output: Output, delta: Delta) -> bytes:
        piece = output.piece(delta.start, delta.count)
        if output.call:
            call = _call_delta(output.call, delta, piece)
            content = orjson.dumps({"tool_calls": [call]})
        else:
            content = b'{"content":"%b"}' % piece.encode()
        reason = b'"%b","stop_reason":null' % self._reason(output).encode()
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b,"token_ids":null}%b' % (
            self._head,
            delta.index,
            content,
            orjson.dumps(_chat_logprobs(output, delta.start, delta.count)),
            reason if delta.finished else b"null",
            self._close(output.sequence.prompt_tokens, delta.start + delta.count),
        )

    def whole(self, outputs: Sequence[Output], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(output),
                "logprobs": _chat_logprobs(output, 0, output.sequence.output_tokens),
                "finish_reason": self._reason(output),
                "stop_reason": None,
            }
            for index, output in enumerate(outputs)
        ]
        return self._meta | {"object": "chat.completion", "choices": choices, "usage": usage}

    def _reason(self, output: Output) -> str:
        called = output.call and output.finish_reason == "stop"
        return self._call_reason if called else output.finish_reason

    @staticmethod
    def _message(output: Output) -> dict[str, Any]:
        if not output.call:
            return {"role": "assistant", "content": output.text, "tool_calls": []}
        function = {"name": output.call.name, "arguments": output.text}
        call = {"id": output.call.id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def _call_delta(call: ToolCall, delta: Delta, piece: str) -> dict[str, Any]:
    if delta.start:
        return {"index": 0, "function": {"arguments": piece}}
    function = {"name": call.name, "arguments": piece}
    return {"id": call.id, "type": "function", "index": 0, "function": function}


def _chat_logprobs(output: Output, start: int, count: int) -> dict[str, Any] | None:
    """Of the tokens ``start`` to ``start + count``, where they were asked for."""
    if not output.with_logprobs:
        return None
    tokens = output.logprobs(start, count)
    return {
        "content": [
            {"token": text, "logprob": told, "bytes": list(text.encode()), "top_logprobs": []}
            for text, told in tokens
        ]
    }


def _text_logprobs(output: Output, start: int, count: int) -> dict[str, Any] | None:
    """The same in the shape of the older API."""
    if not output.with_logprobs:
        return None
    tokens = output.logprobs(start, count)
    ends = accumulate((len(text) for text, _ in tokens), initial=len(output.piece(0, start)))
    return {
        "text_offset": list(ends)[:-1],
        "token_logprobs": [told for _, told in tokens],
        "tokens": [text for text, _ in tokens],
        "top_logprobs": [{text: told} for text, told in tokens],
    }


class CompletionRenderer(_Completions):
    """``text_completion`` and its chunks."""

    def __init__(self, id_: str, model: str, *, continuous_usage: bool) -> None:
        super().__init__("text_completion", f"cmpl-{id_}", model, continuous_usage=continuous_usage)

    def first(self) -> bytes:
        return b""

    def chunk(self, output: Output, delta: Delta) -> bytes:
        reason = b'"%b"' % output.finish_reason.encode() if delta.finished else b"null"
        template = (
            b'%b{"index":%d,"text":"%b","logprobs":%b,"finish_reason":%b,"stop_reason":null}%b'
        )
        return template % (
            self._head,
            delta.index,
            output.piece(delta.start, delta.count).encode(),
            orjson.dumps(_text_logprobs(output, delta.start, delta.count)),
            reason,
            self._close(output.sequence.prompt_tokens, delta.start + delta.count),
        )

    def whole(self, outputs: Sequence[Output], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "text": output.text,
                "logprobs": _text_logprobs(output, 0, output.sequence.output_tokens),
                "finish_reason": output.finish_reason,
                "stop_reason": None,
            }
            for index, output in enumerate(outputs)
        ]
        return self._meta | {"choices": choices, "usage": usage}
