"""Request bodies: read the few fields that fairgate needs, write the few that it changes.

A body is scanned once, into its top-level fields as raw slices; only small fields are decoded, and
what fairgate does not know reaches the engine with its bytes unchanged (large integers, number
formats, escapes).

Duplicate keys: the last one wins, as in Python's ``json``, pydantic-core, Go and nlohmann/json, so
fairgate accounts for what such engines run. For engines that take the first one, :func:`rewrite`
passes no duplicate of a top-level key on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import DecodeError, Meta, Raw, Struct, ValidationError
from msgspec.json import Decoder, Encoder

from fairgate import prompt as prompts
from fairgate.config import Api
from fairgate.errors import BadRequest, NotFound, UnsupportedEncoding
from fairgate.rawjson import MAX_FIELDS, decode_object

Route = Api

ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}

PATHS: Mapping[Route, str] = {route: path for path, route in ROUTES.items()}

MAX_TOKENS = 2**31 - 1
"""Largest output limit that a request may name."""

OURS = frozenset(
    ("priority", "cache_salt", "request_id", "kv_transfer_params", "ec_transfer_params")
)
"""Fields that a client does not set: they would jump vLLM's line, read another tenant's part of its
prefix cache, take another request's id, or name memory of other engines to read from."""

_SHOWN_BYTES = 60

_Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
_Choices = Annotated[int, Meta(ge=1)]


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Head(Struct, gc=False):
    """The small fields of a body, of all routes together."""

    model: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: _Choices | None = None
    best_of: _Choices | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    max_output_tokens: _Tokens | None = None
    previous_response_id: str | None = None
    background: bool | None = None


class _Layout(Struct, frozen=True):
    """Where a route keeps what fairgate reads."""

    head: frozenset[str]
    """Its fields of :class:`_Head`; the others mean nothing there."""
    prompt: str
    more_prompt: tuple[str, ...] = ()
    """Further fields that the engine renders into the prompt."""
    system: str = ""
    """The one of ``more_prompt`` that is a system prompt."""


_EVERY = frozenset(("model", "user", "safety_identifier"))
_WRITING = _EVERY | {"stream", "stream_options", "n", "best_of"}
_CAPS = {"max_tokens", "max_completion_tokens"}
_RESPONSES = _EVERY | {"stream", "max_output_tokens", "previous_response_id", "background"}
_LAYOUTS: Mapping[Route, _Layout] = {
    "chat": _Layout(_WRITING | _CAPS, "messages", ("tools", "functions")),
    "completions": _Layout(_WRITING | _CAPS, "prompt", ("suffix",)),
    "embeddings": _Layout(_EVERY, "input", ("messages",)),
    "responses": _Layout(_RESPONSES, "input", ("instructions", "tools"), "instructions"),
}
_ASKS_FOR_USAGE = frozenset(("chat", "completions"))
_NO_TOOLS = frozenset((b"null", b"[]"))
_NOTHING = Raw(b"")

_encode = Encoder().encode
_decode_head = Decoder(_Head).decode


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """What fairgate knows of a request body. Sizes are bytes of JSON as the client sent it."""

    route: Route
    model: str | None = None
    stream: bool = False
    n: int = 1
    """``max(n, best_of)``: sequences that run for each prompt."""
    prompts: int = 1
    """Prompts of a batch (``/v1/completions`` takes a list)."""
    max_output_tokens: int | None = None
    """The client's cap per choice; of several the largest, since an engine may honour either."""
    user: str | None = None
    safety_identifier: str | None = None
    previous_response_id: str | None = None
    include_usage: bool = False
    """The client asked for the usage event of a stream."""
    has_tools: bool = False
    prompt: Raw = _NOTHING
    """The value of ``messages``, ``prompt`` or ``input``."""
    prompt_bytes: int = 0
    """All that becomes prompt, tools included; each inline image counts a fixed size."""
    prompt_token_ids: int | None = None
    """Exact length of a prompt that was sent as token ids."""
    system_bytes: int = 0
    """Leading system messages and ``instructions``, where cheap to know; else 0."""
    fields: Mapping[str, Raw]
    """Every top-level field, undecoded."""
    duplicates: bool = False
    """The client sent a top-level key twice."""

    @property
    def choices(self) -> int:
        """Sequences that the engine runs for this request."""
        return self.n * self.prompts

    @property
    def needs_usage(self) -> bool:
        """A stream whose usage event must be asked for, and hidden from the client again."""
        return self.stream and not self.include_usage and self.route in _ASKS_FOR_USAGE


