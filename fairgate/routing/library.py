"""The artefacts that a pool's routers know by: loads them, and sees when a file is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairgate.routing.hybrid import Hybrid
from fairgate.routing.loading import load_predictor
from fairgate.routing.predictor import Prediction, Predictor

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What one artefact knows."""

    predictor: Predictor
    choose: Callable[[Prediction, float], str]
    """The cheapest model that will do at a quality, 0 to 1."""
    promised: Callable[[Prediction, float], str]
    """The model that keeps the promise certified for a drop; ``ArtifactError`` without one."""


def load_knowledge(file: Path | None) -> Knowledge:
    """The artefact in ``file``, or the shipped one. Raises ``ArtifactError``."""
    predictor = load_predictor(file)
    hybrid = Hybrid(predictor.artifact)
    return Knowledge(predictor, hybrid.choose, hybrid.promised)


class Library:
    """The artefacts of one pool, each read once until its file changes."""

    def __init__(self, load: Callable[[Path | None], Knowledge] = load_knowledge) -> None:
        self._load = load
        self._loaded: dict[str | None, tuple[Stamp, Knowledge]] = {}

    async def get(self, file: str | None) -> Knowledge:
        """The artefact in ``file``, or the shipped one. Raises ``ArtifactError``.

        Read in a thread: decisions go on meanwhile. What was loaded before stays where the new one
        cannot be read.
        """
        stamp = _stamp(file)
        known = self._loaded.get(file)
        if known is not None and known[0] == stamp:
            return known[1]
        knowledge = await asyncio.to_thread(self._load, Path(file) if file else None)
        self._loaded[file] = stamp, knowledge
        return knowledge

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
