"""The gateway's description of itself, in OpenAPI 3.1: made of what the code decodes and raises.

What only an engine reads of a request, and writes in an answer, is not described: it is OpenAI's.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from fairgate import codec
from fairgate.config import Api
from fairgate.errors import (
    BadGateway,
    BadRequest,
    BodyTooLarge,
    Forbidden,
    GatewayTimeout,
    MethodNotAllowed,
    NotFound,
    Refusal,
    Throttled,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
)
from fairgate.gateway.feedback import PATH as FEEDBACK
from fairgate.gateway.feedback import Told
from fairgate.me.app import PATH as ME
from fairgate.me.report import Report

PATH = "/openapi.json"

_Object = dict[str, Any]

_SUMMARIES: Mapping[Api, str] = {
    "chat": "A chat completion, streamed if asked for.",
    "completions": "A completion, streamed if asked for.",
    "embeddings": "Embeddings.",
    "responses": "A response, streamed if asked for.",
}
_SENT = {
    "x-fairgate-user": "Which of your end users asks.",
    "x-fairgate-app": "The kind of application, of those that your key may name.",
    "x-fairgate-interaction": "Calls with the same id form one interaction.",
    "x-fairgate-quality": "With model auto: 0 (the cheapest lane) to 1 (the best one).",
    "x-request-id": "Comes back in the answer: up to 128 visible ASCII characters.",
}
_ROUTE_HEADERS = {
    "x-fairgate-lane": "The group of engines that served or refused it.",
    "x-fairgate-engine": "The engine.",
    "x-fairgate-queue-ms": "Milliseconds in line.",
    "x-fairgate-router": "Who chose the lane, and why.",
    "x-ratelimit-limit-requests": "Of the tightest limit per minute.",
    "x-ratelimit-remaining-requests": "Left of it.",
    "x-ratelimit-reset-requests": "Until all of it is back, such as 8.64s.",
    "x-ratelimit-limit-tokens": "Of the tightest limit per minute.",
    "x-ratelimit-remaining-tokens": "Left of it.",
    "x-ratelimit-reset-tokens": "Until all of it is back, such as 8.64s.",
    "ratelimit-policy": "The limits, as the IETF draft writes them.",
    "ratelimit": "What is left of them.",
}
_REQUIRED_OF_REFUSALS = {
    401: {"www-authenticate": "How to send a key."},
    405: {"allow": "What the route takes."},
    415: {"accept-encoding": "What may be sent."},
    429: {"retry-after": "Whole seconds, 1 to 120."},
    502: {"retry-after": "Whole seconds, 1 to 120."},
    503: {"retry-after": "Whole seconds, 1 to 120."},
}
_Refusals = tuple[type[Refusal], ...]

_OF_ALL: _Refusals = (MethodNotAllowed,)
_OF_KEYS: _Refusals = (Unauthenticated, Throttled, *_OF_ALL)
_OF_CALLS: _Refusals = (
    BadRequest, Forbidden, NotFound, BodyTooLarge, UnsupportedEncoding, BadGateway, Unavailable,
    GatewayTimeout, *_OF_KEYS,
)  # fmt: skip


def text(max_choices: int) -> bytes:
    """The document as JSON; ``max_choices``: the configured one."""
    return msgspec.json.encode(description(max_choices))


def description(max_choices: int) -> _Object:
    """The document."""
    _, structs = msgspec.json.schema_components(
        [Report, Told], ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fairgate",
            "version": version("fairgate"),
            "description": "An OpenAI-compatible gateway that shares engines fairly among tenants.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": {
            **{path: _call(api, max_choices) for path, api in codec.ROUTES.items()},
            "/v1/models": _get("Models: the lanes, and auto.", _json({"type": "object"}), _OF_KEYS),
            "/v1/models/{model}": {
                "parameters": [_parameter("model", "path", "A model, slashes included.")],
                **_get("One model.", _json({"type": "object"}), (NotFound, *_OF_KEYS)),
            },
            ME: _get(
                "What you have, use and wait for.", _me(), (Unavailable, Forbidden, *_OF_KEYS)
            ),
            FEEDBACK: {"post": _feedback()},
            "/healthz": _open("The process runs.", _plain()),
            "/readyz": _open("Every lane has an engine that is up.", _plain(), not_yet=True),
            "/metrics": _open("Prometheus text, for private networks.", _plain(), (NotFound,)),
            PATH: _open("This document.", _json({"type": "object"})),
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {**structs, "Error": _ERROR, "Problem": _PROBLEM},
            "responses": {str(kind.status): _refusal(kind) for kind in _OF_CALLS},
        },
    }


def _call(api: Api, max_choices: int) -> _Object:
    """One of the routes that engines serve; their own refusals pass through."""
    served = {**_json({"type": "object"}), "text/event-stream": {"schema": {"type": "string"}}}
    answers = _responses(served, _OF_CALLS, {**_ALWAYS, **_headers(_ROUTE_HEADERS)})
    answers["4XX"] = {"description": "As the engine refused it.", "content": {"*/*": {}}}
    body = {"required": True, "content": _json(codec.schema(api, max_choices))}
    sent = [_parameter(name, "header", what) for name, what in _SENT.items()]
    operation = {"summary": _SUMMARIES[api], "parameters": sent, "requestBody": body}
    return {"post": {**operation, "responses": answers}}


def _feedback() -> _Object:
    refused: _Refusals = (BadRequest, NotFound, Forbidden, BodyTooLarge, Unavailable, *_OF_KEYS)
    return {
        "summary": "How good an answer was.",
        "requestBody": {"required": True, "content": _json(_reference("Told"))},
        "responses": _responses(_json({"type": "object"}), refused, _ALWAYS),
    }


def _get(summary: str, content: _Object, refused: _Refusals) -> _Object:
    return {"get": {"summary": summary, "responses": _responses(content, refused, _ALWAYS)}}


def _open(
    summary: str,
    content: _Object,
    refused: _Refusals = (),
    *,
    not_yet: bool = False,
) -> _Object:
    """A route that needs no key."""
    answers = _responses(content, refused + _OF_ALL, {})
    if not_yet:
        answers["503"] = {"description": "Not yet, or not any more.", "content": _plain()}
    return {"get": {"summary": summary, "security": [], "responses": answers}}


def _responses(content: _Object, refused: _Refusals, sent: _Object) -> _Object:
    references = {
        str(kind.status): {"$ref": f"#/components/responses/{kind.status}"} for kind in refused
    }
    return {"200": {"description": "Served.", "headers": sent, "content": content}, **references}


def _refusal(kind: type[Refusal]) -> _Object:
    doc = (kind.__doc__ or "").partition("\n")[0]
    needed = {
        name: {"description": what, "required": True, "schema": {"type": "string"}}
        for name, what in _REQUIRED_OF_REFUSALS.get(kind.status, {}).items()
    }
    content = {
        **_json(_reference("Error")),
        "application/problem+json": {"schema": _reference("Problem")},
        "text/html": {"schema": {"type": "string"}},
    }
    return {"description": doc, "headers": {**_ALWAYS, **needed}, "content": content}


def _me() -> _Object:
    return {**_json(_reference("Report")), "text/html": {"schema": {"type": "string"}}}


def _parameter(name: str, where: str, what: str) -> _Object:
    schema = {"type": "string", "minLength": 1} if where == "path" else {"type": "string"}
    told = {"name": name, "in": where, "description": what, "schema": schema}
    return {**told, "required": True} if where == "path" else told


def _headers(told: Mapping[str, str]) -> _Object:
    return {
        name: {"description": what, "schema": {"type": "string"}} for name, what in told.items()
    }


def _json(schema: _Object) -> _Object:
    return {"application/json": {"schema": schema}}


def _plain() -> _Object:
    return {"text/plain": {"schema": {"type": "string"}}}


def _reference(name: str) -> _Object:
    return {"$ref": f"#/components/schemas/{name}"}


_ALWAYS: _Object = {
    "x-request-id": {
        "description": "Yours, or one made for you.",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
}
_TEXT: _Object = {"type": "string"}
_TEXT_OR_NULL: _Object = {"type": ["string", "null"]}
_ERROR: _Object = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _TEXT_OR_NULL,
                "code": {"type": ["string", "integer", "null"]},  # vLLM repeats the status here
            },
        }
    },
}
_PROBLEM: _Object = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "code": _TEXT_OR_NULL,
        "param": _TEXT_OR_NULL,
        "request_id": _TEXT,
    },
}
