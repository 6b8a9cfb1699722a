"""What the sub-commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from loadgen.errors import LoadgenError, SpecError, TargetError

EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_SIGNAL = 128


@contextmanager
def errors_told() -> Iterator[None]:
    """What goes wrong within ends the command with a line on stderr: 3 for a target that does not
    answer, 2 for everything that was asked for and cannot be."""
    try:
        yield
    except LoadgenError as error:
        say(f"loadgen: {error}")
        code = EXIT_UNREACHABLE if isinstance(error, TargetError) else EXIT_USAGE
        raise typer.Exit(code) from error


def check_writable(*paths: Path | None) -> None:
    """Before the work, not after it. Raises ``SpecError``."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise SpecError(f"{path}: cannot be written: no such folder, or a folder itself")


def say(text: str) -> None:
    """To stderr, where it does not mix with the figures."""
    typer.echo(text, err=True)
