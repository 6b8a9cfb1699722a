"""``loadgen compare``: the figures of several replays or simulations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loadgen.commands.common import check_writable, errors_told
from loadgen.report import markdown_table, plain_table
from loadgen.simulation.comparison import comparison_page, comparison_rows, read_figures


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="A.json B.json...", help="As written by replay or simulate --json."),
    ],
    html: Annotated[Path | None, typer.Option(help="Write the comparison as a page.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
) -> None:
    """Put the figures of runs beside each other, real ones and simulated ones.

    Ends with 0, or 2 for a file that is neither.
    """
    with errors_told():
        check_writable(html)
        compared = [one for file in files for one in read_figures(file)]
    rows = comparison_rows(compared)
    if html is not None:
        title = "fairgate: " + ", ".join(file.name for file in files)
        html.write_text(comparison_page(title, compared))
    typer.echo(markdown_table(rows) if markdown else plain_table(rows))
