"""The admin API of gateways under test: its key, its section of the file, calls to it."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import aiohttp
import redis

ADMIN_KEY = "fg_admin_of_the_tests"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
HASH = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
API = "/fairgate/v1"


class _Serves(Protocol):
    url: str


def admin_section(site: str, **fields: Any) -> dict[str, Any]:
    """The section ``admin`` with one key, whose holder is called ops."""
    return {"keys": [{"sha256": HASH, "name": "ops"}], "site": site, **fields}


def forget_changes(store: str, site: str) -> None:
    """Begin with none; no gateway of the site may be running."""
    with redis.Redis.from_url(store) as client:
        client.delete(f"fg:{{admin:{site}}}:changes", f"fg:{{admin:{site}}}:log")


async def ask(
    http: aiohttp.ClientSession,
    gate: _Serves,
    method: str,
    path: str,
    body: Any = None,
    **headers: str,
) -> tuple[int, Any]:
    """Status and body of one call to the API."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.request(method, gate.url + API + path, json=body, headers=named) as answer:
        text = await answer.read()
        if answer.status >= 400:
            assert answer.content_type == "application/problem+json"
        return answer.status, await answer.json(content_type=None) if text else None
