"""The page of metrics: every one that a gateway exports, by the code that exports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from fairgate.metrics.catalogue import SECTIONS, Counter, Described, Gauge, Histogram
from fairgate.metrics.shares import WINDOW_S
from fairgate.routing.metrics import RoutingMetrics

_HEAD = f"""# Metrics

*Made by `python -m fairgate.reference docs`: change the code, not this page.*

`GET /metrics` of a gateway, and `GET /fairgate/metrics` of a vLLM server with fairgate inside, tell
these in Prometheus' text format. Dashboard and alerts over them are in `deploy/grafana` and
`deploy/prometheus` ([operations](operations.md)).

- Units are base units: seconds, tokens, requests, ratios from 0 to 1. Service units are weighted
  tokens: `input + system + 2·output` unless the policy says otherwise.
- The label `tenant` is bounded: the first 100 tenants that a process sees have their own series,
  all others share `tenant="other"`; `-` is who sent no known key.
- A counter counts what this process served: sum over replicas, and over `worker` where one gateway
  has several. Metrics of lanes, engines and `fairgate_gateways` are of the whole pool: take the
  maximum over replicas, not the sum.
- Shares look back about {WINDOW_S:.0f} s, to the scrape before that, at what this process served.
  What waits counts as asked for. Over all replicas, use the recording rules in `deploy/prometheus`.

"""


def metrics_page() -> str:
    """As Markdown."""
    sections = [*SECTIONS.items(), ("Routing", tuple(_routing()))]
    return _HEAD + "\n".join(_section(title, metrics) for title, metrics in sections) + _TAIL


_TAIL = """
And `process_*` as every Prometheus client exports them: CPU, memory, open files, start time.
"""


def _section(title: str, metrics: Sequence[Described]) -> str:
    rows = "".join(_row(metric) for metric in metrics)
    return (
        f"## {title}\n\n| name | type | labels | what it tells |\n| --- | --- | --- | --- |\n{rows}"
    )


def _row(metric: Described) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    kind = type(metric).__name__.lower()
    return f"| `{metric.name}` | {kind} | {labels} | {metric.help} |\n"


_KINDS: dict[str, type[Described]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class _Noting(CollectorRegistry):
    """Knows what was registered with it."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[Collector] = []

    def register(self, collector: Collector) -> None:
        self.noted.append(collector)
        super().register(collector)


def _routing() -> Iterator[Described]:
    registry = _Noting()
    RoutingMetrics(registry)
    for collector in registry.noted:
        (family,) = collector.collect()
        labels = tuple(vars(collector)["_labelnames"])
        kind = _KINDS[family.type]
        suffix = "_total" if family.type == "counter" else ""
        yield kind(family.name + suffix, family.documentation, labels)
