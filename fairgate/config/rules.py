"""Checks a configuration across its fields: what the type of each single one cannot say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_network
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from fairgate.config import (
    AppEngine,
    Config,
    Engine,
    HttpEngine,
    InProcessEngine,
    Key,
    Lane,
    Pool,
    Route,
    Tenant,
)
from fairgate.config.places import is_place
from fairgate.config.policy import resolve_policy
from fairgate.config.sampling import HttpScorer, Scorer
from fairgate.config.shape import did_you_mean, join
from fairgate.storeurl import parse_address

AUTO_MODEL = "auto"
"""The ``model`` by which a client leaves the choice of the lane to fairgate; ``auto:0.8`` names
the quality that it wants as well."""

_WEEK_S = 7 * 86_400
_ZERO_IS_OFF = frozenset({"patience_s", "handicap_s"})
# Weights multiply token counts into service; within these bounds sums stay exact in doubles.
_FACTORS = frozenset(
    {"weight", "user_weights", "price", "input_weight", "system_weight", "output_weight"}
)
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-6, 1e6


def is_auto(model: str | None) -> bool:
    """Whether ``model`` leaves the choice of the lane to fairgate."""
    return not model or model == AUTO_MODEL or model.startswith(f"{AUTO_MODEL}:")


def tenant_problems(name: str, tenant: Tenant, config: Config) -> list[str]:
    """What is wrong with one tenant of ``config``, by the paths within it."""
    found = _tenant(tenant, config, "")
    return [problem.removeprefix(".") for problem in found]


def url_problems(url: str, path: str) -> list[str]:
    """What is wrong with the address of a server, without the whole of it."""
    return list(_http_url(url, path))


def quantities(section: Struct) -> list[str]:
    """Numbers in ``section`` that nobody can mean, by the paths within it."""
    return list(_quantities(section, "", ""))


def problems(config: Config) -> list[str]:
    """Everything that is wrong with ``config`` as a whole, in the order of the file."""
    return [
        *_pools(config),
        *_model_names(config),
        *_ports(config),
        *_tenants(config),
        *_keys_used_twice(config),
        *_store(config),
        *_networks(config),
        *_engines_at(config),
        *_routes(config),
        *_quantities(config, "", ""),
    ]


def _pools(config: Config) -> Iterator[str]:
    if not config.pools:
        yield "pools: expected at least one pool, got none"
    for name, pool in config.pools.items():
        path = f"pools.{name}"
        if not pool.lanes:
            yield f"{path}.lanes: expected at least one lane, got none"
        yield from _policy(pool, path)
        yield from _sampling(config, pool, path)
        yield from _routing(pool, path)
        for lane_name, lane in pool.lanes.items():
            yield from _engines(lane_name, lane, f"{path}.lanes.{lane_name}.engines")


def _policy(pool: Pool, path: str) -> Iterator[str]:
    policy = resolve_policy(pool.policy)
    if not policy.input_weight and not policy.output_weight:
        yield (
            f"{path}.policy: expected input_weight or output_weight > 0, got 0 for both: "
            "requests would cost nothing"
        )


def _sampling(config: Config, pool: Pool, path: str) -> Iterator[str]:
    """Several answers to one request: lanes that there are, and as many as a request may have."""
    best_of, cascade = pool.best_of, pool.cascade
    if best_of is not None:
        at = f"{path}.best_of"
        yield from _known_lanes(pool, {f"{at}.samples.{n}": n for n in best_of.samples})
        yield from _scorer(best_of.scorer, f"{at}.scorer")
        if best_of.max_samples > config.max_choices:
            yield (
                f"{at}.max_samples: expected at most max_choices ({config.max_choices}), "
                f"got {best_of.max_samples}"
            )
        for name, samples in best_of.samples.items():
            if samples > best_of.max_samples:
                yield (
                    f"{at}.samples.{name}: expected at most max_samples ({best_of.max_samples}), "
                    f"got {samples}"
                )
    if cascade is not None:
        at = f"{path}.cascade"
        named = {f"{at}.first": cascade.first, f"{at}.then": cascade.then}
        yield from _known_lanes(pool, named)
        yield from _scorer(cascade.scorer, f"{at}.scorer")
        if cascade.first == cascade.then:
            yield f"{at}.then: expected another lane than first, got '{cascade.then}'"


def _known_lanes(pool: Pool, named: Mapping[str, str]) -> Iterator[str]:
    for path, name in named.items():
        if name not in pool.lanes:
            yield f"{path}: no lane is named '{name}'{did_you_mean(name, pool.lanes)}"


def _scorer(scorer: Scorer, path: str) -> Iterator[str]:
    if isinstance(scorer, HttpScorer):
        yield from _http_url(scorer.url, f"{path}.url")


def _routing(pool: Pool, path: str) -> Iterator[str]:
    routing = pool.routing
    if routing is None:
        return
    if routing.judge is not None:
        yield from _http_url(routing.judge.url, f"{path}.routing.judge.url")
    choices = [choice for choice in (routing, routing.trial, routing.shadow) if choice]
    if pool.best_of is None and any(choice.router == "best-route" for choice in choices):
        yield f"{path}.best_of: expected a section, got none: a router is 'best-route'"
    if routing.mess_plus.cost != "energy":
        return
    for name, lane in pool.lanes.items():
        if lane.energy is None:
            yield (
                f"{path}.lanes.{name}.energy: expected joules per token, got none: "
                f"{path}.routing.mess_plus.cost is 'energy'"
            )


def _engines(lane_name: str, lane: Lane, path: str) -> Iterator[str]:
    if not lane.engines:
        yield f"{path}: expected at least one engine, got none"
    names = (e.name or f"{lane_name}-{place}" for place, e in enumerate(lane.engines))
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{path}: {count} engines are named '{name}'; expected a name of its own for each"
    seen: dict[str, int] = {}
    for i, engine in enumerate(lane.engines):
        if isinstance(engine, HttpEngine):
            yield from _http_url(engine.url, f"{path}[{i}].url")
            first = seen.setdefault(engine.url.rstrip("/"), i)
            if first != i:
                yield f"{path}[{i}].url: the same as {path}[{first}].url"


def _http_url(url: str, path: str) -> Iterator[str]:
    # Messages hold parts of the address at most: the whole may carry a password.
    parts = _split(url)
    if parts is None:
        yield f"{path}: expected an http:// or https:// address, got a malformed one"
        return
    if parts.scheme not in ("http", "https"):
        yield f"{path}: expected an http:// or https:// address, got scheme '{parts.scheme}'"
    elif not parts.hostname:
        yield f"{path}: expected a host after {parts.scheme}://, got none"
    if "@" in parts.netloc:
        yield f"{path}: expected no user or password in the address; use api_key"
    if parts.query or parts.fragment or re.search(r"[\s?#]", url):
        yield f"{path}: expected an address without blanks, query and fragment"


def _split(url: str) -> SplitResult | None:
    """The parts of ``url``; ``None`` when it is malformed, also in its port."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - parsed and checked only when it is asked for
    except ValueError:
        return None
    return parts