def check_encoding(sent: bytes | None) -> None:
    """Raises ``UnsupportedEncoding`` unless the ``content-encoding`` that was sent is none."""
    if sent is not None and sent.strip().lower() not in (b"", b"identity"):
        shown = sent[:_SHOWN_BYTES].decode("ascii", "backslashreplace")
        raise UnsupportedEncoding(f"content-encoding: expected identity, got {shown}")


def decode(path: str, body: bytes, *, max_choices: int) -> Call:
    """Read ``body``, sent to ``path`` (a key of :data:`ROUTES`).

    Raises ``BadRequest`` that names the field and its value when the body is not a JSON object or a
    field read here is malformed or out of range, ``NotFound`` for another path. What only the
    engine reads is left for the engine to check.
    """
    route = ROUTES.get(path)
    if route is None:
        raise NotFound(f"no such route: {path}")
    layout = _LAYOUTS[route]
    fields, duplicates = _decode_body(body)
    head = _checked_head(layout, fields, max_choices)
    prompt = fields.get(layout.prompt, _NOTHING)
    data = bytes(prompt)
    options = head.stream_options
    n = max(head.n or 1, head.best_of or 1)
    return Call(
        route=route,
        model=head.model,
        stream=head.stream is True,
        n=n,
        prompts=_batch(data, n, max_choices) if route == "completions" else 1,
        max_output_tokens=_output_cap(head),
        user=head.user,
        safety_identifier=head.safety_identifier,
        previous_response_id=head.previous_response_id,
        include_usage=options is not None and options.include_usage is True,
        has_tools="tools" in fields and bytes(fields["tools"]) not in _NO_TOOLS,
        prompt=prompt,
        prompt_bytes=prompts.text_bytes(data) + _more_prompt_bytes(layout, fields),
        prompt_token_ids=prompts.token_ids(data) if layout.prompt != "messages" else None,
        system_bytes=prompts.system_bytes(data) + len(fields.get(layout.system, b"")),
        fields=fields,
        duplicates=duplicates,
    )


def rewrite(
    body: bytes,
    call: Call,
    *,
    model: str | None = None,
    include_usage: bool = False,
    priority: int | None = None,
    cache_salt: str | None = None,
) -> bytes:
    """The body for the engine; ``body`` itself where nothing changes.

    ``include_usage`` applies to streams of chat and completions and keeps other stream options.
    What the client sent of :data:`OURS` is dropped; ``priority`` and ``cache_salt`` take its place
    where they are given. A body to which fields are only added keeps all its bytes. Raises
    ``BadRequest`` for ``stream_options`` with a flood of keys.
    """
    changes: dict[str, object] = {}
    if model is not None and model != call.model:
        changes["model"] = model
    if include_usage and call.needs_usage:
        changes["stream_options"] = _with_usage(call.fields.get("stream_options"))
    if priority is not None:
        changes["priority"] = priority
    if cache_salt is not None:
        changes["cache_salt"] = cache_salt
    fields = call.fields
    plain = not call.duplicates and OURS.isdisjoint(fields)
    if not (plain and changes.keys().isdisjoint(fields)):
        kept = {name: value for name, value in fields.items() if name not in OURS}
        return _encode({**kept, **changes})
    return _with_added(body, fields, changes) if changes else body


def _with_added(body: bytes, fields: Mapping[str, Raw], more: Mapping[str, object]) -> bytes:
    """``body``, which holds ``fields``, with ``more`` at its end."""
    before = memoryview(body)[: body.rindex(b"}")]
    return b"".join((before, b"," if fields else b"", _encode(more)[1:]))


