"""SECURITY.md: each promise has its test; and what no other page of tests shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import fairgate
from fairgate.config import Key, reading
from fairgate.errors import ConfigError

ROOT = Path(fairgate.__file__).parent.parent
TESTS = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())


def test_there_are_promises() -> None:
    assert len(TESTS) > 30
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if "::test_" in line]
    assert len(rows) == len(TESTS)  # each in a row of its own


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[name for _, name in TESTS])
def test_each_promise_has_its_test(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in tree.body if isinstance(node, defined)}


def site(engine: str) -> str:
    engines = [{"type": "http", "url": engine}]
    return yaml.safe_dump({"pools": {"main": {"lanes": {"a": {"engines": engines}}}}})


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "gopher://10.0.0.1:6379/_SET", "unix:///run/engine.sock", "ftp://a/b",
        "http://", "//10.0.0.1", "10.0.0.1:8000", "http://a:b@169.254.169.254/", "http://a/?x=/sleep",
        "http://a/#x", "http://a b/", "http://a\r\nx: y/", "http://a:99999/", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_an_engine_is_asked_over_http_only(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        reading.loads(site(url), source="test", environ={})


def test_an_environment_variable_adds_no_section() -> None:
    """It is filled in after parsing."""
    hostile = 'http://a"}]}}}}\nanonymous: root\n#'
    with pytest.raises(ConfigError, match="url"):
        reading.loads(site("${URL}"), source="test", environ={"URL": hostile})


def test_no_secret_stands_in_a_message() -> None:
    text = site("http://engine") + "store: {url: 'redis://:hunter2@[broken'}\n"
    with pytest.raises(ConfigError) as caught:
        reading.loads(text, source="test", environ={})
    assert "hunter2" not in str(caught.value)


def test_a_key_is_kept_as_its_hash_only() -> None:
    fields = set(Key.__struct_fields__)
    assert "sha256" in fields
    assert not fields & {"key", "secret", "token", "value", "text"}
    with pytest.raises(ConfigError, match="sha256"):
        reading.loads(
            site("http://engine") + "tenants: {acme: {keys: [{sha256: plain-text-key}]}}\n",
            source="test",
            environ={},
        )
