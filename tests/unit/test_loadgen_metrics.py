"""Figures of a run, on cases small enough to work out by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.fairness import fair_shares, jain_index, max_service_difference, satisfied_shares
from loadgen.metrics import percentile, summarise, tpot_ms, wasted_tokens
from loadgen.records import Outcome
from loadgen.report import print_report, read_record, write_json, write_record
from loadgen.service import Accumulated, Price, backlog, overlap, waiting

PRICE = Price()


def call(tenant: str = "a", at_s: float = 0.0, **fields: Any) -> Outcome:
    """A completed call: 10 prompt tokens at 1 s, 20 output tokens until 3 s, unless said else."""
    known = {
        "user": None,
        "app": None,
        "interaction": None,
        "number": 0,
        "calls": 1,
        "result": "completed",
        "status": 200,
        "wanted_prompt_tokens": 10,
        "wanted_output_tokens": 20,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "intended_s": at_s,
        "sent_s": at_s,
        "first_token_s": at_s + 1,
        "end_s": at_s + 3,
    }
    return Outcome(tenant=tenant, **(known | fields))


def lost(tenant: str = "a", at_s: float = 0.0, result: str = "throttled", **fields: Any) -> Outcome:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "first_token_s": None, "end_s": at_s}
    return call(
        tenant, at_s, **(nothing | {"result": result, "reason": "rpm", "status": 429} | fields)
    )


class TestService:
    def test_prompt_at_the_first_token_output_evenly_until_the_end(self) -> None:
        service = Accumulated([call()], PRICE)
        assert [service.until(t) for t in (0, 1, 2, 3, 9)] == [0, 0, 30, 50, 50]
        assert [service.through(t) for t in (0, 1, 2, 3)] == [0, 10, 30, 50]

    def test_overlapping_calls_add_up(self) -> None:
        service = Accumulated([call(), call(at_s=1)], PRICE)
        assert service.until(2) == 30
        assert service.through(2) == 40
        assert service.until(100) == 100

    def test_without_a_visible_first_token_all_comes_at_the_end(self) -> None:
        service = Accumulated([call(first_token_s=None)], PRICE)
        assert (service.until(3), service.through(3)) == (0, 50)

    def test_an_answer_in_one_chunk_comes_at_once(self) -> None:
        assert Accumulated([call(first_token_s=3.0)], PRICE).through(3) == 50

    def test_waiting_ends_at_the_grant_else_the_first_token_else_the_end(self) -> None:
        assert waiting(call(granted_s=0.5)) == (0, 0.5)
        assert waiting(call()) == (0, 1)
        assert waiting(lost(end_s=7.0)) == (0, 7)

    def test_backlog_merges_and_overlap_cuts(self) -> None:
        a = backlog([call(at_s=0), call(at_s=0.5), call(at_s=5)])
        assert a == [(0, 1.5), (5, 6)]
        assert overlap(a, [(1, 5.5), (5.75, 9)]) == [(1, 1.5), (5, 5.5), (5.75, 6)]


class TestFairness:
    def test_jain_index(self) -> None:
        assert jain_index([1, 1, 1]) == 1
        assert jain_index([1, 0, 0, 0]) == 0.25
        assert jain_index([1, 3]) == pytest.approx(16 / 20)
        assert jain_index([]) == jain_index([0.0]) == 1

    def test_fair_shares_fill_small_demands_first(self) -> None:
        demands = {"a": 10.0, "b": 100.0, "c": 100.0}
        assert fair_shares(demands, dict.fromkeys("abc", 1.0), 90) == {"a": 10, "b": 40, "c": 40}
        weighted = fair_shares(demands, {"a": 1.0, "b": 1.0, "c": 3.0}, 90)
        assert weighted == pytest.approx({"a": 10, "b": 20, "c": 60})
        assert fair_shares(demands, dict.fromkeys("abc", 1.0), 500) == demands
        extreme = fair_shares({"a": 1e9, "b": 1.0}, {"a": 1e12, "b": 1e-12}, 10)
        assert sum(extreme.values()) == pytest.approx(10)

    def test_all_served_at_once_is_fully_satisfied(self) -> None:
        calls = {"a": [call(granted_s=0.0)], "b": [call("b", i, granted_s=i) for i in range(9)]}
        shares = satisfied_shares(calls, {"a": 1.0, "b": 1.0}, PRICE)
        assert shares == pytest.approx({"a": 1, "b": 1})

    def test_a_refused_tenant_is_satisfied_by_what_it_got_of_its_due(self) -> None:
        """100 units served; of them 50 were each tenant's due, and one got all."""
        calls = {"a": [call(), call(at_s=0.1)], "b": [lost("b"), lost("b")]}
        shares = satisfied_shares(calls, {"a": 1.0, "b": 1.0}, PRICE)
        assert shares == pytest.approx({"a": 1, "b": 0})
        assert summarise([*calls["a"], *calls["b"]], {"a": 1, "b": 1}).jain == pytest.approx(0.5)

    def test_a_weight_entitles_to_more(self) -> None:
        calls = {"a": [call() for _ in range(3)], "b": [call("b"), lost("b"), lost("b")]}
        by_weight = satisfied_shares(calls, {"a": 3.0, "b": 1.0}, PRICE)
        assert by_weight == pytest.approx({"a": 1, "b": 1})
        equal = satisfied_shares(calls, {"a": 1.0, "b": 1.0}, PRICE)
        assert equal == pytest.approx({"a": 1, "b": 0.5})

    def test_late_answers_count_against_satisfaction(self) -> None:
        """Everything is served in the end, but b waits 50 s behind a's flood."""
        calls = {
            "a": [call("a", 0, first_token_s=t, end_s=t + 1.0) for t in range(50)],
            "b": [call("b", 0, first_token_s=50.0, end_s=51.0)],
        }
        shares = satisfied_shares(calls, {"a": 1.0, "b": 1.0}, PRICE)
        assert shares["a"] == 1
        assert shares["b"] < 0.25

    def test_a_slow_engine_is_no_unfairness(self) -> None:
        """A long answer in flight is being served: only what waits is demand."""
        calls = {
            "a": [call(granted_s=0.0, completion_tokens=5000, end_s=100.0)],
            "b": [call("b", t, granted_s=float(t), prompt_tokens=5000) for t in range(90)],
        }
        shares = satisfied_shares(calls, {"a": 1.0, "b": 1.0}, PRICE)
        assert shares == pytest.approx({"a": 1, "b": 1}, abs=0.02)

    def test_service_difference_counts_only_while_both_wait(self) -> None:
        """Both wait from 0 to 10 s; a gets 100 units then, b nothing; later work is free."""
        a = [call(), call(), call(first_token_s=10.0, end_s=12.0)]
        b = [call("b", first_token_s=30.0, end_s=40.0, prompt_tokens=900)]
        by_tenant = {"a": a, "b": b}
        assert max_service_difference(by_tenant, {"a": 1.0, "b": 1.0}, PRICE) == 100
        assert max_service_difference(by_tenant, {"a": 2.0, "b": 1.0}, PRICE) == 50

    def test_service_difference_is_the_widest_swing(self) -> None:
        """First a is ahead by 50, then b catches up and leads by 50: the swing is 100."""
        waiting_calls = [call(t, first_token_s=20.0, end_s=21.0) for t in ("a", "b")]
        outcomes = {
            "a": [call("a"), waiting_calls[0]],
            "b": [call("b", 5), call("b", 5), waiting_calls[1]],
        }
        assert max_service_difference(outcomes, {"a": 1.0, "b": 1.0}, PRICE) == 100

    def test_no_competition_no_difference(self) -> None:
        by_tenant = {"a": [call("a")], "b": [call("b", 50)]}
        assert max_service_difference(by_tenant, {"a": 1.0, "b": 1.0}, PRICE) == 0
        assert max_service_difference({"a": [call("a")]}, {"a": 1.0}, PRICE) == 0


