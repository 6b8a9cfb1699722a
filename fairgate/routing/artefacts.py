"""Artefact files: loads them, and notices when one is replaced while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from fairgate.routing.predictor import Predictor, load_predictor

Load = Callable[[Path | None], Predictor]

Stamp = tuple[int, int, int] | None


class Artefacts:
    """The artefacts of one pool, each read once until its file changes."""

    def __init__(self, load: Load = load_predictor) -> None:
        self._load = load
        self._loaded: dict[str | None, tuple[Stamp, Predictor]] = {}

    async def get(self, file: str | None) -> Predictor:
        """The artefact in ``file``, or the shipped one. Raises ``ArtifactError``.

        Read in a thread: decisions go on meanwhile. What was loaded before stays where the new one
        cannot be read.
        """
        stamp = _stamp(file)
        known = self._loaded.get(file)
        if known is not None and known[0] == stamp:
            return known[1]
        predictor = await asyncio.to_thread(self._load, Path(file) if file else None)
        self._loaded[file] = stamp, predictor
        return predictor

    def stamps(self) -> dict[str, Stamp]:
        """How the files that are in use look now."""
        return {file: _stamp(file) for file in self._loaded if file is not None}


def _stamp(file: str | None) -> Stamp:
    """Differs whenever the file was written or replaced, also through a symbolic link."""
    if file is None:
        return None
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
