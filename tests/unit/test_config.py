"""The configuration file: what loads, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from fairgate.commands.config import config_app
from fairgate.commands.keys import keys_app
from fairgate.config import Config, HttpEngine, Interactions, Policy, SimulatedEngine
from fairgate.config.policy import resolve_policy
from fairgate.config.reading import load, loads, schema
from fairgate.errors import ConfigError

HASH_A, HASH_B = (sha256(key).hexdigest() for key in (b"a", b"b"))

GOOD = f"""
pools:
  main:
    policy: fairserve
    lanes:
      small:
        engines:
          - {{type: simulated, name: one}}
      large:
        model: big-model
        aliases: [gpt-4o]
        engines:
          - {{type: http, url: "http://engine:8000", api_key: "${{ENGINE_KEY}}"}}
apps:
  chat: {{}}
  code: {{limits: {{rpm: 60}}}}
tenants:
  acme:
    weight: 2
    keys:
      - {{sha256: {HASH_A}, name: backend}}
      - {{sha256: {HASH_B}, user: batch, apps: [code]}}
    limits: {{rpm: 120, daily_tokens: 1_000_000}}
  globex: {{}}
"""


def parse(text: str, **environ: str) -> Config:
    return loads(text, source="", environ=environ)


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environ)
    return caught.value.problems


def edited(change: dict[str, Any]) -> str:
    """The good file with ``{"a.b.c": value}`` put in, as YAML."""
    data = yaml.safe_load(GOOD.replace("${ENGINE_KEY}", "k"))
    for path, value in change.items():
        *parents, last = path.split(".")
        place = data
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        place[int(last) if isinstance(place, list) else last] = value
    return yaml.safe_dump(data, sort_keys=False)


def test_good_file() -> None:
    config = parse(GOOD, ENGINE_KEY="12345")
    assert list(config.tenants) == ["acme", "globex"]
    assert config.tenants["acme"].weight == 2.0
    assert config.tenants["acme"].limits.daily_tokens == 1_000_000
    assert config.tenants["acme"].keys[1].apps == ("code",)
    lanes = config.pools["main"].lanes
    assert isinstance(lanes["small"].engines[0], SimulatedEngine)
    engine = lanes["large"].engines[0]
    assert isinstance(engine, HttpEngine)
    assert engine.api_key == "12345", "stays a string, though it looks like a number"


def test_load_reads_a_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "fairgate.yaml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load(path, environ={"ENGINE_KEY": "x"}).server.port == 8080
    path.write_text("pools: 1")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: pools: expected a mapping, got 1"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "absent.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"pools: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 7"):
        load(path)


class TestSubstitution:
    def test_default_empty_and_escape(self) -> None:
        text = edited({"server.host": "${A:-x}${B:-y}", "store.url": "unix://${C}/s"})
        config = parse(text, B="", C="run")
        assert config.server.host == "xy"
        assert config.store.url == "unix://run/s"
        assert parse(edited({"server.host": "$${A} $5"})).server.host == "${A} $5"

    def test_takes_the_type_of_its_place(self) -> None:
        change = {"server.port": "${PORT:-9000}", "server.access_log": "${LOG}"}
        config = parse(edited({**change, "store.timeout_s": "${T}"}), LOG="false", T="0.5")
        assert (config.server.port, config.server.access_log) == (9000, False)
        assert config.store.timeout_s == 0.5

    def test_text_without_variable_is_not_converted(self) -> None:
        assert problems(edited({"server.port": "9000"})) == [
            "server.port: expected a whole number >= 0 and <= 65535, got '9000'"
        ]

    def test_chooses_the_kind_of_engine(self) -> None:
        text = edited({"pools.main.lanes.small.engines.0.type": "${KIND}"})
        engine = parse(text, KIND="simulated").pools["main"].lanes["small"].engines[0]
        assert isinstance(engine, SimulatedEngine)
        assert problems(text, KIND="simulate") == [
            "pools.main.lanes.small.engines[0].type: expected one of 'http', 'vllm', "
            "'vllm-inprocess', 'simulated', 'app', got the value of '${KIND}'; "
            "did you mean 'simulated'?"
        ]

    def test_missing_variable_beside_another_problem(self) -> None:
        found = problems(edited({"server.port": "${PORT}", "tenants.acme.weight": 0}))
        assert found == [
            "server.port: environment variable PORT is not set; "
            "set it or give a default: ${PORT:-...}",
            "tenants.acme.weight: expected a number > 0, got 0",
        ]

    @pytest.mark.parametrize("text", ["${", "${}", "${A", "${A-b}", "${1}"])
    def test_malformed(self, text: str) -> None:
        assert problems(edited({"server.host": text}), A="a") == [
            "server.host: expected ${NAME} or ${NAME:-default}; "
            "write $${ for the characters ${ themselves"
        ]

    def test_cannot_change_the_structure(self) -> None:
        text = edited({"server.host": "${HOST}"})
        assert parse(text, HOST="a\nport: 1").server.host == "a\nport: 1"


# One change of the good file each, and what is said about it.
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"admin.engines_at": [{"host": "10.2.0.0/33"}]},
            "admin.engines_at[0].host: expected an address, a network, a name, '*.' and a name, "
            "or '*', got '10.2.0.0/33'",
        ),
        (
            {"tenants.acme.weight": 0},
            "tenants.acme.weight: expected a number > 0, got 0",
        ),
        (
            {"tenants.acme.weight": float("nan")},
            "tenants.acme.weight: expected a number > 0, got nan",
        ),
        (
            {"tenants.acme.weight": 1e9},
            "tenants.acme.weight: expected 1e-06 to 1e+06, got 1e+09",
        ),
        (
            {"tenants.acme.user_weights": {"bo": 1e-9}},
            "tenants.acme.user_weights.bo: expected 1e-06 to 1e+06, got 1e-09",
        ),
        (
            {"tenants.acme.limits.rpm": 1.5},
            "tenants.acme.limits.rpm: expected a whole number >= 1, got 1.5",
        ),
        (
            {"tenants.acme.limits.rpm": True},
            "tenants.acme.limits.rpm: expected a whole number >= 1, got true",
        ),
        (
            {"tenants.acme.limits.tpm": 2**60},
            "tenants.acme.limits.tpm: expected a whole number >= 1, at most 2^53, got "
            "1152921504606846976",
        ),
        ({"tenants.acme.limits": None}, "tenants.acme.limits: expected a mapping, got null"),
        (
            {"tenants.globex.wieght": 1},
            "tenants.globex.wieght: unknown field; did you mean 'weight'?",
        ),
        (
            {"store.zzz": 1},
            "store.zzz: unknown field; expected one of 'url', 'on_failure', 'timeout_s', "
            "'heartbeat_s'",
        ),
        (
            {"tenants.acme.keys.0.user": False},
            "tenants.acme.keys[0].user: expected a string, got false; put it in quotes",
        ),
        (
            {"tenants.acme.keys.0.user": " "},
            "tenants.acme.keys[0].user: expected a user, got an empty string",
        ),
        (
            {"tenants.acme.keys.0.sha256": "fg-demo-acme"},
            "tenants.acme.keys[0].sha256: expected the SHA-256 of a key as 64 lower-case hex "
            "digits, got 12 other characters",
        ),
        (
            {"tenants.globex.keys": [{"name": "x"}]},
            "tenants.globex.keys[0].sha256: missing; expected the SHA-256 of a key as 64 "
            "lower-case hex digits",
        ),
        (
            {"tenants.globex.keys": [{"sha256": HASH_A}]},
            "tenants.globex.keys[0].sha256: the same key as tenants.acme.keys[0]; expected each "
            "key once",
        ),
        (
            {"tenants.globex.apps": ["chatt"]},
            "tenants.globex.apps[0]: no app is named 'chatt'; did you mean 'chat'?",
        ),
        (
            {"tenants.acme.keys.1.apps": ["dance"]},
            "tenants.acme.keys[1].apps[0]: no app is named 'dance'",
        ),
        (
            {"tenants.acme.apps": ["chat"]},
            "tenants.acme.keys[1].apps[0]: no app is named 'code' among those of its tenant",
        ),
        (
            {"tenants.acme.keys.1.apps": []},
            "tenants.acme.keys[1].apps: expected at least one app; leave it out to allow the "
            "tenant's",
        ),
        ({"apps": {}, "tenants": {}}, "apps: expected at least one app, got none"),
        ({"anonymous": "acne"}, "anonymous: no tenant is named 'acne'; did you mean 'acme'?"),
        (
            {"tenants.a b": {}},
            "tenants: expected a name of at most 64 letters, digits, '.', '_' and '-' that starts "
            "with a letter or digit as key, got 'a b'",
        ),
        (
            {"apps.7": {}, "tenants.acme.apps": ["new\n"]},
            "tenants.acme.apps[0]: expected a name of at most 64 letters, digits, '.', '_' and "
            "'-' that starts with a letter or digit, got 'new\\n'",
        ),
        ({"pools": {}}, "pools: expected at least one pool, got none"),
        ({"pools.main.lanes": {}}, "pools.main.lanes: expected at least one lane, got none"),
        (
            {"pools.main.lanes.small.engines": []},
            "pools.main.lanes.small.engines: expected at least one engine, got none",
        ),
        (
            {"pools.main.lanes.small": {"engins": []}},
            "pools.main.lanes.small.engins: unknown field; did you mean 'engines'?",
        ),
        (
            {"pools.main.lanes.small.engines.0.type": "simulate"},
            "pools.main.lanes.small.engines[0].type: expected one of 'http', 'vllm', "
            "'vllm-inprocess', 'simulated', 'app', got 'simulate'; did you mean 'simulated'?",
        ),
        (
            {"pools.main.lanes.small.engines.0": {"url": "http://x"}},
            "pools.main.lanes.small.engines[0].type: missing; expected one of 'http', 'vllm', "
            "'vllm-inprocess', 'simulated', 'app'",
        ),
        (
            {"pools.main.lanes.small.engines": [{"type": "simulated", "name": "a"}] * 2},
            "pools.main.lanes.small.engines: 2 engines are named 'a'; expected a name of its own "
            "for each",
        ),
        (
            {
                "pools.main.lanes.small.engines": [
                    {"type": "simulated", "name": "small-1"},
                    {"type": "simulated"},
                ]
            },
            "pools.main.lanes.small.engines: 2 engines are named 'small-1'; expected a name of its "
            "own for each",
        ),
        (
            {"admin": {"port": 8080}},
            "admin.port: 8080 is already server.port",
        ),
        (
            {"admin": {"keys": [{"sha256": HASH_A}]}},
            "tenants.acme.keys[0].sha256: the same key as admin.keys[0]; expected each key once",
        ),
        (
            {"usage": {"max_bytes": 10}},
            "usage.max_bytes: expected a whole number >= 4096, got 10",
        ),
        (
            {"pools.main.lanes.small.engines.0.port": 8080},
            "pools.main.lanes.small.engines[0].port: 8080 is already server.port",
        ),
        (
            {"pools.main.lanes.small.engines.0.port": 0},
            "pools.main.lanes.small.engines[0].port: expected a port from 1 to 65535, got 0",
        ),
        (
            {"pools.main.lanes.large.engines.0.api_key": 123456},
            "pools.main.lanes.large.engines[0].api_key: expected a string, got 6 other "
            "characters; put it in quotes",
        ),
        (
            {"pools.main.lanes.large.model": "small"},
            "pools.main.lanes.large: the model name 'small' is already that of "
            "pools.main.lanes.small",
        ),
        (
            {"pools.two.lanes.tiny": {"aliases": ["gpt-4o"], "engines": [{"type": "simulated"}]}},
            "pools.two.lanes.tiny: the model name 'gpt-4o' is already that of "
            "pools.main.lanes.large",
        ),
        (
            {"pools.main.lanes.large.aliases": ["auto"]},
            "pools.main.lanes.large: 'auto' is not free: it means any lane",
        ),
        (
            {"pools.main.lanes.large.aliases": [""]},
            "pools.main.lanes.large: expected a model name, got an empty one",
        ),
        (
            {"pools.main.policy": "fairsrve"},
            "pools.main.policy: expected a mapping or one of 'fairserve', 'fcfs', "
            "'overload-only', 'rpm', 'vtc', got 'fairsrve'; did you mean 'fairserve'?",
        ),
        (
            {"pools.main.policy": {"order": None}},
            "pools.main.policy.order: expected one of 'fair', 'fcfs', got null",
        ),
        (
            {"pools.main.policy": {"input_weight": 0, "output_weight": 0}},
            "pools.main.policy: expected input_weight or output_weight > 0, got 0 for both: "
            "requests would cost nothing",
        ),
        (
            {"pools.main.policy": {"output_quantile": 1}},
            "pools.main.policy.output_quantile: expected a number > 0 and < 1, got 1",
        ),
        (
            {"store.url": "http://user:s3cret@h"},
            "store.url: expected 'embedded' or a redis://, rediss:// or unix:// address, "
            "got scheme 'http'",
        ),
        ({"store.url": "redis://"}, "store.url: expected a host after redis://, got none"),
        (
            {"store.url": "redis://h:port"},
            "store.url: expected 'embedded' or a redis://, rediss:// or unix:// address, "
            "got a malformed one",
        ),
        (
            {"store.url": "unix://"},
            "store.url: expected the path of a socket after unix://, got none",
        ),
        (
            {"store.heartbeat_s": 0.2},
            "store.timeout_s: expected less than five heartbeats (1 s), got 2",
        ),
        (
            {"timeouts.idle_s": 10**9},
            "timeouts.idle_s: expected 0.001 to 604800 seconds (a week), got 1e+09",
        ),
    ],
)
def test_problem(change: dict[str, Any], expected: str) -> None:
    assert problems(edited(change)) == [expected]


@pytest.mark.parametrize("setting", ["patience_s", "handicap_s"])
def test_none_of_it_is_a_choice(setting: str) -> None:
    config = parse(edited({"pools.main.policy": {"preset": "fairserve", setting: 0}}))
    assert getattr(resolve_policy(config.pools["main"].policy), setting) == 0
    assert getattr(resolve_policy("fairserve"), setting) > 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://h", "expected an http:// or https:// address, got scheme 'ftp'"),
        ("h:8000", "expected an http:// or https:// address, got scheme 'h'"),
        ("http://", "expected a host after http://, got none"),
        ("http://h:x", "expected an http:// or https:// address, got a malformed one"),
        ("http://[::1", "expected an http:// or https:// address, got a malformed one"),
        ("http://u:s3cret@h", "expected no user or password in the address; use api_key"),
        ("http://h?a=b", "expected an address without blanks, query and fragment"),
        ("http://h#f", "expected an address without blanks, query and fragment"),
        ("http://h ", "expected an address without blanks, query and fragment"),
    ],
)
def test_engine_address(url: str, expected: str) -> None:
    path = "pools.main.lanes.large.engines"
    assert problems(edited({f"{path}.0.url": url})) == [f"{path}[0].url: {expected}"]


def test_two_engines_at_one_address() -> None:
    engines = [{"type": "http", "url": "http://h"}, {"type": "http", "url": "http://h/"}]
    assert problems(edited({"pools.main.lanes.large.engines": engines})) == [
        "pools.main.lanes.large.engines[1].url: the same as pools.main.lanes.large.engines[0].url"
    ]


def test_problems_in_many_places_are_all_reported() -> None:
    found = problems(
        edited(
            {
                "tenants.acme.weight": -1,
                "tenants.globex.limits": {"rpm": 0},
                "pools.main.lanes.small.engines.0.speed": "fast",
                "server.port": 70000,
            }
        )
    )
    assert {problem.partition(":")[0] for problem in found} == {
        "tenants.acme.weight",
        "tenants.globex.limits.rpm",
        "pools.main.lanes.small.engines[0].speed",
        "server.port",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping, got null"),
        ("- 1", "expected a mapping, got a list"),
        ("a: [1", "is not valid YAML in line 2, column 1"),
        ("a: 1\n---\nb: 1", "found another document"),
        ("a: \x00", "is not valid YAML: unacceptable character"),
        ("a: 2024-13-45", "is not valid YAML: a value cannot be read: month must be in"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: &a [*a]", "is nested too deeply, or an alias contains itself"),
        ("a: {b: 1, b: 2}", "a.b: stands twice, on lines 1 and 1"),
        ("a:\n  - b: 1\n    c: 2\n    b: 3", "a[0].b: stands twice, on lines 2 and 4"),
    ],
)
def test_bad_yaml(text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


def test_yaml_errors_quote_no_values() -> None:
    assert "s3cret" not in "\n".join(problems("store: {url: 'redis://:s3cret@h\n  x: 'y"))


def test_merge_keys_may_be_overridden() -> None:
    config = parse(
        """