class TestSummary:
    def test_percentiles_interpolate_as_numpy(self) -> None:
        assert percentile([3, 1, 2, 4], 50) == 2.5
        assert percentile([0, 10], 90) == pytest.approx(9)
        assert percentile([7], 99) == 7
        assert percentile([], 50) is None

    def test_one_tenant(self) -> None:
        outcomes = [
            call(sent_s=0.25, queue_s=0.5, granted_s=0.75),
            call(at_s=1, first_token_s=4.0, end_s=9.0),
            lost(at_s=2),
            lost(at_s=2, result="error", prompt_tokens=10, completion_tokens=4, end_s=10.0),
        ]
        summary = summarise(outcomes, {"a": 1.0, "silent": 1.0})
        tenant = summary.tenants["a"]
        assert (tenant.requests, tenant.completed, tenant.throttled, tenant.errors) == (4, 2, 1, 1)
        assert (tenant.prompt_tokens, tenant.completion_tokens, tenant.service) == (30, 44, 118)
        assert (tenant.ttft_ms.p50, tenant.e2e_ms.p50, tenant.queue_ms.p99) == (2000, 5500, 500)
        assert summary.duration_s == 10
        assert summary.throughput_tokens_per_s == pytest.approx(7.4)
        assert summary.schedule_lag_ms.p99 == pytest.approx(250 * 0.97)
        silent = summary.tenants["silent"]
        assert (silent.requests, silent.ttft_ms.p50, silent.queue_ms.p90) == (0, None, None)

    def test_time_per_output_token(self) -> None:
        assert tpot_ms([call(completion_tokens=21), lost()]).p50 == pytest.approx(100)

    def test_wasted_are_completed_calls_of_broken_interactions(self) -> None:
        outcomes = [
            call(interaction="whole"),
            call(interaction="broken"),
            lost(interaction="broken", prompt_tokens=5),
            lost(interaction="never begun"),
            call(),
            lost(),
        ]
        assert wasted_tokens(outcomes) == 30

    def test_nothing_sent(self) -> None:
        summary = summarise([], {"a": 1.0})
        assert (summary.jain, summary.duration_s, summary.throughput_tokens_per_s) == (1, 0, 0)


