"""Print a run's figures: a table per tenant, the overall lines under it, and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from loadgen.metrics import Percentiles, Summary, group_by_tenant, tpot_ms
from loadgen.records import Outcome

try:
    from rich.console import Console
    from rich.table import Table
except ImportError:  # the extra [loadgen] is not installed: plain text does
    RICH = False
else:
    RICH = True

Rows = list[list[str]]
_HEADER = [
    "tenant",
    "requests",
    "completed",
    "throttled",
    "errors",
    "prompt tok",
    "output tok",
    "service",
    "TTFT s",
    "e2e s",
    "queue s",
    "TPOT ms",
]
_CAPTION = "latencies: p50 / p90 / p99 of completed requests, from the intended start"


def table_rows(summary: Summary, outcomes: Sequence[Outcome]) -> Rows:
    """Header and one row per tenant."""
    by_tenant = group_by_tenant(outcomes, summary.tenants)
    rows = [list(_HEADER)]
    for name, tenant in summary.tenants.items():
        counts = (tenant.requests, tenant.completed, tenant.throttled, tenant.errors)
        tokens = (tenant.prompt_tokens, tenant.completion_tokens, round(tenant.service))
        row = [name, *(str(count) for count in counts), *(f"{count:,}" for count in tokens)]
        row += [_seconds(part) for part in (tenant.ttft_ms, tenant.e2e_ms, tenant.queue_ms)]
        row.append(_joined(tpot_ms(by_tenant[name]), str_ms))
        rows.append(row)
    return rows


def overall_lines(summary: Summary, outcomes: Sequence[Outcome]) -> list[str]:
    """The figures of the whole run, a line each."""
    lag = summary.schedule_lag_ms
    wanted = sum(o.wanted_prompt_tokens for o in outcomes if o.result == "completed")
    counted = sum(o.prompt_tokens for o in outcomes if o.result == "completed")
    lines = [
        f"Jain's index of satisfied shares   {summary.jain:.4f}",
        f"max service difference             {summary.max_service_difference:,.0f}",
        f"throughput                         {summary.throughput_tokens_per_s:,.0f} tokens/s",
        f"wasted tokens                      {summary.wasted_tokens:,}",
        f"duration                           {summary.duration_s:.1f} s",
        f"schedule lag p50 / p99             {str_ms(lag.p50)} / {str_ms(lag.p99)} ms",
        f"prompt tokens wanted / counted     {wanted:,} / {counted:,}",
    ]
    if retries := sum(outcome.retries for outcome in outcomes):
        lines.append(f"retries                            {retries:,}")
    return lines + [
        f"{result:<34} {count} × {tenant}: {reason}"  # noqa: RUF001  a multiplication sign
        for (result, tenant, reason), count in sorted(lost_by_cause(outcomes).items())
    ]


def lost_by_cause(outcomes: Iterable[Outcome]) -> Counter[tuple[str, str, str]]:
    """Lost calls by result, tenant and reason."""
    return Counter(
        (outcome.result, outcome.tenant, outcome.reason)
        for outcome in outcomes
        if outcome.result != "completed"
    )


def print_report(
    summary: Summary, outcomes: Sequence[Outcome], out: TextIO, *, markdown: bool = False
) -> None:
    """Write table and overall lines to ``out``: boxed on a terminal, else aligned text."""
    rows = table_rows(summary, outcomes)
    if markdown:
        out.write(markdown_table(rows))
    elif not (RICH and out.isatty() and _printed_rich(rows, out)):
        out.write(plain_table(rows))
    out.write(f"{_CAPTION}\n\n")
    out.writelines(f"{line}\n" for line in overall_lines(summary, outcomes))


def plain_table(rows: Rows) -> str:
    """Aligned columns: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_aligned(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "".join(f"{line}\n" for line in lines)


def markdown_table(rows: Rows) -> str:
    """The same as a Markdown table."""
    header, *body = rows
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *body)) + "\n"


def write_json(summary: Summary, path: Path) -> None:
    """The summary as one JSON object."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")


def write_record(outcomes: Iterable[Outcome], path: Path) -> None:
    """One JSON line per call, in the order in which they ended."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.writelines(encoder.encode(outcome) + b"\n" for outcome in outcomes)


def read_record(path: Path) -> list[Outcome]:
    """What :func:`write_record` wrote. Raises ``msgspec.DecodeError`` for anything else."""
    decoder = msgspec.json.Decoder(Outcome)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


def _printed_rich(rows: Rows, out: TextIO) -> bool:
    """Whether the terminal is wide enough; rich would cut figures off to fit."""
    console = Console(file=out)
    header, *body = rows
    table = Table(*header)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in body:
        table.add_row(*row)
    unlimited = console.options.update(max_width=10_000)
    if console.measure(table, options=unlimited).maximum > console.width:
        return False
    console.print(table)
    return True


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *figures = row
    cells = [name.ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
    return "  ".join(cells)


def _seconds(part: Percentiles) -> str:
    return _joined(part, lambda ms: "-" if ms is None else f"{ms / 1000:.2f}")


def _joined(part: Percentiles, form: Callable[[float | None], str]) -> str:
    return " / ".join(form(value) for value in (part.p50, part.p90, part.p99))


def str_ms(ms: float | None) -> str:
    """Milliseconds with one decimal; ``-`` where there is nothing."""
    return "-" if ms is None else f"{ms:.1f}"
