"""Describes the admin API: an OpenAPI 3.1 document made of the routes and their shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from fairgate.admin.calls import PREFIX, AdminRoute


class ProblemDetails(Struct):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    param: str | None = None
    errors: list[dict[str, str]] = []
    """``field`` and ``message`` of each field that is wrong."""


_PROBLEM = "application/problem+json"


def describe(routes: Sequence[AdminRoute]) -> dict[str, Any]:
    """The document."""
    kinds = {kind for route in routes for kind in (route.reply, route.body) if kind is not None}
    ordered = [ProblemDetails, *sorted(kinds, key=lambda kind: kind.__name__)]
    _, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "fairgate admin API", "version": version("fairgate")},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "fairgate_session"},
            },
        },
    }


def _operation(route: AdminRoute) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)}", route.path)
    parameters = [_parameter(name, "path", f"Name of the {name}.") for name in in_path]
    parameters += [_parameter(name, "query", told) for name, told in route.query.items()]
    answer: dict[str, Any] = {"description": route.summary}
    if route.reply is not None:
        answer["content"] = {route.media_type: {"schema": _reference(route.reply)}}
    problem = {
        "description": "It was refused.",
        "content": {_PROBLEM: {"schema": _reference(ProblemDetails)}},
    }
    operation: dict[str, Any] = {
        "operationId": f"{route.handle.__name__}",
        "summary": route.summary,
        "parameters": parameters,
        "responses": {str(route.status): answer, "4XX": problem, "5XX": problem},
        "security": [] if route.open else [{"key": []}, {"session": []}],
    }
    if route.body is not None:
        kind = "application/merge-patch+json" if route.method == "PATCH" else "application/json"
        operation["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": _reference(route.body)}},
        }
    return operation


def _parameter(name: str, place: str, told: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": told,
        "schema": {"type": "string"},
    }


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