class TestReport:
    outcomes = (call(queue_s=0.5), lost("b", at_s=1, retries=2))

    def test_json_has_the_promised_fields_and_no_others(self, tmp_path: Path) -> None:
        write_json(summarise(self.outcomes, {"a": 1.0, "b": 1.0}), tmp_path / "r.json")
        got = json.loads((tmp_path / "r.json").read_text())
        assert set(got) == {
            "tenants",
            "jain",
            "max_service_difference",
            "throughput_tokens_per_s",
            "wasted_tokens",
            "schedule_lag_ms",
            "duration_s",
        }
        assert set(got["tenants"]["b"]) == {
            "requests",
            "completed",
            "throttled",
            "errors",
            "prompt_tokens",
            "completion_tokens",
            "service",
            "ttft_ms",
            "e2e_ms",
            "queue_ms",
        }
        assert got["tenants"]["a"]["ttft_ms"] == {"p50": 1000.0, "p90": 1000.0, "p99": 1000.0}
        assert got["tenants"]["b"]["ttft_ms"] == {"p50": None, "p90": None, "p99": None}
        assert set(got["schedule_lag_ms"]) == {"p50", "p99"}

    def test_record_comes_back_as_it_was(self, tmp_path: Path) -> None:
        write_record(self.outcomes, tmp_path / "r.jsonl")
        assert read_record(tmp_path / "r.jsonl") == list(self.outcomes)

    def test_plain_text_is_aligned_and_names_causes(self) -> None:
        out = io.StringIO()
        print_report(summarise(self.outcomes, {"a": 1.0, "b": 1.0}), self.outcomes, out)
        lines = out.getvalue().splitlines()
        assert len({len(line) for line in lines[:4]}) == 1
        assert lines[2].split()[:8] == ["a", "1", "1", "0", "0", "10", "20", "50"]
        assert "1 × b: rpm" in out.getvalue()  # noqa: RUF001
        assert "retries                            2" in lines

    def test_markdown(self) -> None:
        out = io.StringIO()
        summary = summarise(self.outcomes, {"a": 1.0, "b": 1.0})
        print_report(summary, self.outcomes, out, markdown=True)
        rows = [line for line in out.getvalue().splitlines() if line.startswith("|")]
        assert [row.count("|") for row in rows] == [13] * 4
