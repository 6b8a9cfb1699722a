"""``docs/tenants.md`` is true: every header, code and field that it names exists, and every snippet
runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from msgspec import inspect
from support.gateway import MODEL, Gateway, config, engine, gateway, key_of, lane, tenant

import fairgate
from fairgate import errors, headers
from fairgate.codec import decode
from fairgate.errors import (
    MethodNotAllowed,
    Refusal,
    Throttled,
    Unauthenticated,
    UnsupportedEncoding,
)
from fairgate.headers import LimitView
from fairgate.me.report import Report
from fairgate.routing.base import Action, Decision, RouteRequest
from fairgate.routing.routed import Routed

PACKAGE = Path(fairgate.__file__).parent
OPERATORS = {"admin", "dashboard", "inspection"}
FOR_OPERATORS = {errors.Conflict, errors.Invalid, errors.PreconditionFailed}
"""What tenants never see."""
PAGE = Path(__file__).parents[2] / "docs" / "tenants.md"
TEXT = PAGE.read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> Iterator[list[str]]:
    """The cells of the section's tables, without their heads."""
    for line in section(title).splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def named(title: str) -> list[str]:
    """What the first column names."""
    return [name for row in rows(title) for name in re.findall(r"`([^`]+)`", row[0])]


def literals(*modules: str) -> set[str]:
    """Header names that the modules write as bytes."""
    text = "".join((PACKAGE / module).read_text() for module in modules)
    return set(
        re.findall(r'b"((?:x-|ratelimit|retry-after|www-auth|allow|authoriz)[a-z-]*)"', text)
    )


def sent_headers() -> set[str]:
    """Names of all headers that answers of every kind carry."""
    view = LimitView(limit_requests=1, limit_tokens=1)
    sent = headers.route_headers("r", lane="l", engine="e", queue_s=0.0)
    sent += [(headers.DEGRADED, b"local"), *headers.limit_headers(view)]
    sent += headers.choice_headers(3, -0.5, "small")
    call = decode("/v1/chat/completions", b"{}", max_choices=1)
    sent += Routed(RouteRequest(call), Decision((Action("l"),), router="r")).headers()
    throttled = Throttled("", limit="tenant.daily", retry_after=1e6)
    for refusal in (Unauthenticated(""), UnsupportedEncoding(""), throttled):
        sent += headers.error_response(refusal, request_id="r", rng=Random(1)).headers
    return {name.decode() for name, _ in sent}


def test_every_header_that_is_sent_is_on_the_page_and_the_other_way_round():
    known_elsewhere = {"content-type", "content-length"}
    names = named("Headers you get")
    assert len(names) == len(set(names))
    assert set(names) == sent_headers() - known_elsewhere | {"allow"}
    prefixes = {"x-ratelimit-limit-", "x-ratelimit-remaining-", "x-ratelimit-reset-"}
    assert literals("headers.py") - prefixes <= set(names)


def test_every_header_that_is_read_is_on_the_page_and_the_other_way_round():
    read = literals("identity.py", "sampling.py", "routing/knob.py") | {
        headers.REQUEST_ID.decode(),
        "accept",
    }
    assert set(named("Headers you may send")) == read


def refusals(kind: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    yield kind
    for child in kind.__subclasses__():
        yield from refusals(child)


def test_every_error_code_is_on_the_page_with_its_status_and_the_other_way_round():
    apart = {"simulated", *OPERATORS}
    text = "".join(
        path.read_text() for path in PACKAGE.rglob("*.py") if apart.isdisjoint(path.parts)
    )
    codes = set(re.findall(r'code="([a-z_]+)"', text))
    codes |= {kind.code for kind in refusals() if kind.code and kind not in FOR_OPERATORS}
    told = {row[0].strip("`"): int(row[1]) for row in rows("Errors")}
    assert set(told) == codes | {"null"}
    for kind in refusals():
        if kind.code and kind not in FOR_OPERATORS:
            assert told[kind.code] == kind.status
    assert told["null"] == errors.BadRequest.status
    assert MethodNotAllowed.code in told


def fields(kind: inspect.Type) -> Iterator[str]:
    """Names of all fields, at whatever depth."""
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield field.encode_name
                yield from fields(field.type)
        case inspect.VarTupleType():
            yield from fields(kind.item_type)
        case inspect.UnionType():
            for option in kind.types:
                yield from fields(option)


def test_every_field_of_the_view_is_on_the_page_and_the_other_way_round():
    told = re.findall(r"[a-z_]+", " ".join(named("How you stand")))
    also = {"rpm", "tpm", "concurrency", "daily_tokens"}
    assert all(f"`{name}`" in section("How you stand") for name in also)
    assert set(told) | also == set(fields(inspect.type_info(Report)))


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("page")
    with engine(folder, "--profile", "instant") as quick:
        settings = config(
            {"quick": lane(quick.url)}, tenants={"acme": tenant("acme", limits={"rpm": 600})}
        )
        with gateway(folder, settings) as it:
            yield it


SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("language", "code"), SNIPPETS, ids=lambda s: s.split("\n")[0][:40])
def test_every_snippet_runs(gate, language, code):
    if language == "json":
        assert set(json.loads(code)["error"]) == {"message", "type", "param", "code"}
        return
    command = {"sh": ["bash", "-euc", code], "python": [sys.executable, "-c", code]}[language]
    known = {"FAIRGATE_URL": gate.url, "FAIRGATE_KEY": key_of("acme"), "MODEL": MODEL}
    done = subprocess.run(
        command, env={**os.environ, **known}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    if "/me" in code and "html" not in code:
        assert msgspec.json.decode(done.stdout, type=Report).user == "alice"
    elif "/me" in code:
        assert "<h1>acme</h1>" in done.stdout
    elif "curl" in code:
        assert "200 OK" in done.stdout
        assert "x-ratelimit-limit-requests: 600" in done.stdout
