"""``/metrics`` with vLLM's names, labels and buckets, collected when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fairgate.engines.simulated.scheduler import BLOCK_TOKENS, Scheduler, StepResult

if TYPE_CHECKING:
    from fairgate.engines.simulated.loop import Ticket

# fmt: off
_LATENCY: Final = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
                   960, 1920, 7680)
_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5,
                       7.5, 10, 20, 40, 80, 160, 640, 2560)
_INTER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
                       7.5, 10, 20, 40, 80)
_TOKENS: Final = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))
_STEP_TOKENS: Final = (1, *(2**e for e in range(3, 15)))

_HISTOGRAMS: Final = {
    "time_to_first_token_seconds": ("Histogram of time to first token.", _FIRST_TOKEN),
    "inter_token_latency_seconds": ("Histogram of inter-token latency.", _INTER_TOKEN),
    "request_time_per_output_token_seconds": ("Mean time per output token.", _INTER_TOKEN),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency.", _LATENCY),
    "request_queue_time_seconds": ("Time spent in WAITING phase.", _LATENCY),
    "request_inference_time_seconds": ("Time spent in RUNNING phase.", _LATENCY),
    "request_prefill_time_seconds": ("Time spent in PREFILL phase.", _LATENCY),
    "request_decode_time_seconds": ("Time spent in DECODE phase.", _LATENCY),
    "request_prompt_tokens": ("Number of prefill tokens processed.", _TOKENS),
    "request_generation_tokens": ("Number of generation tokens processed.", _TOKENS),
    "iteration_tokens_total": ("Histogram of number of tokens per engine_step.", _STEP_TOKENS),
}
# fmt: on


class Histogram:
    """Counts per bucket; one observation may stand for many equal ones."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        names = [*(str(float(b)) for b in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class Metrics(Collector):
    """Counts what the engine does; reads the scheduler's state at scrape time."""

    def __init__(self, scheduler: Scheduler, model: str) -> None:
        self._scheduler = scheduler
        self._labels = {"model_name": model, "engine": "0"}
        self._histograms = {name: Histogram(b) for name, (_, b) in _HISTOGRAMS.items()}
        self._ended = dict.fromkeys(("stop", "length", "abort", "error"), 0)
        self._prompt_tokens = self._generation_tokens = self._preemptions = 0

    def first_token(self, ticket: Ticket, now: float) -> None:
        """A prompt is computed and gave its first token."""
        self._prompt_tokens += ticket.output.sequence.prompt_tokens
        self._histograms["time_to_first_token_seconds"].observe(now - ticket.arrived)

    def stepped(self, result: StepResult, gaps: Mapping[float, int]) -> None:
        """A step ended; ``gaps`` counts the seconds since each sequence's last token."""
        self._generation_tokens += len(result.emitting)
        self._preemptions += len(result.preempted)
        tokens = result.prefill_tokens + len(result.emitting)
        self._histograms["iteration_tokens_total"].observe(tokens)
        for gap, times in gaps.items():
            self._histograms["inter_token_latency_seconds"].observe(gap, times)

    def finished(self, ticket: Ticket, now: float) -> None:
        """A sequence is complete."""
        sequence = ticket.output.sequence
        first = ticket.first_token or now
        decode = now - first
        self._ended[ticket.output.finish_reason] += 1
        if not ticket.first_token:  # pooling: there was no first token to count the prompt at
            self._prompt_tokens += sequence.prompt_tokens
        for name, value in (
            ("e2e_request_latency_seconds", now - ticket.arrived),
            ("request_queue_time_seconds", ticket.admitted - ticket.arrived),
            ("request_inference_time_seconds", now - ticket.admitted),
            ("request_prefill_time_seconds", first - ticket.admitted),
            ("request_decode_time_seconds", decode),
            ("request_time_per_output_token_seconds", decode / max(1, sequence.emitted - 1)),
            ("request_prompt_tokens", sequence.prompt_tokens),
            ("request_generation_tokens", sequence.emitted),
        ):
            self._histograms[name].observe(value)

    def aborted(self) -> None:
        """A sequence was aborted."""
        self._ended["abort"] += 1

    def collect(self) -> Iterator[Metric]:
        """Every metric, for a ``prometheus_client`` registry."""
        yield from self._gauges()
        yield from self._counters()
        for name, histogram in self._histograms.items():
            family = HistogramMetricFamily(f"vllm:{name}", _HISTOGRAMS[name][0], labels=self._names)
            family.add_metric(self._values, histogram.buckets(), histogram.sum)
            yield family

    @property
    def _names(self) -> list[str]:
        return list(self._labels)

    @property
    def _values(self) -> list[str]:
        return list(self._labels.values())

    def _gauges(self) -> Iterator[Metric]:
        scheduler = self._scheduler
        for name, help_, value in (
            ("num_requests_running", "Requests in model execution batches.", scheduler.num_running),
            ("num_requests_waiting", "Requests waiting to be processed.", scheduler.num_waiting),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", scheduler.kv_usage),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", help_, labels=self._names)
            gauge.add_metric(self._values, value)
            yield gauge
        config = {
            "block_size": str(BLOCK_TOKENS),
            "num_gpu_blocks": str(scheduler.num_blocks),
            "kv_cache_size_tokens": str(scheduler.num_blocks * BLOCK_TOKENS),
            "enable_prefix_caching": "False",
            "engine": "0",
        }
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the CacheConfig", labels=list(config)
        )
        info.add_metric(list(config.values()), 1)
        yield info

    def _counters(self) -> Iterator[Metric]:
        for name, help_, value in (
            ("prompt_tokens", "Number of prefill tokens processed.", self._prompt_tokens),
            ("generation_tokens", "Generation tokens processed.", self._generation_tokens),
            ("num_preemptions", "Cumulative number of preemptions.", self._preemptions),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", help_, labels=self._names)
            counter.add_metric(self._values, value)
            yield counter
        ended = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=[*self._names, "finished_reason"],
        )
        for reason, count in self._ended.items():
            ended.add_metric([*self._values, reason], count)
        yield ended
