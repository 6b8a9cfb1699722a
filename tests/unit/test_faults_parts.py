"""What the fault harness takes for lost, and what for a contradiction in the ledger."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.answers import Kind, Wish, judge
from tests.faults.ledger import (
    Account,
    EngineUse,
    Look,
    Request,
    held_back,
    leaked,
    over_capacity,
    violations,
)
from tests.faults.promises import PROMISES, Promise, shown_by
from tests.faults.rows import FAULTS

ROOT = Path(__file__).parents[2]
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
FEWER = {**USAGE, "completion_tokens": 3}
TEXT = b'data: {"choices": []}\n\n'
LAST = b'data: {"choices": [], "usage": %s}\n\n' % json.dumps(USAGE).encode()
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"message": "no", "type": "server_error", "code": "engine_failed"}}\n\n'


@pytest.mark.parametrize(
    ("stream", "status", "headers", "body", "kind"),
    [
        (False, 200, {}, json.dumps({"usage": USAGE}).encode(), Kind.ANSWERED),
        (False, 200, {}, b'{"usage": {"completion_tok', Kind.LOST),
        (False, 200, {}, json.dumps({"usage": None}).encode(), Kind.LOST),
        (False, 200, {}, json.dumps({"usage": FEWER}).encode(), Kind.LOST),
        (True, 200, {}, TEXT + LAST + DONE, Kind.ANSWERED),
        (True, 200, {}, TEXT + LAST, Kind.LOST),
        (True, 200, {}, TEXT + DONE, Kind.LOST),
        (True, 200, {}, TEXT + b"\n\n" + ERROR, Kind.BROKEN),
        (True, 200, {}, TEXT + b'data: {"half\nof it\n\n' + LAST + DONE, Kind.LOST),
        (False, 503, {"retry-after": "2"}, ERROR[6:], Kind.REFUSED),
        (False, 503, {}, ERROR[6:], Kind.LOST),
        (False, 429, {"retry-after": "600"}, ERROR[6:], Kind.LOST),
        (False, 502, {}, ERROR[6:], Kind.REFUSED),
        (False, 500, {}, b"Internal Server Error", Kind.LOST),
        (False, 404, {}, ERROR[6:], Kind.LOST),
    ],
)  # fmt: skip
def test_what_became_of_a_request(stream, status, headers, body, kind):
    assert judge(Wish(stream, 4), status, headers, body).kind is kind


def request(name: str, state: str, **fields: object) -> Request:
    held_kv = 60.0 if state == "granted" else 0.0
    return Request(
        id=name, state=state, tenant="acme", user="ann", lane="small",
        engine="e" if state == "granted" else "", gateway="g", held_kv=held_kv, tokens=60,
    )  # fmt: skip


def engine(**fields: str) -> dict[str, EngineUse]:
    usual = {"seqs": "1", "kv": "60", "limit": "1", "max_seqs": "1", "max_kv": "100", "up": "1"}
    return {"small:e": EngineUse(**(usual | fields))}


ACCOUNT = Account(flight=2, waiting=1, s=5, du=60, rc=2, tc=60)
SOUND = Look(
    gateways={"g": "1"},
    requests=[request("a", "granted"), request("b", "waiting"), request("c", "swept")],
    held={"g": ["a"]},
    waiting={"g": ["b"]},
    lanes={"small": 1},
    lines={"small": 1},
    engines=engine(),
    free={"small": {"e": "0"}},
    tenants={"acme": ACCOUNT},
    users={"acme:ann": ACCOUNT},
    late=[],
)


def test_a_sound_ledger_contradicts_itself_nowhere():
    assert violations(SOUND) == []
    assert leaked(SOUND) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"held": {}}, "granted: records and sets differ"),
        ({"waiting": {"g": ["b", "d"]}}, "waiting: records and sets differ"),
        ({"lines": {"small": 0}}, "lane small"),
        ({"lanes": {"small": 2}}, "lane small"),
        ({"tenants": {"acme": Account(3, 1, 5, 60, 2, 60)}}, "tenant acme: flight 3"),
        ({"users": {}}, "user acme:ann"),
        ({"tenants": {"acme": Account(2, 1, -1, 60, 2, 60)}}, "below 0"),
        ({"free": {"small": {"e": "1"}}}, "1 free of 1"),
        ({"engines": engine(seqs="2", limit="2")}, "2 sequences reserved"),
        ({"engines": engine(kv="61")}, "61 KV"),
        ({"engines": engine(aside_kv="20")}, "nobody is late"),
        ({"engines": engine(aside_seqs="1"), "late": ["g"]}, "1 aside"),
    ],
)  # fmt: skip
def test_a_contradiction_is_told(change, says):
    assert any(says in wrong for wrong in violations(replace(SOUND, **change)))


def test_more_leases_than_sequences_are_told():
    assert over_capacity(SOUND) == []
    assert over_capacity(replace(SOUND, engines=engine(max_seqs="0"))) != []


def test_a_quiet_pool_holds_nothing():
    nothing = replace(
        SOUND, requests=[request("c", "swept")], held={}, waiting={}, lanes={"small": 0},
        lines={"small": 0}, tenants={}, users={}, free={"small": {"e": "1"}},
        engines=engine(seqs="0", kv="0"),
    )  # fmt: skip
    assert held_back(nothing, {"small:e": 1}) == []
    assert held_back(SOUND, {"small:e": 1}) != []
    assert held_back(replace(nothing, free={"small": {}}), {"small:e": 1}) != []
    assert held_back(nothing, {"small:e": 2}) != []


@pytest.mark.parametrize("promise", PROMISES, ids=[promise.id for promise in PROMISES])
def test_each_promise_stands_on_its_page_and_is_shown(promise: Promise) -> None:
    page = (ROOT / promise.page).read_text().replace("**", "")
    assert " ".join(promise.words.split()) in " ".join(page.split())
    assert promise.rows or promise.tests
    assert set(promise.rows) <= FAULTS.keys()
    for test in promise.tests:
        file, _, name = test.partition("::")
        nodes = ast.walk(ast.parse((ROOT / "tests" / file).read_text()))
        defined = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in nodes if isinstance(node, defined)}, test


def test_each_row_shows_a_promise() -> None:
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)
    assert [name for name in FAULTS if not shown_by(name)] == []
