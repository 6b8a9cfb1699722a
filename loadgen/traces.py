"""Read public request traces into one form.

| format | told by | fields used |
| --- | --- | --- |
| Azure LLM inference 2023, 2024 (CSV) | header | TIMESTAMP, ContextTokens, GeneratedTokens |
| BurstGPT (CSV) | header | Timestamp, Request tokens, Response tokens; Session ID if there |
| Mooncake (JSON lines) | first character ``{`` | timestamp (ms), input_length, output_length |
| synthetic | the name ``synthetic:rate=5,…`` | see :mod:`loadgen.synthetic` |

Files that end in ``.gz`` are unpacked on the way.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TextIO

import msgspec

from loadgen.errors import TraceError
from loadgen.records import TraceRequest
from loadgen.synthetic import synthesise

Row = Mapping[str, str | None]


def read_traces(names: list[str]) -> list[TraceRequest]:
    """Read one or more traces, each ``[APP=]PATH``, and merge them by arrival.

    Every trace starts at 0 s of its own. ``APP`` becomes the app of its requests. Raises
    ``TraceError``, also when there is no request at all.
    """
    merged = [request for name in names for request in _read_named(name)]
    if not merged:
        raise TraceError(f"{', '.join(names)}: no requests in it")
    return sorted(merged, key=lambda request: request.at_s)


def read_trace(path: Path) -> list[TraceRequest]:
    """Read one file in order of arrival; the first request arrives at 0 s."""
    try:
        with _open(path) as file:
            requests = sorted(_parse(file, str(path)), key=lambda request: request.at_s)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    start_s = requests[0].at_s if requests else 0.0
    return [replace(request, at_s=request.at_s - start_s) for request in requests]


def _read_named(name: str) -> list[TraceRequest]:
    if name.startswith("synthetic:"):
        return synthesise(name)
    app, equals, rest = name.partition("=")
    if not equals or Path(name).exists():
        return read_trace(Path(name))
    requests = _read_named(rest)
    return [replace(request, app=app) for request in requests]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _parse(file: TextIO, name: str) -> Iterator[TraceRequest]:
    first = next(file, "")
    lines = chain([first], file)
    if first.lstrip().startswith("{"):
        return _mooncake(lines, name)
    reader = csv.DictReader(lines)
    columns = set(reader.fieldnames or ())
    for needed, parse in _CSV_FORMATS.items():
        if columns.issuperset(needed):
            return _csv_rows(reader, parse, name)
    known = " or ".join(", ".join(needed) for needed in _CSV_FORMATS)
    raise TraceError(
        f"{name}:1: not a known trace: expected JSON lines (Mooncake) or a CSV header with "
        f"{known}; got {first.strip()[:80]!r}"
    )


def _csv_rows(
    reader: csv.DictReader[str], parse: Callable[[Row, str], TraceRequest | None], name: str
) -> Iterator[TraceRequest]:
    for row in reader:
        request = parse(row, f"{name}:{reader.line_num}")
        if request is not None:
            yield request


def _azure(row: Row, where: str) -> TraceRequest:
    return TraceRequest(
        _moment(row, "TIMESTAMP", where),
        _count(row, "ContextTokens", where),
        _count(row, "GeneratedTokens", where),
    )


def _burstgpt(row: Row, where: str) -> TraceRequest | None:
    """No response tokens mark a failed request, which nobody served; it is left out."""
    output_tokens = _count(row, "Response tokens", where)
    if output_tokens == 0:
        return None
    return TraceRequest(
        _seconds(row, "Timestamp", where),
        _count(row, "Request tokens", where),
        output_tokens,
        session=row.get("Session ID") or None,
    )


_CSV_FORMATS: dict[tuple[str, ...], Callable[[Row, str], TraceRequest | None]] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure,
    ("Timestamp", "Request tokens", "Response tokens"): _burstgpt,
}


class _MooncakeLine(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int


def _mooncake(lines: Iterator[str], name: str) -> Iterator[TraceRequest]:
    decoder = msgspec.json.Decoder(_MooncakeLine)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            got = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise TraceError(f"{name}:{number}: {error}") from error
        yield TraceRequest(got.timestamp / 1000.0, got.input_length, got.output_length)


def _moment(row: Row, field: str, where: str) -> float:
    text = row[field]
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        raise TraceError(f"{where}: {field}: expected a date and time, got {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _seconds(row: Row, field: str, where: str) -> float:
    text = row[field]
    try:
        return float(text or "")
    except ValueError:
        raise TraceError(f"{where}: {field}: expected seconds, got {text!r}") from None


def _count(row: Row, field: str, where: str) -> int:
    text = row[field] or ""
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise TraceError(f"{where}: {field}: expected a number of tokens, got {text!r}")
    return count
