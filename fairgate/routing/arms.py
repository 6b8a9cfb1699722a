"""The routers that a pool runs side by side: the one in force, the trial's, the shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from fairgate.config import Lane
from fairgate.config.routing import RouterChoice, Routing
from fairgate.errors import ArtifactError
from fairgate.routing.base import Router
from fairgate.routing.build import UNTRAINED, Kit, build_router, build_untrained, views_of
from fairgate.routing.debts import Debts
from fairgate.routing.difficulty import models_of, tells_apart
from fairgate.routing.library import Library
from fairgate.routing.plain import Plain
from fairgate.routing.sticky import Places, Sticky

log = structlog.get_logger("fairgate.routing")


@dataclass(frozen=True, slots=True)
class Arms:
    """Those of one pool."""

    router: Router
    trial: Router | None = None
    shadow: Router | None = None


PLAIN = Arms(Plain())


async def make_arms(kit: Kit, library: Library, places: Places) -> Arms:
    """What ``kit.settings`` say. Raises ``ArtifactError``.

    A shadow neither moves interactions nor counts requests.
    """
    settings = kit.settings
    router = await _make(settings, kit, library)
    trial = shadow = None
    if settings.trial is not None:
        trial = await _make(settings.trial, kit, library)
    if settings.shadow is not None:
        shadow = await _make(settings.shadow, replace(kit, debts=Debts()), library)
    if settings.sticky:
        router = Sticky(router, places)
        trial = trial and Sticky(trial, places)
    return Arms(router, trial, shadow)


async def _make(choice: RouterChoice, kit: Kit, library: Library) -> Router:
    if choice.router in UNTRAINED:
        return build_untrained(choice.router, kit)
    return build_router(choice.router, await library.get(choice.artifact), kit)


async def settings_by_itself(
    pool: str, lanes: Mapping[str, Lane], library: Library
) -> Routing | None:
    """Of a pool without a ``routing`` section: the defaults, if the shipped artefact knows all of
    its lanes."""
    if len(lanes) < 2:
        return None
    try:
        predictor = (await library.get(None)).predictor
    except ArtifactError as error:
        log.error("routing without the shipped artefact", pool=pool, error=str(error))
        return None
    return Routing() if tells_apart(models_of(predictor, views_of(lanes)), lanes) else None
