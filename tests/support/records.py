"""Reads the ledger's records from outside, by the scripts' own notion of them."""

from __future__ import annotations

import json
from typing import Any

import redis

from fairgate.admission.scripts import compose_script

_READ = compose_script(
    "read",
    b"""
    local kind, name = ARGV[1], ARGV[2]
    local read = {
      request = fg.load_request, lane = fg.lane_record, app = fg.pool_profile,
      interaction = fg.load_interaction,
      profile = function(of) return fg.profile(fg.key('profile', of)) end,
    }
    if redis.call('EXISTS', fg.key(kind, name)) == 0 then
      return '{}'
    end
    return cjson.encode(read[kind] and read[kind](name) or fg.account(fg.key(kind, name)))
    """,
)


def read_record(client: redis.Redis, prefix: str, kind: str, name: str) -> dict[str, Any]:
    """One record, such as ``tenant`` / ``acme``; empty if there is none. An engine's is a hash."""
    if kind == "engine":
        return dict(client.hgetall(f"{prefix}{kind}:{name}"))  # type: ignore[arg-type]
    return dict(json.loads(client.eval(_READ.text, 1, f"{prefix}settings", kind, name)))  # type: ignore[arg-type]