def _model_names(config: Config) -> Iterator[str]:
    """A model name must lead to one lane."""
    owners: dict[str, str] = {}
    for pool_name, pool in config.pools.items():
        for lane_name, lane in pool.lanes.items():
            path = f"pools.{pool_name}.lanes.{lane_name}"
            for name in dict.fromkeys((lane_name, lane.model or lane_name, *lane.aliases)):
                owner = owners.setdefault(name, path)
                if not name.strip():
                    yield f"{path}: expected a model name, got an empty one"
                elif is_auto(name):
                    yield f"{path}: '{name}' is not free: it means any lane"
                elif owner != path:
                    yield f"{path}: the model name '{name}' is already that of {owner}"


def _ports(config: Config) -> Iterator[str]:
    owners = {config.server.port: "server.port"} if config.server.port else {}
    if config.admin.port:
        owner = owners.setdefault(config.admin.port, "admin.port")
        if owner != "admin.port" and config.admin.host in (None, config.server.host):
            yield f"admin.port: {config.admin.port} is already {owner}"
    for path, engine in all_engines(config):
        if isinstance(engine, HttpEngine | InProcessEngine | AppEngine) or engine.port is None:
            continue
        if not 1 <= engine.port <= 65535:
            yield f"{path}.port: expected a port from 1 to 65535, got {engine.port}"
        owner = owners.setdefault(engine.port, f"{path}.port")
        if owner != f"{path}.port":
            yield f"{path}.port: {engine.port} is already {owner}"


def all_engines(config: Config) -> Iterator[tuple[str, Engine]]:
    for pool_name, pool in config.pools.items():
        for lane_name, lane in pool.lanes.items():
            for i, engine in enumerate(lane.engines):
                yield f"pools.{pool_name}.lanes.{lane_name}.engines[{i}]", engine


def _tenants(config: Config) -> Iterator[str]:
    if not config.apps:
        yield "apps: expected at least one app, got none"
    for name, tenant in config.tenants.items():
        yield from _tenant(tenant, config, f"tenants.{name}")
    if config.anonymous is not None and config.anonymous not in config.tenants:
        guess = did_you_mean(config.anonymous, config.tenants)
        yield f"anonymous: no tenant is named '{config.anonymous}'{guess}"


def _tenant(tenant: Tenant, config: Config, path: str) -> Iterator[str]:
    yield from _known_apps(tenant.apps, config.apps, f"{path}.apps", "")
    for i, key in enumerate(tenant.keys):
        yield from _key(key, tenant, config, f"{path}.keys[{i}]")


def _key(key: Key, tenant: Tenant, config: Config, path: str) -> Iterator[str]:
    if key.user is not None and not key.user.strip():
        yield f"{path}.user: expected a user, got an empty string"
    if key.apps is None:
        return
    if not key.apps:
        yield f"{path}.apps: expected at least one app; leave it out to allow the tenant's"
    tenant_only = " among those of its tenant" if tenant.apps else ""
    yield from _known_apps(key.apps, tenant.apps or config.apps, f"{path}.apps", tenant_only)


