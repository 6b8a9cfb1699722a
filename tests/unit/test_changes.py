"""The overlay of live changes over the file's configuration: what counts, and what is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fairgate.changes.merge import Effective, merged, remerged
from fairgate.changes.overlay import Entry, KeyEntry, Overlay, difference, encode, joined, patched
from fairgate.config import Config
from fairgate.config.reading import loads
from fairgate.identity import Identity, revoked_keys

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
FILE = f"""
apps: {{chat: {{}}, agent: {{}}}}
pools: {{main: {{lanes: {{small: {{price: 2, engines: [{{type: simulated}}]}}}}}}}}
tenants:
  acme: {{weight: 3, apps: [chat], limits: {{rpm: 60}}, keys: [{{sha256: {A}, name: one}}]}}
  globex: {{keys: [{{sha256: {B}}}]}}
"""


@pytest.fixture(scope="module")
def base() -> Config:
    return loads(FILE, source="test", environ={})


def overlay(**fields: Any) -> Overlay:
    """Of fields by name, in which two underscores stand for the slash."""
    named = {name.replace("__", "/"): encode(value) for name, value in fields.items()}
    return Overlay().with_fields(named, epoch="e", version=1)[0]


def key(sha256: str, **fields: Any) -> dict[str, bytes]:
    return {f"key/{sha256}": encode(KeyEntry(**fields))}


def with_keys(*keys: Mapping[str, bytes]) -> Overlay:
    fields = {name: value for some in keys for name, value in some.items()}
    return Overlay().with_fields(fields, epoch="e", version=1)[0]


def test_a_patch_changes_what_it_names_and_null_means_the_default(base):
    patch = {"weight": 5, "apps": None, "limits": {"rpm": None, "tpm": 9}}
    tenant = merged(base, overlay(tenant__acme=Entry(patch=patch))).config.tenants["acme"]
    assert (tenant.weight, tenant.apps, tenant.limits.rpm, tenant.limits.tpm) == (5, (), None, 9)
    assert [k.name for k in tenant.keys] == ["one"]


def test_the_file_may_change_beneath_a_patch(base):
    changes = overlay(tenant__acme=Entry(patch={"weight": 5}))
    later = loads(FILE.replace("rpm: 60", "rpm: 70"), source="test", environ={})
    tenant = merged(later, changes).config.tenants["acme"]
    assert (tenant.weight, tenant.limits.rpm) == (5, 70)


def test_a_tenant_that_the_file_drops_is_gone_with_its_patch_and_keys(base):
    gone = loads(FILE.replace("acme", "hooli"), source="test", environ={})
    changes = with_keys(key(C, tenant="acme"))
    assert "acme" not in merged(gone, changes).config.tenants


def test_fresh_ones_do_not_build_on_the_file_and_deleted_ones_are_gone(base):
    changes = overlay(
        tenant__acme=Entry(patch={"weight": 7}, fresh=True), tenant__globex=Entry(gone=True)
    )
    found = merged(base, changes).config.tenants
    assert set(found) == {"acme"}
    assert (found["acme"].weight, found["acme"].keys) == (7, ())


def test_what_does_not_fit_counts_as_in_the_file_but_revoked_keys_stay_revoked(base):
    fields = {
        "tenant/acme": encode(Entry(patch={"apps": ["gone"], "weight": 9})),
        **key(A, tenant="acme", gone=True),
    }
    found = merged(base, Overlay().with_fields(fields, epoch="e", version=1)[0])
    assert found.problems == {("tenant", "acme"): ("apps[0]: no app is named 'gone'",)}
    assert (found.config.tenants["acme"].weight, found.config.tenants["acme"].keys) == (3, ())


def test_a_tenant_fits_again_once_its_app_is_there(base):
    waiting = Overlay().with_fields(
        {"tenant/acme": encode(Entry(patch={"apps": ["new"]}))}, epoch="e", version=1
    )[0]
    before = merged(base, waiting)
    assert before.problems
    app = {"app/new": encode(Entry(fresh=True))}
    after, concerned = waiting.with_fields(app, epoch="e", version=2)
    found = remerged(base, after, before, concerned)
    assert (found.problems, found.config.tenants["acme"].apps) == ({}, ("new",))


def test_lanes_and_engines_take_what_can_change_while_they_run(base):
    changes = Overlay().with_fields(
        {
            "lane/small": encode(Entry(patch={"queue": {"max_waiting": 3}, "headroom": 0.5})),
            "engine/small/small-0": encode(Entry(patch={"drained": True, "max_num_seqs": 9})),
        },
        epoch="e",
        version=1,
    )[0]
    lane = merged(base, changes).config.pools["main"].lanes["small"]
    assert (lane.price, lane.headroom, lane.queue.max_waiting) == (2, 0.5, 3)
    assert (lane.engines[0].drained, lane.engines[0].max_num_seqs) == (True, 9)


ENGINES = """
admin: {engines_at: [{host: "10.2.0.0/16", api_key: theirs}, {host: "*.models.svc"}]}
pools: {main: {lanes: {small: {engines: [
  {type: http, url: "http://10.2.0.1:8000"}, {type: http, url: "http://10.2.0.2:8000"}]}}}}
"""


def lane_with(text: str, **fields: Entry) -> tuple[dict[str, Any], dict[Any, tuple[str, ...]]]:
    """URLs by name of the lane's engines with these entries, by name; and the problems."""
    named = {f"engine/small/{name}": encode(entry) for name, entry in fields.items()}
    changes = Overlay().with_fields(named, epoch="e", version=1)[0]
    found = merged(loads(text, source="test", environ={}), changes)
    lane = found.config.pools["main"].lanes["small"]
    return lane.engines_of("small"), dict(found.problems)


