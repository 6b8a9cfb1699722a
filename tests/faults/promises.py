"""What README.md, docs/failures.md and docs/store.md promise, and which rows or tests show it.

SECURITY.md names the test of each of its promises itself. ``tests/unit/test_faults_parts.py``
checks that the words stand on their page, and that rows and tests are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_README, _FAILURES, _STORE = "README.md", "docs/failures.md", "docs/store.md"
_STORE_ROWS = (
    "store killed, keeps AOF", "store killed, empty", "store stopped 5 s", "store slow",
    "store resets mid-pipeline", "store full", "SCRIPT FLUSH", "store read-only",
    "store asks for a password", "Sentinel fails over", "cluster's master killed",
    "cluster moves the pool",
)  # fmt: skip
_UNREACHABLE = (
    "engine killed before the first byte", "engine resets before", "engine speaks no HTTP",
    "engine restarted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Promise:
    """One of them."""

    id: str
    page: str
    words: str
    """As they stand there, line ends and emphasis aside."""
    rows: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    """``file::test`` below ``tests/``."""


PROMISES = (
    Promise(
        "R1", _README, "While the engines have room nobody is throttled or queued",
        tests=("integration/test_ledger_properties.py::test_the_ledger_holds_its_invariants",
               "integration/test_scripts.py::test_rate_limits_do_not_bite_while_there_is_room"),
    ),
    Promise(
        "R2", _README, "A tenant with weight 2 gets twice the service of one with weight 1",
        tests=("integration/test_scripts.py::test_a_larger_weight_means_more_service",),
    ),
    Promise(
        "R3", _README, "a run that was admitted is not cut off in the middle",
        tests=("integration/test_scripts.py::"
               "test_a_running_interaction_is_never_throttled_and_a_refused_one_is_refused_whole",),
    ),
    Promise(
        "R4", _README, "replicas share limits to the token", rows=("rolling restart",),
        tests=("integration/test_gateway_replicas.py::test_a_rate_limit_counts_over_both",
               "integration/test_gateway_replicas.py::"
               "test_together_they_never_exceed_the_engines_capacity"),
    ),
    Promise(
        "R5", _README,
        "settles what it really used, also when a stream is aborted or a replica is killed",
        rows=("clients abort", "gateway killed", "gateway stopped 10 s"),
        tests=("integration/test_scripts.py::"
               "test_who_was_granted_while_its_gateway_stood_still_pays_once",
               "integration/test_gateway_disconnect.py::test_who_leaves_a_stream_pays_for_what_came",
               "integration/test_store_faults.py::"
               "test_a_store_that_keeps_its_state_counts_everything_once"),
    ),
    Promise(
        "R6", _README, "Daily tokens and concurrency are hard quotas and bite always",
        tests=("integration/test_scripts.py::"
               "test_daily_tokens_bite_always_and_come_back_with_the_day",
               "integration/test_scripts.py::test_a_daily_quota_outlives_an_idle_day",
               "integration/test_scripts.py::test_concurrency_counts_waiting_requests_and_is_freed"),
    ),
    Promise(
        "R7", _README, "a bad file is reported and the old one kept",
        tests=("integration/test_gateway_lifecycle.py::test_reloads_under_a_running_stream",),
    ),
    Promise(
        "R8", _README, "exactly once",
        tests=("integration/test_usage_records.py::"
               "test_settling_twice_is_one_line_and_what_was_never_granted_is_none",),
    ),
    Promise(
        "R9", _README, "a worker that dies is replaced",
        tests=("integration/test_gateway_workers.py::"
               "test_a_worker_that_dies_is_replaced_and_its_capacity_freed",),
    ),
    Promise(
        "R10", _README, "on 429 and 503: whole seconds, at most 120",
        rows=("engine answers 503", "gateway drained", "hostile bodies"),
        tests=("unit/test_faults_parts.py::test_what_became_of_a_request",),
    ),
    Promise(
        "R11", _README, "A replica that is killed gives its capacity back after five heartbeats",
        rows=("gateway killed",),
        tests=("integration/test_gateway_replicas.py::test_a_killed_gateways_capacity_comes_back",),
    ),
    Promise(
        "R12", _README,
        "While the store is away each replica enforces its share of limits and capacity by itself",
        rows=_STORE_ROWS,
    ),
    Promise(
        "R13", _README, "An aborted answer that was not a stream is charged by elapsed time",
        tests=("integration/test_gateway_disconnect.py::"
               "test_who_leaves_before_a_whole_answer_pays_for_the_time_it_ran",),
    ),
    Promise(
        "R14", _README, "share the capacity of one, with a warning",
        tests=("integration/test_gateway_lifecycle.py::"
               "test_replicas_that_start_the_same_engine_are_told_that_it_counts_once",),
    ),
    Promise(
        "E1", _FAILURES, "cannot be reached, dies or talks no HTTP before the first byte",
        rows=_UNREACHABLE,
        tests=("e2e/test_vllm_gateway.py::"
               "test_killed_under_load_it_leaves_nobody_without_an_answer",),
    ),
    Promise("E2", _FAILURES, "answers 502, 503 or 504", rows=("engine answers 503",)),
    Promise("E3", _FAILURES, "answers 500", rows=("engine answers 500",)),
    Promise(
        "E4", _FAILURES, "answers 4xx",
        tests=("integration/test_gateway_failover.py::test_an_engines_4xx_is_its_last_word",),
    ),
    Promise("E5", _FAILURES, "sends nothing for `first_byte_s`", rows=("engine hangs",)),
    Promise(
        "E6", _FAILURES, "dies within a stream",
        rows=("engine killed within streams", "engine resets within"),
    ),
    Promise(
        "E7", _FAILURES, "is silent for `idle_s` within a stream",
        rows=("engine falls silent", "engine stopped"),
    ),
    Promise(
        "E8", _FAILURES, "does not end a stream within `answer_s`", rows=("engine never ends",),
        tests=("integration/test_engine_faults.py::"
               "test_after_the_first_byte_the_client_is_told_in_the_stream",),
    ),
    Promise(
        "E9", _FAILURES, "sends more than `server.max_answer_bytes`", rows=("engine floods",),
        tests=("integration/test_engine_faults.py::"
               "test_after_the_first_byte_the_client_is_told_in_the_stream",),
    ),
    Promise("E10", _FAILURES, "ends a stream inside an event", rows=("engine cuts events",)),
    Promise(
        "E11", _FAILURES, "sends an event that is no JSON", rows=("engine sends malformed SSE",)
    ),
    Promise(
        "E12", _FAILURES, "one good answer brings it back, with the capacity that it tells then",
        rows=("engine shrinks and grows",),
        tests=("integration/test_engine_faults.py::test_an_engine_comes_back_with_another_capacity",),
    ),
    Promise(
        "E13", _FAILURES, "requests in a row that failed with anything but 500 it gets none",
        tests=("integration/test_engine_faults.py::"
               "test_an_engine_that_keeps_failing_is_left_alone_until_it_serves",),
    ),
    Promise(
        "E15", _FAILURES, "neither engines nor clients are blamed for that time",
        rows=("gateway stopped 10 s",),
        tests=("integration/test_gateway_stands_still.py::"
               "test_what_engines_sent_meanwhile_is_in_time",),
    ),
    Promise(
        "E16", _FAILURES, "that answer, unchanged: of whole answers only `usage` is read",
        tests=("integration/test_engine_faults.py::"
               "test_a_whole_answer_that_is_no_json_passes_as_it_is",),
    ),
    Promise(
        "E14", _FAILURES, "are started again when they end",
        tests=("unit/test_engines.py::test_a_crash_is_followed_by_a_restart",),
    ),
    Promise(
        "C1", _FAILURES, "the engine is told, the lease is free; it pays for what came",
        rows=("clients abort",),
        tests=("unit/test_http_connection.py::test_an_engine_is_hung_up_on_at_once",),
    ),
    Promise(
        "C2", _FAILURES, "closes only its own side of the connection",
        rows=("half-closed sockets",),
        tests=("integration/test_client_faults.py::test_who_leaves_at_any_stage_holds_nothing",),
    ),
    Promise(
        "C3", _FAILURES, "the engine's sending is slowed",
        rows=("slow readers", "engine sends slowly"),
        tests=("integration/test_client_faults.py::"
               "test_a_client_that_never_reads_costs_little_and_is_let_go",),
    ),
    Promise(
        "C4", _FAILURES, "takes longer than `head_s` for a head", rows=("slowloris",),
        tests=("integration/test_client_faults.py::test_a_head_that_drips_is_not_waited_for",),
    ),
    Promise(
        "C5", _FAILURES, "takes longer than `body_s` for a body", rows=("slowloris",),
        tests=("integration/test_client_faults.py::test_a_body_that_drips_is_not_waited_for",),
    ),
    Promise("C6", _FAILURES, "they are answered one after the other", rows=("pipelining",)),
    Promise(
        "C7", _README, "413 body too large", rows=("hostile bodies", "2,000 idle connections"),
        tests=("integration/test_hostile_http.py::test_100_mb_in_chunks_are_refused_early",),
    ),
    Promise(
        "D1", _FAILURES, "Streams end in peace and who waits in line is served",
        rows=("gateway drained", "rolling restart"),
        tests=("integration/test_gateway_drain.py::"
               "test_a_stream_ends_in_peace_and_who_waits_is_served",
               "integration/test_gateway_lifecycle.py::"
               "test_a_drain_that_comes_before_it_was_ready_ends_well"),
    ),
    Promise(
        "D2", _FAILURES, "those in line get 503 `draining`, streams the error event",
        tests=("integration/test_gateway_drain.py::test_what_takes_too_long_is_told_before_the_end",),
    ),
    Promise(
        "D3", _FAILURES, "A second signal does not wait",
        tests=("integration/test_gateway_lifecycle.py::test_a_second_signal_does_not_wait",),
    ),
    Promise(
        "S1", _STORE, "A store that answers again is used again within two seconds",
        rows=_STORE_ROWS,
    ),
    Promise(
        "S2", _STORE, "So nothing is granted twice, and a store that comes back empty",
        rows=("store killed, empty", "store stopped 5 s", "store killed, keeps AOF"),
        tests=("integration/test_store_faults.py::"
               "test_a_store_that_returns_empty_is_told_what_it_missed",),
    ),
    Promise(
        "S3", _STORE, "What it still runs when it comes back counts again from then on",
        rows=("gateway stopped 10 s",),
        tests=("integration/test_gateway_stands_still.py::"
               "test_a_grant_that_was_swept_before_it_was_read_is_none",),
    ),
    Promise(
        "S4", _STORE, "a replica's wall clock does not matter",
        tests=("integration/test_store_faults.py::"
               "test_a_store_that_keeps_its_state_counts_everything_once",),
    ),
    Promise(
        "S10", _STORE, "so a replica that died by then is noticed",
        tests=("integration/test_ledger_late.py::test_a_clock_that_is_set_back_hides_nobodys_death",),
    ),
    Promise(
        "S5", _STORE, "503 with `Retry-After`; those in line keep their place",
        tests=("integration/test_gateway_store.py::"
               "test_a_killed_store_refuses_at_once_and_all_goes_on_when_it_returns",),
    ),
    Promise(
        "S6", _STORE, "requests pass without line, limits or charge",
        tests=("integration/test_gateway_store.py::test_an_open_door_while_the_store_is_away",),
    ),
    Promise(
        "S7", _STORE, "in Redis or Valkey 7 or newer", rows=("store asks for a password",),
        tests=("integration/test_store_start.py::test_an_old_server_is_refused",
               "integration/test_store_start.py::test_user_and_password_are_checked",
               "integration/test_store_start.py::test_a_replica_takes_no_writes",
               "integration/test_store_start.py::test_a_node_of_a_cluster_is_not_the_whole_store"),
    ),
    Promise(
        "S8", _STORE, "Each pool has a connection of its own, which follows its slot",
        rows=("cluster's master killed", "cluster moves the pool"),
        tests=("integration/test_store_failover.py::"
               "test_pools_of_a_cluster_outlive_the_death_of_a_master",
               "integration/test_store_failover.py::test_a_pool_follows_its_slot_to_another_node"),
    ),
    Promise(
        "S9", _STORE, "nobody else is granted what it may grant by itself",
        rows=("store resets mid-pipeline", "gateway cut off from the store"),
        tests=("integration/test_store_faults.py::"
               "test_one_that_gets_no_replies_goes_on_within_the_share_that_is_set_aside",
               "integration/test_ledger_late.py::"
               "test_one_whose_calls_arrive_and_whose_replies_do_not_is_late",
               "integration/test_ledger_late.py::"
               "test_together_they_never_run_more_than_there_is"),
    ),
)  # fmt: skip


def shown_by(row: str) -> str:
    """Ids of the promises that a row shows."""
    return " ".join(promise.id for promise in PROMISES if row in promise.rows)


def legend() -> Iterator[str]:
    """Each promise with what shows it, a line each."""
    for promise in PROMISES:
        shown = [*promise.rows, *(test.partition("::")[2] for test in promise.tests)]
        yield f"{promise.id:4} {promise.page}: {promise.words} — {', '.join(shown)}"
