"""An engine that was added while gateways run: what may be said of one, and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence

from fairgate.config import HttpEngine, rules
from fairgate.config.admin import EnginePlace
from fairgate.config.base import Base, Count
from fairgate.config.places import place_of


class AddedEngine(Base, frozen=True):
    """A server that somebody else runs. Processes are started by the file alone: a command that
    came over the API would run with the gateway's rights."""

    url: str
    max_num_seqs: Count | None = None
    kv_cache_tokens: Count | None = None
    priority: bool = False
    cache_salt: bool = True
    drained: bool = False


def made_of(
    name: str, added: AddedEngine, places: Sequence[EnginePlace]
) -> tuple[HttpEngine | None, list[str]]:
    """The engine ``name``, or what is wrong with it; ``places`` say where one may be."""
    problems = rules.url_problems(added.url, "url")
    place = None if problems else place_of(added.url, places)
    if place is None:
        return None, problems or [
            "url: expected a host that admin.engines_at allows"
            + (", which names none" if not places else "")
        ]
    engine = HttpEngine(
        url=added.url,
        name=name,
        api_key=place.api_key,
        max_num_seqs=added.max_num_seqs,
        kv_cache_tokens=added.kv_cache_tokens,
        priority=added.priority,
        cache_salt=added.cache_salt,
        drained=added.drained,
    )
    return engine, []