pools: {p: {lanes: {l: {engines: [{type: simulated}]}}}}
tenants:
  acme: &acme {weight: 2, limits: {rpm: 5}}
  globex: {<<: *acme, weight: 3}
"""
    )
    assert config.tenants["globex"].weight == 3
    assert config.tenants["globex"].limits.rpm == 5


class TestPolicy:
    @pytest.mark.parametrize(
        ("preset", "order", "throttle", "aware", "normalise_user", "advantage"),
        [
            ("fcfs", "fcfs", "never", False, "none", 0),
            ("rpm", "fcfs", "always", False, "none", 0),
            ("vtc", "fair", "never", False, "none", 0),
            ("overload-only", "fair", "overload", False, "app", 0),
            ("fairserve", "fair", "overload", True, "app", 1),
        ],
    )
    def test_presets(
        self,
        preset: Any,
        order: str,
        throttle: str,
        aware: bool,
        normalise_user: str,
        advantage: float,
    ) -> None:
        policy = resolve_policy(preset)
        assert policy == resolve_policy(Policy(preset=preset))
        assert (policy.preset, policy.order, policy.throttle) == (preset, order, throttle)
        assert policy.interaction_aware is aware
        assert policy.normalise_user == normalise_user
        assert policy.normalise_tenant == "none"
        assert policy.levels == "tenant+user"
        assert policy.continuation_advantage == advantage

    def test_stated_fields_win(self) -> None:
        idle = Interactions(idle_s=5)
        policy = resolve_policy(
            Policy(preset="vtc", throttle="always", levels="user", backfill=7, interactions=idle)
        )
        assert (policy.order, policy.throttle, policy.levels) == ("fair", "always", "user")
        assert policy.backfill == 7
        assert policy.output_weight == 2
        assert policy.interactions.idle_s == 5


def test_schema_is_complete() -> None:
    document = schema()
    definitions = document["$defs"]
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(document))
    assert set(references) <= set(definitions)
    assert "Config" in references
    assert definitions["Tenant"]["additionalProperties"] is False
    assert definitions["HttpEngine"]["properties"]["type"] == {"enum": ["http"]}
    assert "$id" not in document


class TestCommands:
    @pytest.fixture
    def invoke(self) -> Any:
        app = typer.Typer()
        app.add_typer(config_app)
        app.add_typer(keys_app)
        return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])

    def test_check_good(self, invoke: Any, tmp_path: Path) -> None:
        path = tmp_path / "fairgate.yaml"
        path.write_text(edited({}))
        result = invoke("config", "check", path)
        assert (result.exit_code, result.stdout) == (0, "ok: 2 tenants, 2 lanes, 2 engines\n")

    def test_check_bad(self, invoke: Any, tmp_path: Path) -> None:
        path = tmp_path / "fairgate.yaml"
        path.write_text(edited({"tenants.acme.weight": 0, "server.prot": 1}))
        result = invoke("config", "check", path)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert sorted(result.stderr.splitlines()) == [
            f"{path}: server.prot: unknown field; did you mean 'port'?",
            f"{path}: tenants.acme.weight: expected a number > 0, got 0",
        ]

    def test_schema(self, invoke: Any) -> None:
        assert json.loads(invoke("config", "schema").stdout) == json.loads(json.dumps(schema()))

    def test_new_key_works_once_pasted(self, invoke: Any) -> None:
        result = invoke("keys", "new", "--tenant", "no", "--name", "ci: main")
        assert result.exit_code == 0
        (key,) = re.findall(r"^fg_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$", result.stdout, re.MULTILINE)
        snippet = yaml.safe_load(result.stdout.replace(key, "", 1))
        entry = {"sha256": sha256(key.encode()).hexdigest(), "name": "ci: main"}
        assert snippet == {"tenants": {"no": {"keys": [entry]}}}
        assert parse(edited(snippet)).tenants["no"].keys[0].name == "ci: main"

    def test_new_key_for_a_bad_name(self, invoke: Any) -> None:
        result = invoke("keys", "new", "--tenant", "a b")
        assert result.exit_code == 2
        assert "--tenant" in result.stderr
