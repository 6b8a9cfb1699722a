"""The OpenAI requests as vLLM reads them, and vLLM's error shape.

Fields that the simulation ignores (top_p, stop, top_logprobs, …) are accepted and skipped.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import orjson
from msgspec import Meta, Raw, Struct, field

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Prompts = str | list[str | int | list[int]]
"""A text, a list of texts, token ids, or a list of lists of them."""
Choices = Annotated[int, Meta(ge=1, le=16_384)]


class ApiError(Exception):
    """An answer other than 2xx, in vLLM's shape: ``{"error": {message, type, param, code}}``."""

    def __init__(self, status: int, message: str, *, type: str, param: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": type, "param": param, "code": status}
        self.body = orjson.dumps({"error": error})


def bad_request(message: str, param: str | None = None) -> ApiError:
    """400 as vLLM words it."""
    return ApiError(400, message, type="BadRequestError", param=param)


class StreamOptions(Struct):
    """What a stream reports besides text."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Part(Struct):
    """One part of a message's content; only its text counts."""

    text: str | None = None


class Message(Struct):
    """A chat message, or an input item of Responses (a tool's result has ``output``)."""

    role: str = "user"
    content: str | list[Part] | None = None
    tool_calls: Raw = field(default_factory=Raw)
    output: Raw = field(default_factory=Raw)

    @property
    def text(self) -> str:
        """Its text parts, joined."""
        if isinstance(self.content, list):
            return "\n".join(part.text or "" for part in self.content)
        return self.content or ""

    @property
    def rendered(self) -> bytes:
        """The message as a chat template would spell it."""
        role, text = self.role.encode(), self.text.encode()
        return b"<|%b|>%b%b%b\n" % (role, text, bytes(self.tool_calls), bytes(self.output))


class Function(Struct):
    """A function that the model may call, or the one that it must call."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """A tool in Chat Completions' nesting, or flat as in Responses."""

    function: Function | None = None
    name: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def callee(self) -> Function | None:
        """The function it offers, if it is a function tool."""
        return self.function or (Function(self.name, self.parameters) if self.name else None)


ToolChoice = Literal["none", "auto", "required"] | Tool | None


class Generate(Struct):
    """What all generating requests share."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    min_tokens: Natural | None = 0
    ignore_eos: bool | None = False
    priority: int | None = 0
    temperature: float | None = None
    logprobs: bool | int | None = None
    """``true`` in chat, a number in completions; either way of the tokens that were written."""
    tools: Raw = field(default_factory=Raw)
    tool_choice: ToolChoice = None

    @property
    def wants_logprobs(self) -> bool:
        """Also ``0``, which in completions means the written tokens alone."""
        return self.logprobs is not None and self.logprobs is not False


class ChatRequest(Generate, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    n: Choices | None = 1
    max_completion_tokens: Positive | None = None


class CompletionRequest(Generate, kw_only=True):
    """``POST /v1/completions``; ``prompt`` is one or many, as text or as token ids."""

    prompt: Prompts
    n: Choices | None = 1


class ResponsesRequest(Generate, kw_only=True):
    """``POST /v1/responses``."""

    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: Positive | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """``POST /v1/embeddings``."""

    input: Prompts
    model: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    priority: int | None = 0


Prompt = tuple[bytes, int | None]
"""A prompt as bytes, and its length in tokens where the client gave token ids."""

R = TypeVar("R", bound=Generate | EmbeddingRequest)
_PATH = re.compile(r"\$\.(\w+)")


def decode(body: bytes, type: type[R]) -> R:  # noqa: A002
    """Read a request body. Raises ``ApiError`` 400 naming the field at fault."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        found = _PATH.search(str(error))
        phrase = HTTPStatus.BAD_REQUEST.phrase
        param = found[1] if found else None
        raise ApiError(400, str(error), type=phrase, param=param) from None


def decode_tools(raw: Raw) -> list[Tool]:
    """The tools of a request; none when the field is absent or null."""
    if not bytes(raw):
        return []
    try:
        return msgspec.json.decode(raw, type=list[Tool] | None) or []
    except msgspec.DecodeError as error:
        raise bad_request(str(error), "tools") from None


def as_prompts(value: Prompts, param: str) -> list[Prompt]:
    """One prompt per entry, whatever the spelling.

    Raises ``ApiError`` 400 naming ``param`` when one is empty or texts and token ids are mixed.
    """
    if isinstance(value, str) or all(isinstance(entry, int) for entry in value):
        return [_as_prompt(value, param)]
    return [_as_prompt(entry, param) for entry in value]


def _as_prompt(prompt: object, param: str) -> Prompt:
    if prompt and isinstance(prompt, str):
        return prompt.encode(), None
    if prompt and isinstance(prompt, list):
        return repr(prompt).encode(), len(prompt)
    raise bad_request("Each prompt must be a text or a list of token ids, not empty.", param)


def last_question(messages: list[Message]) -> str:
    """The last user message, unless a tool has already answered it."""
    for message in reversed(messages):
        if message.role == "tool" or bytes(message.output):
            break
        if message.role == "user":
            return message.text
    return ""
