"""What the sub-commands share."""

from __future__ import annotations

from pathlib import Path

import typer

from loadgen.errors import SpecError

EXIT_USAGE = 2


def check_writable(*paths: Path | None) -> None:
    """Before the work, not after it. Raises ``SpecError``."""
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise SpecError(f"{path}: cannot be written: no such folder, or a folder itself")


def say(text: str) -> None:
    """To stderr, where it does not mix with the figures."""
    typer.echo(text, err=True)
