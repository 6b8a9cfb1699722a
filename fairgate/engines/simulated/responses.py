"""The route ``/v1/responses``: one message or function call, whole or as typed events."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import orjson

from fairgate.engines.simulated.client import Client
from fairgate.engines.simulated.loop import Generation
from fairgate.engines.simulated.outputs import Output
from fairgate.engines.simulated.protocol import (
    Message,
    ResponsesRequest,
    decode,
    last_question,
)
from fairgate.engines.simulated.service import Service, choose_call


async def responses(service: Service, client: Client) -> None:
    """``POST /v1/responses``. Nothing is stored; ``previous_response_id`` is ignored."""
    request = decode(await client.body(), ResponsesRequest)
    service.check_model(request.model)
    messages = _messages(request)
    prompt = bytes(request.tools) + b"".join(m.rendered for m in messages)
    (output,) = service.plan(
        client,
        request,
        prompt,
        limit=request.max_output_tokens,
        call=choose_call(request, last_question(messages)),
    )
    answer = _Answer(client.id, service.settings.model, request, output)
    generation = service.submit([output], stream=bool(request.stream))
    try:
        with client.watched(generation.abort):
            if request.stream:
                await _stream(client, generation, answer)
            else:
                await generation.next()
                await client.send_json(answer.response(done=True))
    finally:
        generation.abort()


def _messages(request: ResponsesRequest) -> list[Message]:
    asked = request.input
    messages = [Message(content=asked)] if isinstance(asked, str) else asked
    system = [Message("system", request.instructions)] if request.instructions else []
    return system + messages


async def _stream(client: Client, generation: Generation, answer: _Answer) -> None:
    await client.start_stream()
    await client.write(answer.opening())
    while not generation.done:
        for delta in await generation.next():
            piece = answer.output.piece(delta.start, delta.count)
            head = b"" if delta.start else answer.added()
            await client.write(head + answer.event(answer.delta_type, **answer.place, delta=piece))
    await client.write(answer.closing(), last=True)


class _Answer:
    """A response object and the numbered events that build it."""

    def __init__(self, id_: str, model: str, request: ResponsesRequest, output: Output) -> None:
        self.output = output
        self._number = count()
        self._id = id_
        self._head = {
            "id": f"resp_{id_}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "instructions": request.instructions,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "top_p": 1.0,
            "tool_choice": "auto",
            "tools": orjson.loads(bytes(request.tools) or b"[]"),
            "background": False,
            "max_output_tokens": request.max_output_tokens,
            "service_tier": "auto",
            "truncation": "disabled",
        }
        if output.call:
            self.delta_type = "response.function_call_arguments.delta"
            self.place = {"item_id": f"fc_{id_}", "output_index": 0}
        else:
            self.delta_type = "response.output_text.delta"
            self.place = {"item_id": f"msg_{id_}", "output_index": 0, "content_index": 0}

    def event(self, type_: str, **fields: Any) -> bytes:
        """One numbered server-sent event."""
        if type_.startswith("response.output_text"):
            fields["logprobs"] = []
        payload = {"type": type_, "sequence_number": next(self._number), **fields}
        return b"event: %b\ndata: %b\n\n" % (type_.encode(), orjson.dumps(payload))

    def response(self, *, done: bool) -> dict[str, Any]:
        """The response object, before or after its output."""
        if not done:
            return self._head | {"status": "in_progress", "output": [], "usage": None}
        sequence = self.output.sequence
        cut = self.output.finish_reason == "length"
        return self._head | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(done=True)],
            "usage": {
                "input_tokens": sequence.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": sequence.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": sequence.prompt_tokens + sequence.output_tokens,
            },
        }

    def opening(self) -> bytes:
        """Events before the first token."""
        response = self.response(done=False)
        created = self.event("response.created", response=response)
        return created + self.event("response.in_progress", response=response)

    def added(self) -> bytes:
        """Events that announce the output item."""
        item = self._item(done=False)
        events = self.event("response.output_item.added", output_index=0, item=item)
        if not self.output.call:
            part = self._part("")
            events += self.event("response.content_part.added", **self.place, part=part)
        return events

    def closing(self) -> bytes:
        """Events after the last token; the last one is ``completed`` as in vLLM, cut or not."""
        if call := self.output.call:
            type_ = "response.function_call_arguments.done"
            text = self.output.text
            events = self.event(type_, **self.place, name=call.name, arguments=text)
        else:
            text = self.output.text
            events = self.event("response.output_text.done", **self.place, text=text)
            part = self._part(text)
            events += self.event("response.content_part.done", **self.place, part=part)
        item = self._item(done=True)
        events += self.event("response.output_item.done", output_index=0, item=item)
        return events + self.event("response.completed", response=self.response(done=True))

    def _item(self, *, done: bool) -> dict[str, Any]:
        status = "completed" if done else "in_progress"
        text = self.output.text if done else ""
        if call := self.output.call:
            item = {"type": "function_call", "call_id": call.id, "name": call.name}
            return {**item, "id": f"fc_{self._id}", "arguments": text, "status": status}
        content = [self._part(text)] if done else []
        item = {"type": "message", "role": "assistant", "id": f"msg_{self._id}"}
        return {**item, "content": content, "status": status}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