def schema(route: Route, max_choices: int) -> dict[str, Any]:
    """JSON Schema of the bodies of ``route``, of what is read here."""
    layout = _LAYOUTS[route]
    told = msgspec.json.schema_components([_Head], ref_template="#/{name}")[1]
    known = told["_Head"]["properties"]
    fields = {name: known[name] for name in sorted(layout.head - {"stream_options"})}
    if "stream_options" in layout.head:
        options = {k: told["_StreamOptions"][k] for k in ("type", "properties")}
        fields["stream_options"] = {"anyOf": [options, {"type": "null"}]}
    for name in fields.keys() & {"n", "best_of"}:
        fields[name]["anyOf"][0]["maximum"] = max_choices
    if "background" in fields:
        fields["background"] = {"enum": [False, None]}
    more: dict[str, Any] = {name: {} for name in (layout.prompt, *layout.more_prompt)}
    return {"type": "object", "properties": {**fields, **more}, "maxProperties": MAX_FIELDS}


def _decode_body(body: bytes) -> tuple[dict[str, Raw], bool]:
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into strings that it skips; engines do
        return decode_object(body, "the body")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValidationError as error:
        raise BadRequest(f"the body is not a JSON object: {error}") from None
    except DecodeError as error:
        _malformed(body, str(error))


def _malformed(body: bytes, reason: str) -> NoReturn:
    """Say where JSON broke, by field where a value such as ``NaN`` is at fault."""
    found = re.search(r"\(byte (\d+)\)", reason)
    if found is None and body.rstrip().endswith(b"}"):
        reason = "a string ends within a \\u escape, or holds half of a surrogate pair"
    at = int(found[1]) if found else 0
    key = re.search(rb'"(\w{1,64})"\s*:\s*-?$', body[max(0, at - 100) : at])
    if key is None:
        raise BadRequest(f"the body is not valid JSON: {reason}")
    param = key[1].decode()
    value = re.split(rb"[,}\]\s]", body[at : at + _SHOWN_BYTES], maxsplit=1)[0]
    shown = value.decode(errors="replace")
    raise BadRequest(f"{param}: {shown} is not valid JSON: {reason}", param=param)


def _checked_head(layout: _Layout, fields: Mapping[str, Raw], max_choices: int) -> _Head:
    """The route's small fields, typed in one decode."""
    small = {name: value for name, value in fields.items() if name in layout.head}
    try:
        head = _decode_head(_encode(small))
    except DecodeError as error:
        _out_of_range(fields, str(error))
    for name, value in (("n", head.n), ("best_of", head.best_of)):
        if value is not None and value > max_choices:
            raise BadRequest(f"{name}: expected at most {max_choices}, got {value}", param=name)
    if head.background:
        # Its answer ends before its work begins, so nothing could be held or charged for it.
        raise BadRequest("background: not served, got true", param="background")
    return head


def _out_of_range(fields: Mapping[str, Raw], reason: str) -> NoReturn:
    what, _, path = reason.partition(" - at `$.")
    path = path.rstrip("`")
    value = bytes(fields.get(path.partition(".")[0], b""))
    shown = value[:_SHOWN_BYTES].decode(errors="replace") + "…" * (len(value) > _SHOWN_BYTES)
    raise BadRequest(f"{path}: {what}, got {shown}", param=path)


def _output_cap(head: _Head) -> int | None:
    every = (head.max_tokens, head.max_completion_tokens, head.max_output_tokens)
    caps = [cap for cap in every if cap is not None]
    return max(caps) if caps else None


def _batch(prompt: bytes, n: int, limit: int) -> int:
    """Prompts of a completion; each runs ``n`` sequences, at most ``limit`` in all."""
    size = prompts.batch_size(prompt, limit)
    if size * n > limit:
        what = f"{size} prompts with {n} choices each"
        raise BadRequest(f"prompt: expected at most {limit} choices, got {what}", param="prompt")
    return size


def _more_prompt_bytes(layout: _Layout, fields: Mapping[str, Raw]) -> int:
    total = 0
    for name in layout.more_prompt:
        if name in fields:
            total += prompts.text_bytes(bytes(fields[name]))
    return total


def _with_usage(options: Raw | None) -> dict[str, object]:
    """``stream_options`` as the client sent them, plus the usage event."""
    if options is None or bytes(options) == b"null":
        return {"include_usage": True}
    return {**decode_object(options, "stream_options")[0], "include_usage": True}
