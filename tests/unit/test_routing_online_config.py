"""What a ``routing`` section may say, and what is said of a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.config.reading import convert
from fairgate.errors import ConfigError
from fairgate.reload import _live_part, restart_needed

ENGINE = {"type": "http", "url": "http://gpu-1:8000"}


def settings(routing: Any, tenant: Any = None, **lane: Any) -> dict[str, Any]:
    lanes = {"small": {"engines": [ENGINE], **lane}}
    return {
        "pools": {"main": {"lanes": lanes, "routing": routing}},
        "tenants": {"acme": tenant or {}},
    }


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            settings({"quality": 1.5}),
            "pools.main.routing.quality: expected a number >= 0 and <= 1, got 1.5",
        ),
        (settings({"router": "best"}), "pools.main.routing.router"),
        (
            settings({}, {"satisfaction": 1}),
            "tenants.acme.satisfaction: expected a number > 0 and < 1, got 1",
        ),
        (
            settings({}, {"quality": -1}),
            "tenants.acme.quality: expected a number >= 0 and <= 1, got -1",
        ),
        (settings({"drop": 0}), "pools.main.routing.drop"),
        (settings({"trial": {"share": 2}}), "pools.main.routing.trial.share"),
        (settings({"checks": ["spelling"]}), "pools.main.routing.checks"),
        (settings({"judge": {"url": "judge:80"}}), "pools.main.routing.judge.url"),
        (
            settings({"mess_plus": {"cost": "energy"}}),
            "pools.main.lanes.small.energy: expected joules per token, got none",
        ),
        (settings({}, aliases=["auto:0.5"]), "'auto:0.5' is not free: it means any lane"),
    ],
)
def test_a_wrong_section_is_told_by_path(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        convert(config, source="test")
    assert problem in str(error.value)


def test_routing_changes_without_a_restart() -> None:
    old = convert(settings({"quality": 0.5}), source="test")
    new = convert(settings({"router": "mess-plus"}, {"quality": 0.9}), source="test")
    assert restart_needed(old, new) == []
    live = _live_part(old, new)
    assert live.pools["main"].routing == new.pools["main"].routing
    assert live.tenants["acme"].quality == 0.9
