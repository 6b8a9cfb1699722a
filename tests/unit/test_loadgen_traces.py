"""Readers of loadgen: each public format, what marks it, and what errors say."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from loadgen.errors import TraceError
from loadgen.records import TraceRequest
from loadgen.traces import read_trace, read_traces

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.5000000,374,44
2023-11-16 18:15:50.7500000,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.250000+00:00,2162,5
2024-05-10 00:00:01.250000+00:00,2399,6
"""
BURSTGPT = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,s1,1.2,ChatGPT,472,18,490,Conversation log
45.5,,2.0,GPT-4,1087,230,1317,API log
50,s1,0.1,ChatGPT,33,0,33,Conversation log
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 12, "output_length": 3, "hash_ids": [2]}
"""


def write(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_azure(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, AZURE)) == [
        TraceRequest(0.0, 374, 44),
        TraceRequest(4.25, 396, 109),
    ]


def test_azure_of_2024_with_time_zone(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, AZURE_2024)) == [
        TraceRequest(0.0, 2162, 5),
        TraceRequest(1.0, 2399, 6),
    ]


def test_burstgpt_keeps_sessions_and_leaves_failed_requests_out(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, BURSTGPT)) == [
        TraceRequest(0.0, 472, 18, session="s1"),
        TraceRequest(40.5, 1087, 230),
    ]


def test_mooncake_is_sorted_by_arrival(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, MOONCAKE)) == [
        TraceRequest(0.0, 12, 3),
        TraceRequest(3.0, 6758, 500),
    ]


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode()))
    assert [request.prompt_tokens for request in read_trace(path)] == [374, 396]


def test_several_traces_are_merged_as_apps(tmp_path: Path) -> None:
    azure, mooncake = write(tmp_path, AZURE, "a.csv"), write(tmp_path, MOONCAKE, "m.jsonl")
    merged = read_traces([f"chat={azure}", f"code={mooncake}"])
    assert [(request.at_s, request.app) for request in merged] == [
        (0.0, "chat"),
        (0.0, "code"),
        (3.0, "code"),
        (4.25, "chat"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AZURE.replace(",44", ",many"), "trace:2: GeneratedTokens: expected a number of tokens"),
        (AZURE.replace(",44", ""), "trace:2: GeneratedTokens: expected a number of tokens, got ''"),
        (AZURE.replace("2023-11-16 18:15:50", "noon"), "trace:3: TIMESTAMP: expected a date"),
        (BURSTGPT.replace("45.5", "x"), "trace:3: Timestamp: expected seconds, got 'x'"),
        (
            MOONCAKE.replace("12", '"12"'),
            "trace:2: Expected `int`, got `str` - at `$.input_length`",
        ),
        ("a,b\n1,2\n", "trace:1: not a known trace: .* got 'a,b'"),
        (AZURE.splitlines()[0], "no requests in it"),
        ("", "not a known trace"),
    ],
)
def test_errors_name_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message.replace("$", r"\$")):
        read_traces([str(write(tmp_path, text))])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    broken = tmp_path / "t.gz"
    broken.write_bytes(gzip.compress(AZURE.encode())[:40])
    for path in (tmp_path / "none.csv", broken):
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(path)


def test_synthetic_trace_keeps_rate_and_lengths() -> None:
    name = "synthetic:rate=50,duration=100,prompt=200,output=40,cv=2"
    trace = read_traces([name])
    assert trace == read_traces([name])
    assert len(trace) == pytest.approx(5000, rel=0.15)
    assert sum(request.prompt_tokens for request in trace) / len(trace) == pytest.approx(
        200, rel=0.1
    )
    assert sum(request.output_tokens for request in trace) / len(trace) == pytest.approx(
        40, rel=0.1
    )
    assert {request.app for request in read_traces([f"chat={name}"])} == {"chat"}


@pytest.mark.parametrize("name", ["synthetic:rate=0", "synthetic:speed=1", "synthetic:rate=nan"])
def test_synthetic_trace_says_what_is_wrong(name: str) -> None:
    with pytest.raises(TraceError, match=r"expected .* got|expected NAME=NUMBER|rate: expected"):
        read_traces([name])