def _known_apps(
    names: tuple[str, ...], known: Collection[str], path: str, where: str
) -> Iterator[str]:
    for i, name in enumerate(names):
        if name not in known:
            yield f"{path}[{i}]: no app is named '{name}'{where}{did_you_mean(name, known)}"


def _keys_used_twice(config: Config) -> Iterator[str]:
    owners: dict[str, str] = {}
    for i, admin in enumerate(config.admin.keys):
        owners.setdefault(admin.sha256, f"admin.keys[{i}]")
    for name, tenant in config.tenants.items():
        for i, key in enumerate(tenant.keys):
            path = f"tenants.{name}.keys[{i}]"
            owner = owners.setdefault(key.sha256, path)
            if owner != path:
                yield f"{path}.sha256: the same key as {owner}; expected each key once"


def _networks(config: Config) -> Iterator[str]:
    for name in ("trusted_proxies", "metrics_from"):
        for i, network in enumerate(getattr(config.server, name)):
            try:
                ip_network(network)
            except ValueError as error:
                yield f"server.{name}[{i}]: expected an address or a network, got: {error}"


def _engines_at(config: Config) -> Iterator[str]:
    for i, place in enumerate(config.admin.engines_at):
        if not is_place(place.host):
            yield (
                f"admin.engines_at[{i}].host: expected an address, a network, a name, '*.' and a "
                f"name, or '*', got '{place.host[:80]}'"
            )


def _store(config: Config) -> Iterator[str]:
    store = config.store
    if store.url != "embedded":
        yield from _store_url(store.url)
    # A gateway that waits for one slow answer must not be taken for dead meanwhile.
    if store.timeout_s >= 5 * store.heartbeat_s:
        yield (
            f"store.timeout_s: expected less than five heartbeats ({5 * store.heartbeat_s:g} s), "
            f"got {store.timeout_s:g}"
        )


def _store_url(url: str) -> Iterator[str]:
    expected = "expected 'embedded' or a redis://, rediss:// or unix:// address"
    if "+" in url.partition("://")[0]:
        try:
            parse_address(url)
        except ValueError as error:
            yield f"store.url: {error}"
        return
    parts = _split(url)
    if parts is None:
        yield f"store.url: {expected}, got a malformed one"
    elif parts.scheme not in ("redis", "rediss", "unix"):
        yield f"store.url: {expected}, got scheme '{parts.scheme}'"
    elif parts.scheme == "unix" and not parts.path:
        yield "store.url: expected the path of a socket after unix://, got none"
    elif parts.scheme != "unix" and not parts.hostname:
        yield f"store.url: expected a host after {parts.scheme}://, got none"


def _routes(config: Config) -> Iterator[str]:
    lanes = {lane for pool in config.pools.values() for lane in pool.lanes}
    owners: dict[tuple[str | None, str | None, str], str] = {}
    for i, route in enumerate(config.routes):
        at = f"routes[{i}]"
        yield from _route(route, at)
        if route.lane is not None and route.lane not in lanes:
            guess = did_you_mean(route.lane, lanes)
            yield f"{at}.lane: no lane is named '{route.lane}'{guess}"
        for method in route.methods or ("*",):
            owner = owners.setdefault((route.path, route.prefix, method), at)
            if owner != at:
                yield f"{at}: the same path and method as {owner}"


def _route(route: Route, at: str) -> Iterator[str]:
    if (route.path is None) == (route.prefix is None):
        yield f"{at}: expected either path or prefix"
    for name, value in (("path", route.path), ("prefix", route.prefix)):
        if value is not None and not value.startswith("/"):
            yield f"{at}.{name}: expected a path that starts with '/', got '{value}'"
    for method in route.methods or ():
        if not re.fullmatch("[A-Z]+", method):
            yield f"{at}.methods: expected methods in capitals, got '{method}'"
    if route.methods == ():
        yield f"{at}.methods: expected at least one; leave it out for the usual ones"
    said = [name for name in ("exempt", "api", "cost") if getattr(route, name)]
    if len(said) > 1:
        yield f"{at}: expected one of exempt, api and cost, got {' and '.join(said)}"


def _quantities(value: object, path: str, field: str) -> Iterator[str]:
    """Numbers that fit their type but that nobody can mean."""
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _quantities(getattr(value, name), join(path, name), name)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _quantities(item, join(path, name), field)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _quantities(item, f"{path}[{i}]", field)
    elif isinstance(value, int | float):
        yield from _quantity(value, path, field)


def _quantity(value: float, path: str, field: str) -> Iterator[str]:
    off = value == 0 and field in _ZERO_IS_OFF
    if field.endswith("_s") and not 0.001 <= value <= _WEEK_S and not off:
        yield f"{path}: expected 0.001 to {_WEEK_S} seconds (a week), got {value:g}"
    if field in _FACTORS and value and not _SMALLEST_FACTOR <= value <= _LARGEST_FACTOR:
        yield f"{path}: expected {_SMALLEST_FACTOR:g} to {_LARGEST_FACTOR:g}, got {value:g}"