def added(url: str, **fields: Any) -> Entry:
    return Entry(patch={"url": url, **fields}, fresh=True)


def test_an_added_engine_joins_its_lane_with_the_key_of_its_place():
    engines, problems = lane_with(ENGINES, new=added("http://10.2.9.9:8000", max_num_seqs=7))
    assert problems == {}
    assert list(engines) == ["small-0", "small-1", "new"]
    assert (engines["new"].max_num_seqs, engines["new"].api_key) == (7, "theirs")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://10.3.0.1:8000", "url: expected a host that admin.engines_at allows"),
        ("http://169.254.169.254", "url: expected a host that admin.engines_at allows"),
        ("http://[::ffff:169.254.169.254]", "url: expected a host that admin.engines_at allows"),
        ("http://models.svc.evil.example", "url: expected a host that admin.engines_at allows"),
        ("http://models.svc", "url: expected a host that admin.engines_at allows"),
        ("file:///etc/passwd", "url: expected an http:// or https:// address, got scheme 'file'"),
        ("http://a@10.2.0.9", "url: expected no user or password in the address; use api_key"),
        ("http://10.2.0.9?x", "url: expected an address without blanks, query and fragment"),
        ("http://10.2.0.1:8000/", "url: the same as that of another engine of the lane: "
         "'http://10.2.0.1:8000/'"),
    ],
)  # fmt: skip
def test_an_added_engine_that_may_not_be_there_is_not(url, problem):
    engines, problems = lane_with(ENGINES, new=added(url))
    assert problems == {("engine", "small/new"): (problem,)}
    assert list(engines) == ["small-0", "small-1"]


def test_no_added_engine_counts_where_the_file_allows_none():
    text = ENGINES[ENGINES.index("pools") :]
    engines, problems = lane_with(text, new=added("http://10.2.9.9:8000"))
    assert list(engines) == ["small-0", "small-1"]
    assert "which names none" in problems[("engine", "small/new")][0]


def test_what_only_the_file_may_say_of_an_engine_is_refused():
    _, problems = lane_with(ENGINES, new=added("http://10.2.9.9:8000", api_key="${HOME}"))
    assert problems[("engine", "small/new")][0].startswith("api_key: unknown field")


def test_an_engine_of_the_file_goes_and_the_others_keep_their_names():
    gone = {"small-0": Entry(gone=True)}
    engines, _ = lane_with(ENGINES, **gone)
    assert {name: engine.url for name, engine in engines.items()} == {
        "small-1": "http://10.2.0.2:8000"
    }
    moved = {"small-0": added("http://a.models.svc")}
    engines, _ = lane_with(ENGINES, **moved)
    assert engines["small-0"].url == "http://a.models.svc"


def test_engines_of_a_lane_that_is_not_there_are_reported(base):
    found = merged(base, overlay(engine__large__x=added("http://10.2.0.3")))
    assert found.problems == {("engine", "large/x"): ("no lane is named 'large'",)}


@pytest.mark.parametrize("order", [0, 1])
def test_one_by_one_comes_to_the_same_as_all_at_once(base, order):
    """What a gateway that was there all the time knows, and one that just started."""
    steps: list[dict[str, bytes | None]] = [
        key(C, tenant="acme", name="new"),
        {"tenant/acme": encode(Entry(patch={"weight": 4}))},
        key(A, tenant="acme", gone=True),
        {f"key/{C}": None},
        {"app/agent": encode(Entry(gone=True))},
        {"tenant/new": encode(Entry(fresh=True)), **key(C, tenant="new")},
        {"engine/small/small-0": encode(Entry(patch={"drained": True}))},
        {"engine/small/new": encode(added("http://10.2.9.9:8000"))},
        {"engine/small/small-0": None},
    ]
    if order:
        steps.reverse()
    known, found = Overlay(), Effective(base)
    for version, fields in enumerate(steps, 1):
        known, concerned = known.with_fields(fields, epoch="e", version=version)
        found = remerged(base, known, found, concerned)
    assert found == merged(base, known)
    straight, _ = Overlay().with_fields(
        difference(Overlay(), known.fields), epoch="e", version=known.version
    )
    assert merged(base, straight) == found


def test_identity_follows_single_tenants_as_if_it_were_made_anew(base):
    identity = Identity(base)
    changes = with_keys(key(A, tenant="acme", gone=True), key(C, tenant="globex", user="bot"))
    config = merged(base, changes).config
    identity.take_up(config, ["acme", "globex"])
    assert identity._callers == Identity(config)._callers
    assert revoked_keys(base, config, ["acme", "globex"]) == {A[:12]}


def test_patches_join_and_apply_as_rfc_7396_says():
    """The appendix's examples of nested, replaced and removed members."""
    target = {"a": "b", "c": {"d": "e", "f": "g"}, "l": [1]}
    assert patched(target, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}, "l": [1]}
    assert patched({"a": {"b": "c"}}, {"a": [1]}) == {"a": [1]}
    assert patched({"a": "foo"}, {"a": {"bb": {"ccc": None}}}) == {"a": {"bb": {}}}
    first, then = {"c": {"d": 1, "f": None}}, {"c": {"d": None, "x": 2}, "a": None}
    assert patched(target, joined(first, then)) == patched(patched(target, first), then)
