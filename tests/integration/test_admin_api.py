"""The admin API on two gateways of one site: who may, what changes, how fast, what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import redis
from support.admin import ADMIN, ADMIN_KEY, API, HASH, admin_section, ask, forget_changes
from support.gateway import (
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    long_chat,
    running,
    tenant,
)

from fairgate.engines.process import free_port

SITE = "admin-api"
CHAT = "/v1/chat/completions"
A_SECOND = 1.0
BUSY_S = 3.0
"""What a machine that has other things to do may add to that."""


@dataclass(frozen=True)
class Site:
    gates: tuple[Gateway, Gateway]
    engine: SimulatedEngine
    settings: dict[str, Any]


@pytest.fixture(scope="module")
def site(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("admin")
    forget_changes(valkey_server, SITE)
    with engine(folder, "--max-num-seqs", "16", "--speed", "4") as it:
        settings = config(
            {"small": lane(it.url, max_num_seqs=2)},
            store=valkey_server,
            pool=SITE,
            tenants={name: tenant(name) for name in ("acme", "globex", "initech")},
            apps={"default": {}, "agent": {}},
            admin=admin_section(SITE),
        )
        with gateway(folder / "a", settings) as a, gateway(folder / "b", settings) as b:
            yield Site((a, b), it, settings)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=ADMIN) as session:
        yield session


async def post(http: aiohttp.ClientSession, gate: Gateway, key: str, body: Any = None) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with http.post(
        gate.url + CHAT, json=body or chat(max_tokens=1), headers=headers
    ) as answer:
        await answer.read()
        return answer.status


async def new_key(http: aiohttp.ClientSession, gate: Gateway, owner: str) -> dict[str, Any]:
    status, made = await ask(http, gate, "POST", f"/tenants/{owner}/keys", {"name": "web"})
    assert status == 201
    return made


async def test_a_key_works_on_the_other_replica_within_a_second_and_stops_so(site, http):
    """What issue 8 asks for. The answer to the change counts as the moment of the change."""
    here, there = site.gates
    made = await new_key(http, here, "acme")
    began = time.monotonic()
    assert await post(http, here, made["key"]) == 200

    async def status_is(wanted: int) -> bool:
        return await post(http, there, made["key"]) == wanted

    await eventually(lambda: status_is(200))
    assert time.monotonic() - began < A_SECOND + BUSY_S
    status, _ = await ask(http, here, "DELETE", f"/tenants/acme/keys/{made['id']}")
    began = time.monotonic()
    assert status == 204
    assert await post(http, here, made["key"]) == 401
    await eventually(lambda: status_is(401))
    assert time.monotonic() - began < A_SECOND + BUSY_S


async def test_a_key_of_the_file_can_be_revoked_too(site, http):
    here, there = site.gates
    key = "secret-key-of-initech"
    assert await post(http, there, key) == 200
    _, listed = await ask(http, here, "GET", "/tenants/initech/keys")
    (told,) = listed["keys"]
    assert (told["source"], told["created"]) == ("file", None)
    await ask(http, here, "DELETE", f"/tenants/initech/keys/{told['id']}")

    async def is_refused() -> bool:
        return await post(http, there, key) == 401

    await eventually(is_refused)
    status, _ = await ask(http, here, "DELETE", f"/tenants/initech/keys/{told['id']}")
    assert status == 404


async def test_requests_in_line_are_refused_when_their_key_is_revoked(site, http):
    here, there = site.gates
    made = await new_key(http, here, "acme")
    held = [
        asyncio.create_task(post(http, here, bearer("globex")["authorization"][7:], long_chat()))
        for _ in range(2)
    ]

    async def both_run() -> bool:
        return await running(http, site.engine.url) == 2

    await eventually(both_run)
    await eventually(lambda: post_is_known(http, there, made["key"]))
    waiting = asyncio.create_task(post(http, there, made["key"]))

    async def one_waits() -> bool:
        _, told = await ask(http, here, "GET", "/lanes/small")
        return told["waiting"] == 1

    await eventually(one_waits)
    await ask(http, here, "DELETE", f"/tenants/acme/keys/{made['id']}")
    assert await waiting == 401
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def post_is_known(http: aiohttp.ClientSession, gate: Gateway, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    async with http.get(f"{gate.url}/v1/models", headers=headers) as answer:
        return answer.status == 200


async def test_a_tenant_is_created_changed_and_deleted(site, http):
    here, there = site.gates
    new = {"name": "hooli", "weight": 2, "limits": {"rpm": 60}, "user_limits": {"tpm": 500}}
    status, made = await ask(http, here, "POST", "/tenants", new)
    assert (status, made["weight"], made["limits"], made["source"]) == (201, 2, {"rpm": 60}, "live")
    patch = {"weight": None, "limits": {"rpm": None, "tpm": 9000}, "apps": ["agent"]}
    status, changed = await ask(http, here, "PATCH", "/tenants/hooli", patch)
    assert (status, changed["weight"], changed["limits"]) == (200, 1, {"tpm": 9000})
    assert changed["user_limits"] == {"tpm": 500}
    key = (await new_key(http, here, "hooli"))["key"]

    async def elsewhere() -> bool:
        _, told = await ask(http, there, "GET", "/tenants/hooli")
        return told == {**changed, "keys": 1}

    await eventually(elsewhere)
    status, told = await ask(http, here, "DELETE", "/apps/agent")
    assert (status, told["code"]) == (409, "conflict")
    assert (await ask(http, here, "DELETE", "/tenants/hooli"))[0] == 204
    assert (await ask(http, here, "GET", "/tenants/hooli"))[0] == 404
    assert await post(http, here, key) == 401


async def test_what_is_wrong_is_named_with_field_and_value(site, http):
    gate = site.gates[0]
    status, told = await ask(
        http, gate, "PATCH", "/tenants/acme", {"weight": 0, "limits": {"rpm": "many"}}
    )
    assert (status, told["code"]) == (422, "invalid")
    assert {e["field"]: e["message"] for e in told["errors"]} == {
        "weight": "expected a number > 0, got 0",
        "limits.rpm": "expected a whole number >= 1, got 'many'",
    }
    for method, path, body, field in (
        ("PATCH", "/tenants/acme", {"wieght": 2}, "wieght"),
        ("PATCH", "/tenants/acme", {"keys": []}, "keys"),
        ("PATCH", "/tenants/acme", {"apps": ["nope"]}, "apps[0]"),
        ("POST", "/tenants", {"name": "a/b"}, "name"),
        ("POST", "/tenants", {}, "name"),
        ("POST", "/tenants/acme/keys", {"apps": ["nope"]}, "keys[1].apps[0]"),
        ("PATCH", "/lanes/small", {"queue": {"timeout_s": -1}}, "queue.timeout_s"),
        ("PATCH", "/engines/small/small-0", {"max_num_seqs": 0}, "max_num_seqs"),
        ("GET", "/tenants?limit=0", None, "limit"),
    ):
        status, told = await ask(http, gate, method, path, body)
        assert (status, [e["field"] for e in told["errors"]]) == (422, [field]), (path, told)
    assert (await ask(http, gate, "POST", "/tenants", {"name": "acme"}))[0] == 409
    assert (await ask(http, gate, "GET", "/tenants/nobody"))[0] == 404
    assert (await ask(http, gate, "POST", "/lanes", {}))[0] == 405
    async with http.post(
        gate.url + API + "/tenants", data=b"{", headers={"content-type": "application/json"}
    ) as bad:
        assert bad.status == 400
    async with http.post(gate.url + API + "/tenants", data=b"name=a") as bad:
        assert bad.status == 400


async def test_a_change_of_what_somebody_else_changed_is_refused(site, http):
    gate = site.gates[0]
    async with http.get(gate.url + API + "/tenants/globex") as answer:
        seen = answer.headers["etag"]
    status, _ = await ask(http, gate, "PATCH", "/tenants/globex", {"weight": 3}, if_match=seen)
    assert status == 200
    status, told = await ask(http, gate, "PATCH", "/tenants/globex", {"weight": 4}, if_match=seen)
    assert (status, told["code"]) == (412, "precondition_failed")


async def test_changes_at_the_same_time_on_both_replicas_all_count(site, http):
    async def change(i: int) -> int:
        body = {"user_weights": {f"user-{i}": i + 1}}
        return (await ask(http, site.gates[i % 2], "PATCH", "/tenants/globex", body))[0]

    assert await asyncio.gather(*(change(i) for i in range(8))) == [200] * 8
    _, told = await ask(http, site.gates[0], "GET", "/tenants/globex")
    assert told["user_weights"] == {f"user-{i}": i + 1 for i in range(8)}


async def test_an_engine_is_drained_and_its_capacity_changed(site, http):
    here, there = site.gates
    path = "/engines/small/small-0"
    status, told = await ask(http, here, "PATCH", path, {"drained": True})
    assert (status, told["drained"], told["up"]) == (200, True, True)

    async def status_is(wanted: int) -> bool:
        return await post(http, there, "secret-key-of-acme") == wanted

    await eventually(lambda: status_is(503))
    async with http.get(f"{there.url}/readyz") as answer:
        assert answer.status == 200, "drained on purpose is no reason to take the gateway out"
    await ask(http, here, "PATCH", path, {"drained": False, "max_num_seqs": 7})
    await eventually(lambda: status_is(200))

    async def seven() -> bool:
        _, told = await ask(http, there, "GET", "/lanes/small")
        return told["limit"] == 7

    await eventually(seven)
    status, told = await ask(
        http, here, "PATCH", "/lanes/small", {"price": 3, "queue": {"max_waiting": 5}}
    )
    assert (told["price"], told["queue"]["max_waiting"]) == (3, 5)


async def test_the_audit_log_says_who_changed_what_and_no_secret(site, http):
    gate = site.gates[0]
    made = await new_key(http, gate, "acme")
    await ask(http, gate, "PATCH", "/tenants/acme", {"weight": 5})
    _, told = await ask(http, site.gates[1], "GET", "/audit?limit=2")
    change, create = told["entries"]
    assert change["by"] == {"key": HASH[:12], "name": "ops"}
    assert (change["action"], change["object"]) == ("tenant.change", "tenant acme")
    assert (change["before"]["weight"], change["after"]["weight"]) == (1, 5)
    assert (create["action"], create["after"]["id"]) == ("key.create", made["id"])
    _, older = await ask(http, gate, "GET", f"/audit?before={told['next']}&limit=1")
    assert older["entries"][0]["version"] == create["version"] - 1
    digest = hashlib.sha256(made["key"].encode()).hexdigest()
    everything = str(told) + gate.text()
    assert made["key"] not in everything
    assert digest not in everything
    assert [line["object"] for line in gate.logs("changed")][-1] == "tenant acme"


async def test_changes_outlive_a_restart_and_a_reload_of_the_file(site, http, tmp_path):
    key = (await new_key(http, site.gates[0], "acme"))["key"]
    with gateway(tmp_path, site.settings) as later:
        assert await post(http, later, key) == 200
        changed = {**site.settings, "tenants": {**site.settings["tenants"], "new": tenant("new")}}
        later.write(changed)
        await eventually(lambda: later.logs("config_reloaded"))
        assert await post(http, later, key) == 200
        assert await post(http, later, "secret-key-of-new") == 200
        without = {k: v for k, v in site.settings["tenants"].items() if k != "acme"}
        later.write({**site.settings, "tenants": without})
        await eventually(lambda: len(later.logs("config_reloaded")) == 2)
        assert await post(http, later, key) == 401


async def test_only_an_admin_key_opens_it(site, http):
    gate = site.gates[0]
    async with aiohttp.ClientSession() as stranger:
        assert (await ask(stranger, gate, "GET", "/tenants"))[0] == 401
        status, _ = await ask(
            stranger, gate, "GET", "/tenants", authorization="Bearer secret-key-of-acme"
        )
        assert status == 401
        async with stranger.get(gate.url + API + "/me", headers=bearer()) as answer:
            assert answer.status == 200, "the tenants' own view stays theirs"


async def test_a_browser_logs_in_and_only_its_own_pages_change_anything(site):
    gate, other = site.gates
    own = {"origin": gate.url}
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        assert (await ask(browser, gate, "POST", "/session", {"key": "wrong"}))[0] == 401
        url = gate.url + API + "/session"
        async with browser.post(url, json={"key": ADMIN_KEY}, headers=own) as answer:
            assert answer.status == 204
            cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert (await ask(browser, gate, "GET", "/session"))[1]["name"] == "ops"
        assert (await ask(browser, other, "GET", "/session"))[0] == 200
        body = {"weight": 2}
        assert (await ask(browser, gate, "PATCH", "/tenants/initech", body))[0] == 403
        evil = {"origin": "https://evil.example"}
        assert (await ask(browser, gate, "PATCH", "/tenants/initech", body, **evil))[0] == 403
        cross = {**own, "sec_fetch_site": "cross-site"}
        assert (await ask(browser, gate, "PATCH", "/tenants/initech", body, **cross))[0] == 403
        assert (await ask(browser, gate, "PATCH", "/tenants/initech", body, **own))[0] == 200
        kept = dict(jar.filter_cookies(answer.url))
        assert (await ask(browser, gate, "DELETE", "/session", **own))[0] == 204
        jar.update_cookies(kept)
        assert (await ask(browser, gate, "GET", "/session"))[0] == 401


async def test_the_description_names_every_route_and_is_a_document(site, http):
    gate = site.gates[0]
    _, told = await ask(http, gate, "GET", "/openapi.json")
    assert told["openapi"] == "3.1.0"
    assert set(told["paths"][f"{API}/tenants/{{tenant}}"]) == {"get", "patch", "delete"}
    references = set(_references(told))
    assert references
    assert references <= {f"#/components/schemas/{n}" for n in told["components"]["schemas"]}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


async def test_a_forgetful_store_gets_the_changes_back_and_who_guesses_keys_is_told_to_stop(
    site, http, tmp_path, valkey_server
):
    """On a gateway of its own, whose site this test wipes."""
    own = {
        **site.settings,
        "admin": {**site.settings["admin"], "site": "forgetful"},
        "server": {**site.settings.get("server", {}), "failed_keys_per_minute": 10},
    }
    changes = "fg:{admin:forgetful}:changes"
    with redis.Redis.from_url(valkey_server, decode_responses=True) as client:
        client.delete(changes)
        with gateway(tmp_path, own) as gate:
            key = (await new_key(http, gate, "acme"))["key"]
            before = client.hgetall(changes)
            client.delete(changes)
            await eventually(lambda: client.hgetall(changes) == before)
            assert await post(http, gate, key) == 200
        client.delete(changes)  # nobody remembers them now, but the log is there
        with gateway(tmp_path / "again", own) as gate:
            assert await post(http, gate, key) == 401
            key = (await new_key(http, gate, "acme"))["key"]
            assert await post(http, gate, key) == 200
            wrong = {"authorization": "Bearer guess"}
            statuses = [(await ask(http, gate, "GET", "/tenants", **wrong))[0] for _ in range(11)]
            assert statuses == [401] * 9 + [429] * 2  # with the one above
            assert (await ask(http, gate, "GET", "/tenants"))[0] == 200, "nobody is locked out"


async def test_workers_take_changes_up_and_operators_may_have_a_socket_of_their_own(
    site, http, tmp_path
):
    port = free_port()
    own = {**site.settings, "admin": {**site.settings["admin"], "site": "w", "port": port}}
    with gateway(tmp_path, own, "--workers", "2") as gate:
        async with http.get(f"{gate.url}{API}/tenants") as answer:
            assert answer.status == 404, "clients do not reach it"
        admin = f"http://127.0.0.1:{port}"
        async with http.get(f"{admin}{CHAT}") as answer:
            assert answer.status == 404
        url = f"{admin}{API}/tenants/acme/keys"
        async with http.post(url, json={}) as answer:
            key = (await answer.json())["key"]

        async def both_take_it() -> bool:
            """Each connection is a worker's, chosen by the kernel."""
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as s:
                assert {await post(s, gate, "no key") for _ in range(3)} == {401}
                statuses = [await post(s, gate, key) for _ in range(8)]
            told = {line["worker"] for line in gate.logs("request") if line["status"] == 200}
            return statuses == [200] * 8 and told == {0, 1}

        await eventually(both_take_it)


async def test_a_file_may_forbid_changes_and_without_keys_there_is_no_api(site, http, tmp_path):
    settings = {**site.settings, "admin": {**site.settings["admin"], "changes": False}}
    none = {k: v for k, v in site.settings.items() if k != "admin"}
    with gateway(tmp_path / "a", settings) as closed, gateway(tmp_path / "b", none) as off:
        assert (await ask(http, closed, "GET", "/tenants/acme"))[1]["weight"] == 1
        status, told = await ask(http, closed, "PATCH", "/tenants/acme", {"weight": 2})
        assert (status, told["code"]) == (403, "changes_forbidden")
        assert (await ask(http, off, "GET", "/tenants"))[0] == 404
        assert (await ask(http, off, "POST", "/session", {"key": ADMIN_KEY}))[0] == 404
