"""Per-route policy of a mounted FairGate: what is metered, who pays, what it costs, who answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Scope
from support.asgi import CHAT, Client
from support.gateway import LedgerView, eventually, tenant
from support.mounted import app_config

from fairgate import (
    FairGate,
    Forbidden,
    Identity,
    Measured,
    Principal,
    Refusal,
    Route,
    RouteCost,
    Ticket,
    Unauthenticated,
    Usage,
)
from fairgate.mounting import mounted_config

METHODS = ["GET", "POST", "PUT", "HEAD", "OPTIONS"]
Gated = Callable[..., FairGate]


async def endpoint(request: Request) -> Response:
    """Says whether it is metered; with a body and a header of its own for the cost."""
    metered = "fairgate" in request.scope
    return JSONResponse({"metered": metered}, headers={"X-Units": "250"})


class Boom(Exception):
    pass


async def boom(request: Request) -> Response:
    raise Boom


async def handle_boom(request: Request, error: Exception) -> Response:
    return PlainTextResponse("handled", 418)


def starlette() -> Starlette:
    return Starlette(
        routes=[
            StarletteRoute("/boom", boom, methods=METHODS),
            StarletteRoute("/{path:path}", endpoint, methods=METHODS),
        ],
        exception_handlers={Boom: handle_boom},
    )


@pytest.fixture
async def gated(valkey: redis.Redis, valkey_server: str) -> AsyncIterator[Gated]:
    """The app behind FairGate with such routes and options."""
    gates: list[FairGate] = []

    def make(
        routes: list[dict[str, Any]], *, app: Any = None, choose: Any = None, **options: Any
    ) -> FairGate:
        tenants = {"acme": tenant("acme"), "other": tenant("other", weight=3, apps=["code"])}
        config = app_config(
            valkey_server,
            {"app": 4, "heavy": 1},
            tenants,
            routes=routes,
            apps={"default": {}, "code": {}},
        )
        gates.append(FairGate(app or starlette(), config=config, routes=choose, **options))
        return gates[-1]

    yield make
    for gate in gates:
        await gate.aclose()


@pytest.fixture
def ledger(valkey_server: str) -> LedgerView:
    return LedgerView(valkey_server)


async def ask(gate: FairGate, path: str, method: str = "POST", body: bytes = b"") -> Client:
    client = Client(parts=[body])
    await client.ask(gate, path, method, query_string=b"")
    return client


class TestWhatIsMetered:
    @pytest.mark.parametrize(
        ("route", "path", "methods"),
        [
            ({"path": "/a"}, "/a", ["GET", "POST", "PUT"]),
            ({"path": "/a"}, "/a/", []),
            ({"path": "/a", "methods": ["GET", "HEAD"]}, "/a", ["GET", "HEAD"]),
            ({"prefix": "/a/"}, "/a/b/c", ["GET", "POST", "PUT"]),
            ({"prefix": "/a/"}, "/a", []),
            ({"path": CHAT, "exempt": True}, CHAT, []),
            ({"prefix": "/v1/", "methods": ["GET"]}, CHAT, ["GET", "POST"]),
        ],
    )
    async def test_methods(
        self, gated: Gated, route: dict[str, Any], path: str, methods: list[str]
    ) -> None:
        gate = gated([route])
        body = b'{"model": "app", "messages": []}'
        answers = {method: await ask(gate, path, method, body) for method in METHODS}
        metered = [m for m, answer in answers.items() if b"x-fairgate-lane" in answer.headers]
        assert metered == methods

    async def test_a_longer_prefix_and_an_exact_path_go_first(self, gated: Gated) -> None:
        gate = gated(
            [
                {"prefix": "/a/", "lane": "app"},
                {"prefix": "/a/b/", "exempt": True},
                {"path": "/a/b/c", "lane": "heavy"},
            ]
        )
        lanes = [
            (await ask(gate, path)).headers.get(b"x-fairgate-lane")
            for path in ("/a/x", "/a/b/x", "/a/b/c")
        ]
        assert lanes == [b"app", None, b"heavy"]

    async def test_an_api_elsewhere_is_metered_by_tokens(
        self, gated: Gated, ledger: LedgerView
    ) -> None:
        gate = gated([{"path": "/talk", "api": "chat", "lane": "app"}])
        await (client := Client()).ask(gate, "/talk", query_string=b"")
        assert client.status == 200
        assert (await ask(gate, "/talk", body=b"{}")).status == 200, "the app checks the rest"
        assert (await ask(gate, "/talk", body=b"[]")).status == 400
        await eventually(ledger.idle)
        assert ledger.tokens() > 200, "no usage told: charged by the estimate"

    async def test_the_app_may_choose_by_itself(self, gated: Gated, ledger: LedgerView) -> None:
        def choose(scope: Scope) -> Route | None:
            if scope["path"].startswith("/own"):
                return Route(cost=RouteCost(per_request=7))
            return None

        gate = gated([{"path": "/own/free", "exempt": True}], choose=choose)
        for path in ("/own/a", "/own/free", "/else"):
            await ask(gate, path)
        await eventually(ledger.idle)
        assert ledger.tokens() == 7


class TestCost:
    @pytest.mark.parametrize(
        ("cost", "expected"),
        [
            ({"per_request": 5}, 5),
            ({"per_byte": 2}, 2 * (100 + len(b'{"metered":true}'))),
            ({"header": "x-units"}, 250),
            ({"header": "X-Units", "per_request": 5, "expected": 1000}, 255),
            ({"header": "x-missing", "per_request": 5}, 5),
            (None, 1),
        ],
    )
    async def test_is_the_sum_of_what_the_route_says(
        self, gated: Gated, ledger: LedgerView, cost: Any, expected: int
    ) -> None:
        gate = gated([{"path": "/a", "cost": cost}])
        answer = await ask(gate, "/a", body=b"x" * 100)
        assert answer.json() == {"metered": True}
        withheld = bool(cost) and cost.get("header", "").lower() == "x-units"
        assert (b"x-units" in answer.headers) is not withheld
        await eventually(ledger.idle)
        assert ledger.tokens() == expected

    async def test_by_seconds(self, gated: Gated, ledger: LedgerView) -> None:
        async def slow(scope: Scope, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.05)
            await PlainTextResponse("done")(scope, receive, send)

        gate = gated([{"path": "/a", "cost": {"per_second": 1_000_000}}], app=slow)
        await ask(gate, "/a")
        await eventually(ledger.idle)
        assert ledger.tokens() >= 50_000

    async def test_expected_is_charged_while_the_request_runs(
        self, gated: Gated, ledger: LedgerView
    ) -> None:
        charged = []

        async def look(scope: Scope, receive: Any, send: Any) -> None:
            charged.append(ledger.tokens())
            await PlainTextResponse("done")(scope, receive, send)

        await ask(gated([{"path": "/a", "cost": {"expected": 900}}], app=look), "/a")
        await eventually(ledger.idle)
        assert (charged, ledger.tokens()) == ([900], 0)

    async def test_by_the_apps_own_function(self, gated: Gated, ledger: LedgerView) -> None:
        def cost(m: Measured) -> float:
            return 10.0 if not m.ended else m.request_bytes + float(m.headers[b"x-units"])

        await ask(gated([{"path": "/a"}], cost=cost), "/a", body=b"x" * 3)
        await eventually(ledger.idle)
        assert ledger.tokens() == 253

    @pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
    async def test_that_is_none_at_the_end_is_the_expected_one(
        self, gated: Gated, ledger: LedgerView, wrong: float
    ) -> None:
        await ask(gated([{"path": "/a"}], cost=lambda m: wrong if m.ended else 40.0), "/a")
        await eventually(ledger.idle)
        assert ledger.tokens() == 40

    async def test_that_is_none_at_admission_is_a_bug_of_the_app(
        self, gated: Gated, ledger: LedgerView
    ) -> None:
        with pytest.raises(ValueError, match=r"cost: expected 0 to 2\^40 units, got -1"):
            await ask(gated([{"path": "/a"}], cost=lambda _: -1), "/a")
        assert ledger.idle()

    async def test_tokens_that_the_handler_reports_go_first(
        self, gated: Gated, ledger: LedgerView
    ) -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            scope["fairgate"].report_usage(Usage(prompt_tokens=30, completion_tokens=4))
            await PlainTextResponse("done")(scope, receive, send)

        await ask(gated([{"path": "/a", "cost": {"per_request": 5}}], app=app), "/a")
        await eventually(ledger.idle)
        assert (ledger.tokens(), ledger.service()) == (34, 30 + 2 * 4)


class TestWhoPays:
    async def test_the_app_authenticates_by_itself(self, gated: Gated, ledger: LedgerView) -> None:
        tickets: list[Ticket] = []

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            tickets.append(scope["fairgate"])
            assert scope["fairgate"].grant.lane == "app"
            await PlainTextResponse("done")(scope, receive, send)

        async def who(scope: Scope) -> Principal:
            return Principal("new-tenant", weight=2.0, user="Ann Lee")

        await ask(gated([{"path": "/a"}], app=app, authenticate=who), "/a")
        await eventually(ledger.idle)
        assert tickets[0].principal.tenant == "new-tenant"
        assert tickets[0].grant is None, "given back"
        assert ledger.tokens("new-tenant") == 1
        assert ledger.service("new-tenant") == 0.5

    async def test_a_tenant_sees_itself(self, gated: Gated, ledger: LedgerView) -> None:
        gate = gated([{"path": "/a", "cost": {"per_request": 5}}])
        await ask(gate, "/a")
        await eventually(ledger.idle)
        client = Client(parts=[b""])
        await client.ask(gate, "/app/fairgate/v1/me", "GET", root_path="/app", query_string=b"")
        assert client.status == 200
        seen = client.json()
        assert (seen["tenant"], seen["weight"]) == ("acme", 1)
        assert (await ask(gate, "/other/fairgate/v1/me", "GET")).json() == {"metered": False}

    async def test_it_sees_what_the_app_says_it_is(self, gated: Gated) -> None:
        def who(scope: Scope) -> Principal:
            if scope["query_string"] != b"ann":
                raise Unauthenticated("log in first")
            return Principal("hers", weight=2.0)

        gate = gated([{"path": "/a"}], authenticate=who)
        stranger = await ask(gate, "/fairgate/v1/me", "GET")
        assert (stranger.status, stranger.json()["error"]["message"]) == (401, "log in first")
        ann = Client(parts=[b""])
        await ann.ask(gate, "/fairgate/v1/me", "GET", query_string=b"ann")
        assert (ann.json()["tenant"], ann.json()["weight"]) == ("hers", 2)

    async def test_a_configured_tenant_by_name(self, gated: Gated, ledger: LedgerView) -> None:
        config = mounted_config(None)
        assert Identity(config).principal("default").weight == 1
        with pytest.raises(Forbidden, match="no tenant is named 'x'"):
            Identity(config).principal("x")
        with pytest.raises(Forbidden, match="may not use the app 'x'"):
            Identity(config).principal("default", app="x")

    @pytest.mark.parametrize("error", [Unauthenticated("log in first"), Forbidden("not you")])
    async def test_refusing_is_an_openai_error(self, gated: Gated, error: Refusal) -> None:
        def who(scope: Scope) -> Principal:
            raise error

        answer = await ask(gated([{"path": "/a"}], authenticate=who), "/a")
        assert (answer.status, answer.json()["error"]["message"]) == (error.status, error.message)

    @pytest.mark.parametrize(
        "wrong",
        [
            Principal("a b"),
            Principal("acme", app="unknown"),
            Principal("acme", weight=0),
            Principal("acme", user_weight=float("nan")),
        ],
    )
    async def test_a_principal_that_cannot_be_is_a_bug_of_the_app(
        self, gated: Gated, wrong: Principal
    ) -> None:
        with pytest.raises(ValueError, match="authenticate: "):
            await ask(gated([{"path": "/a"}], authenticate=lambda _: wrong), "/a")


class TestExceptions:
    async def test_the_apps_own_handlers_answer_the_apps_own_errors(self, gated: Gated) -> None:
        answer = await ask(gated([{"path": "/boom"}]), "/boom")
        assert (answer.status, answer.body) == (418, b"handled")

    async def test_the_app_may_answer_refusals(self, gated: Gated) -> None:
        def answer_of(scope: Scope, refusal: Refusal) -> Response:
            return PlainTextResponse(f"{refusal.code} at {scope['path']}", 403)

        def who(scope: Scope) -> Principal:
            raise Unauthenticated("log in first")

        gate = gated([{"path": "/a"}], authenticate=who, on_refusal=answer_of)
        answer = await ask(gate, "/a")
        assert (answer.status, answer.body) == (403, b"invalid_api_key at /a")
        assert answer.headers[b"content-type"] == b"text/plain; charset=utf-8"
        assert answer.headers[b"x-request-id"].startswith(b"req_")

    async def test_a_refusal_that_a_handler_raises_is_answered(self, gated: Gated) -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            raise Forbidden("not this document", code="document")

        answer = await ask(gated([{"path": "/a"}], app=app), "/a")
        assert (answer.status, answer.json()["error"]["code"]) == (403, "document")

    async def test_a_ticket_without_tokens_has_no_call(self, gated: Gated) -> None:
        async def app(scope: Scope, receive: Any, send: Any) -> None:
            with pytest.raises(TypeError, match="it is no LLM call"):
                _ = scope["fairgate"].call
            await PlainTextResponse("done")(scope, receive, send)

        assert (await ask(gated([{"path": "/a"}], app=app), "/a")).status == 200
