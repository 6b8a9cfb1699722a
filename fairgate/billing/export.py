"""Usage records in other formats: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, Literal

import msgspec

from fairgate.billing.records import FIELDS, UsageRecord, encode

Format = Literal["csv", "jsonl", "parquet"]

_GROUP = 50_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(records: Iterable[UsageRecord], form: Format, out: BinaryIO) -> int:
    """Write ``records`` to ``out``; how many they were.

    Raises ``ImportError`` for Parquet without pyarrow.
    """
    count = 0

    def counted() -> Iterator[UsageRecord]:
        nonlocal count
        for record in records:
            count += 1
            yield record

    {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[form](counted(), out)
    return count


def _jsonl(records: Iterator[UsageRecord], out: BinaryIO) -> None:
    out.writelines(encode(record) + b"\n" for record in records)


def _csv(records: Iterator[UsageRecord], out: BinaryIO) -> None:
    text = io.TextIOWrapper(out, "utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(FIELDS)
    writer.writerows(map(_cell, msgspec.structs.astuple(record)) for record in records)
    text.detach()  # which flushes it, and leaves `out` open


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is marked as text: clients choose some."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _parquet(records: Iterator[UsageRecord], out: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"tokens": pa.int64(), "cost": pa.float64(), "queue_ms": pa.float64()}
    kinds |= {f"{part}_tokens": pa.int64() for part in ("prompt", "cached", "output")}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])
    with pq.ParquetWriter(out, schema) as writer:
        while group := list(islice(records, _GROUP)):
            rows = [msgspec.to_builtins(record) for record in group]
            writer.write_table(pa.Table.from_pylist(rows, schema))
