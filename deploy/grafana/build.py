"""Write fairgate.json, the Grafana dashboard: ``python deploy/grafana/build.py``.

Panels stand in rows, three to a row; a panel is its title, its unit and its queries by legend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("fairgate.json")

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
POOL = 'pool=~"$pool"'
TENANT = 'tenant=~"$tenant"'
BOTH = f"{POOL},{TENANT}"
Queries = dict[str, str]


def rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def of_pool(metric: str, by: str) -> str:
    """What every replica tells alike."""
    return f"max by ({by}) ({metric}{{{POOL}}})"


STATS: list[tuple[str, str, str]] = [
    ("Jain's index", "none", f"min(fairgate_jain_index{{{POOL}}})"),
    ("Saturation", "percentunit", f"max(fairgate_lane_saturation_ratio{{{POOL}}})"),
    ("In line", "none", f"sum({of_pool('fairgate_lane_waiting_requests', 'pool, lane')})"),
    ("Requests", "reqps", f"sum(rate(fairgate_requests_total{{{POOL}}}[$__rate_interval]))"),
    ("Engines up", "none", f"sum({of_pool('fairgate_engine_up', 'pool, lane, engine')})"),
    ("Replicas", "none", f"max(fairgate_gateways{{{POOL}}})"),
]

ROWS: dict[str, list[tuple[str, str, Queries]]] = {
    "Who gets what": [
        ("Share of the service", "percentunit", {
            "{{tenant}}": rate("fairgate_service_units_total", "tenant", BOTH)
            + f" / ignoring(tenant) group_left {rate('fairgate_service_units_total', '', POOL)}",
        }),
        ("Due, by weight and demand", "percentunit", {
            "{{tenant}}": f"max by (tenant) (fairgate_tenant_due_ratio{{{BOTH}}})",
        }),
        ("Satisfied: got of what was due", "percentunit", {
            "{{tenant}}": f"min by (tenant) (fairgate_tenant_satisfied_share_ratio{{{BOTH}}})",
        }),
        ("Service, units per second", "none", {
            "{{tenant}}": rate("fairgate_service_units_total", "tenant", BOTH),
        }),
        ("Asked for and not served, units per second", "none", {
            "{{tenant}}": rate("fairgate_unserved_service_units_total", "tenant", BOTH),
        }),
        ("Tokens per second", "none", {
            "{{kind}}": rate("fairgate_tokens_total", "kind", BOTH),
        }),
    ],
    "Who waits, and who is refused": [
        ("In line", "none", {
            "{{tenant}}": f"sum by (tenant) (fairgate_tenant_waiting_requests{{{BOTH}}})",
        }),
        ("Time in line, p99", "s", {
            "{{tenant}}": quantile(0.99, "fairgate_queue_seconds", "tenant", TENANT),
        }),
        ("Time to first byte, p99", "s", {
            "{{tenant}}": quantile(0.99, "fairgate_time_to_first_byte_seconds", "tenant", TENANT),
        }),
        ("Requests by how they ended", "reqps", {
            "{{outcome}}": rate("fairgate_requests_total", "outcome", BOTH),
        }),
        ("Throttles by cause", "reqps", {
            "{{tenant}} {{limit}}": rate("fairgate_throttled_total", "tenant, limit", TENANT),
        }),
        ("Wasted tokens per second", "none", {
            "{{tenant}}": rate("fairgate_wasted_tokens_total", "tenant", TENANT),
        }),
    ],
    "Lanes and engines": [
        ("Saturation", "percentunit", {
            "{{lane}}": of_pool("fairgate_lane_saturation_ratio", "lane"),
        }),
        ("Running, of the limit", "none", {
            "{{lane}} running": of_pool("fairgate_lane_running_requests", "lane"),
            "{{lane}} limit": of_pool("fairgate_lane_limit_sequences", "lane"),
        }),
        ("In line", "none", {"{{lane}}": of_pool("fairgate_lane_waiting_requests", "lane")}),
        ("Engines: running, as they tell", "none", {
            "{{engine}}": of_pool("fairgate_engine_running_requests", "engine"),
        }),
        ("Engines: KV cache in use", "percentunit", {
            "{{engine}}": of_pool("fairgate_engine_kv_cache_usage_ratio", "engine"),
        }),
        ("Engines: pressure, 1 is saturated", "none", {
            "{{engine}}": of_pool("fairgate_engine_pressure_ratio", "engine"),
        }),
        ("Engines: capacity, sequences", "none", {
            "{{engine}}": of_pool("fairgate_engine_capacity_sequences", "engine"),
        }),
        ("Engines up", "none", {"{{lane}}": of_pool("fairgate_lane_engines_up", "lane")}),
        ("Typical request by app, service units", "none", {
            "{{app}}": of_pool("fairgate_app_expected_service_units", "app"),
        }),
    ],
    "Router and several answers": [
        ("Lanes chosen", "reqps", {
            "{{lane}} ({{reason}})": rate("fairgate_router_decisions_total", "lane, reason", POOL),
        }),
        ("Quality: observed score", "percentunit", {
            "{{lane}}": rate("fairgate_router_score_total", "lane", POOL)
            + f" / {rate('fairgate_router_feedback_total', 'lane', POOL)}",
        }),
        ("Quality: observed less predicted", "percentunit", {
            "{{lane}}": f"avg by (lane) (fairgate_router_drift_gap{{{POOL}}})",
        }),
        ("Time of a decision, p99", "s", {
            "{{router}}": quantile(0.99, "fairgate_router_decision_seconds", "router", POOL),
        }),
        ("Best of n: answers written", "none", {
            "{{lane}}": rate("fairgate_best_of_samples_total", "lane", POOL),
        }),
        ("Cascade: first answers", "reqps", {
            "{{outcome}}": rate("fairgate_cascade_answers_total", "outcome", POOL),
        }),
    ],
    "Ledger, store, process": [
        ("Grant of free capacity", "s", {
            "p50": quantile(0.5, "fairgate_grant_seconds"),
            "p99": quantile(0.99, "fairgate_grant_seconds"),
        }),
        ("Store: round trip", "s", {
            "p50": quantile(0.5, "fairgate_store_round_trip_seconds"),
            "p99": quantile(0.99, "fairgate_store_round_trip_seconds"),
        }),
        ("Store: calls per second", "none", {
            "{{instance}}": rate("fairgate_store_calls_total", "instance"),
        }),
        ("Store: outages and connections", "none", {
            "{{instance}} outages": f"sum by (instance) (fairgate_store_outages_total{{{POOL}}})",
            "{{instance}} connections": "sum by (instance) (fairgate_store_connections_total)",
        }),
        ("Held, and settlements owed", "none", {
            "{{instance}} held": f"sum by (instance) (fairgate_held_requests{{{POOL}}})",
            "{{instance}} owed": f"sum by (instance) (fairgate_settlements_owed{{{POOL}}})",
        }),
        ("Gateway: CPU and memory", "none", {
            "{{instance}} CPU, cores":
                'sum by (instance) (rate(process_cpu_seconds_total{job="fairgate"}'
                "[$__rate_interval]))",
            "{{instance}} memory, GB":
                'sum by (instance) (process_resident_memory_bytes{job="fairgate"}) / 1e9',
        }),
    ],
}  # fmt: skip


def targets(queries: Queries) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for n, (legend, expr) in enumerate(queries.items())
    ]


def panel(
    kind: str, title: str, unit: str, queries: Queries, grid: dict[str, int]
) -> dict[str, Any]:
    shown = {
        "title": title, "type": kind, "datasource": SOURCE, "gridPos": grid,
        "targets": targets(queries),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }  # fmt: skip
    if kind == "timeseries":
        shown["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if title == "Quality: observed less predicted":
        del shown["fieldConfig"]["defaults"]["min"]
    return shown


def panels() -> list[dict[str, Any]]:
    found = [
        panel("stat", title, unit, {"": expr}, {"x": 4 * n, "y": 0, "w": 4, "h": 4})
        for n, (title, unit, expr) in enumerate(STATS)
    ]
    y = 4
    for row, members in ROWS.items():
        grid = {"x": 0, "y": y, "w": 24, "h": 1}
        found.append(
            {"type": "row", "title": row, "collapsed": False, "gridPos": grid, "panels": []}
        )
        y += 1
        for n, (title, unit, queries) in enumerate(members):
            grid = {"x": n % 3 * 8, "y": y + n // 3 * 8, "w": 8, "h": 8}
            found.append(panel("timeseries", title, unit, queries, grid))
        y += (len(members) + 2) // 3 * 8
    return [{"id": number, **it} for number, it in enumerate(found, start=1)]


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": name, "type": "query", "datasource": SOURCE, "refresh": 2,
        "query": {"query": query, "refId": name},
        "includeAll": True, "allValue": ".*", "multi": True, "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    source = {
        "name": "datasource",
        "label": "data source",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "uid": "fairgate", "title": "fairgate", "tags": ["fairgate", "llm"],
        "schemaVersion": 39, "version": 1, "editable": True, "timezone": "browser",
        "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                source,
                variable("pool", "label_values(fairgate_gateways, pool)"),
                variable("tenant", "label_values(fairgate_requests_total, tenant)"),
            ]
        },
        "annotations": {"list": []}, "links": [], "panels": panels(),
    }  # fmt: skip


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")
    print(f"wrote {FILE}")
