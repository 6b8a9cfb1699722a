"""Dashboard and admin API of an app with FairGate in it: opt-in, by admin key, not metered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from support.admin import ADMIN, ADMIN_KEY, admin_section, forget_changes
from support.gateway import bearer, chat, eventually, tenant
from support.mounted import app_config

from fairgate import FairGate
from fairgate.errors import ConfigError
from fairgate.mounting import mounted_config

SITE = "mounted"


@pytest.fixture
def settings(valkey_server: str) -> dict[str, Any]:
    forget_changes(valkey_server, SITE)
    return app_config(
        valkey_server,
        {"app": 4},
        {"acme": tenant("acme")},
        admin=admin_section(SITE, mounted=True),
        routes=[{"prefix": "/", "cost": {"per_request": 1}}],
    )


@asynccontextmanager
async def opened(settings: dict[str, Any], *, root: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that answers all paths, metered, at ``root`` of another one."""
    answer = Route("/{path:path}", lambda _: PlainTextResponse("the app"), methods=["GET", "POST"])
    gate = FairGate(Starlette(routes=[answer]), config=settings)
    app = Starlette(routes=[Mount(root, gate)]) if root else gate
    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url=f"http://it{root}") as client:
            yield client
    finally:
        await gate.aclose()


@pytest.mark.parametrize("root", ["", "/below"])
async def test_operators_find_api_and_pages_with_an_admin_key_only(settings, root):
    async with opened(settings, root=root) as client:
        assert (await client.get("/fairgate/v1/tenants")).status_code == 401
        assert (await client.get("/fairgate/v1/tenants", headers=bearer())).status_code == 401
        told = await client.get("/fairgate/v1/tenants", headers=ADMIN)
        assert [t["name"] for t in told.json()["tenants"]] == ["acme"]

        async def is_seen() -> bool:
            seen = await client.get("/fairgate/v1/ledger", headers=ADMIN)
            return bool(seen.json()["pools"])

        await eventually(is_seen)
        changed = await client.patch("/fairgate/v1/tenants/acme", headers=ADMIN, json={"weight": 3})
        assert changed.json()["weight"] == 3
        login = await client.post("/fairgate/login", data={"key": ADMIN_KEY})
        assert (login.status_code, login.headers["location"]) == (303, f"{root}/fairgate/")
        assert "Overview" in (await client.get("/fairgate/")).text
        assert (await client.get("/fairgate/nothing")).status_code == 404


async def test_what_is_for_operators_is_not_metered_and_the_rest_is_as_before(settings):
    async with opened(settings) as client:
        api = await client.get("/fairgate/v1/tenants", headers=ADMIN)
        assert "x-fairgate-lane" not in api.headers
        rest = await client.get("/fairgate.txt", headers=bearer())
        assert (rest.text, rest.headers["x-fairgate-lane"]) == ("the app", "app")
        assert (await client.post("/v1/chat/completions", headers=bearer(), json=chat())).is_success


async def test_without_the_opt_in_the_app_answers_there(settings):
    for admin in (admin_section(SITE), {"mounted": True}):
        async with opened({**settings, "admin": admin, "routes": []}) as client:
            assert (await client.get("/fairgate/v1/tenants", headers=ADMIN)).text == "the app"


def test_a_socket_of_their_own_is_refused_by_name(settings):
    settings["admin"]["port"] = 9090
    with pytest.raises(ConfigError, match=r"admin\.port: only 'fairgate serve' opens a socket"):
        mounted_config(settings)
