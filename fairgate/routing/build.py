"""Makes the router that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import structlog

from fairgate.admission.model import LaneStatistics
from fairgate.config import Lane
from fairgate.config.routing import RouterName, Routing
from fairgate.errors import ArtifactError
from fairgate.routing.base import LaneView, Router, RouteRequest
from fairgate.routing.best_route import Tariff
from fairgate.routing.by_best_route import ByBestRoute
from fairgate.routing.costs import LaneCosts
from fairgate.routing.debts import Debts
from fairgate.routing.difficulty import ByDifficulty, Choose, models_of, tells_apart
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.library import Knowledge
from fairgate.routing.mess_plus import MessPlus
from fairgate.routing.most_free import MostFree
from fairgate.routing.predictor import Prediction, Predictor, Vector
from fairgate.routing.price_order import PriceOrder
from fairgate.routing.satisfaction import Satisfaction, sketch

UNTRAINED = frozenset({"most-free", "price-order", "mess-plus"})
"""Routers that need no artefact."""

DEFAULT_QUALITY = 0.5

log = structlog.get_logger("fairgate.routing")


@dataclass(frozen=True, slots=True)
class Kit:
    """What the routers of one pool are made from."""

    pool: str
    lanes: Mapping[str, Lane]
    settings: Routing
    debts: Debts
    costs: LaneCosts
    rng: Random
    weights: Tariff
    """Service units of a token, read and written, at price 1."""
    learners: dict[str, Satisfaction]
    """Those that learn online, by the encoder whose features they see."""


def build_router(name: RouterName, knowledge: Knowledge, kit: Kit) -> Router:
    """The router ``name`` by ``knowledge``; where that lacks the lanes' models, price order.

    Raises ``ArtifactError`` where the settings name a drop that nothing was certified for.
    """
    predictor = knowledge.predictor
    models = models_of(predictor, views_of(kit.lanes))
    settings = kit.settings
    if tells_apart(models, kit.lanes):
        if name == "best-route":
            _tell_heads(predictor, kit.pool)
            return ByBestRoute(
                predictor, models, settings.best_route, kit.weights, overflow=settings.overflow
            )
        choose = _choice(knowledge, settings.drop)
        return ByDifficulty(predictor, choose, models, overflow=settings.overflow)
    if unknown := sorted(kit.lanes.keys() - models.keys()):
        log.warning(
            "the artefact does not know these lanes' models; routing by price",
            pool=kit.pool, artifact=predictor.version, unknown=unknown,
        )  # fmt: skip
    return PriceOrder(overflow=kit.settings.overflow)


def _tell_heads(predictor: Predictor, pool: str) -> None:
    """Say by what the best of n is judged: heads are true for the scorer that they saw."""
    if predictor.best_of is None:
        log.warning(
            "the artefact was trained on single answers; the best of n is judged by formula",
            pool=pool, artifact=predictor.version,
        )  # fmt: skip
    else:
        log.info(
            "the best of n is judged by learned heads",
            pool=pool, artifact=predictor.version, samples=predictor.best_of.samples,
            scorer=predictor.best_of.scorer,
        )  # fmt: skip


def build_untrained(name: RouterName, kit: Kit) -> Router:
    """One of :data:`UNTRAINED`."""
    if name == "mess-plus":
        return _mess_plus(kit)
    return MostFree() if name == "most-free" else PriceOrder(overflow=kit.settings.overflow)


def views_of(lanes: Mapping[str, Lane]) -> Sequence[LaneView]:
    """The lanes as a router sees them, without statistics."""
    return [view_of(name, lane, LaneStatistics()) for name, lane in lanes.items()]


def view_of(name: str, lane: Lane, statistics: LaneStatistics) -> LaneView:
    """A lane as a router sees it."""
    return LaneView(name, lane.price, statistics, (lane.model or name, name, *lane.aliases))


def _choice(knowledge: Knowledge, drop: float | None) -> Choose:
    if drop is not None:
        knowledge.promised(knowledge.predictor.predict(""), drop)  # there is one

    def choose(prediction: Prediction, quality: float | None, agreed: float | None) -> str:
        if quality is None and agreed is not None:
            return _kept(knowledge, prediction, agreed)
        if quality is None and drop is not None:
            return knowledge.promised(prediction, drop)
        return knowledge.choose(prediction, DEFAULT_QUALITY if quality is None else quality)

    return choose


def _kept(knowledge: Knowledge, prediction: Prediction, drop: float) -> str:
    """The model for a tenant's drop: the dearest one where nothing so strict was certified."""
    try:
        return knowledge.promised(prediction, drop)
    except ArtifactError:
        return knowledge.predictor.models[-1]


def _mess_plus(kit: Kit) -> MessPlus:
    """It learns on an encoder of its own: what it learned outlives every artefact."""
    ngrams = NGrams()

    def features(request: RouteRequest) -> Vector:
        return sketch(ngrams.encode(request.text).buckets)

    return MessPlus(
        kit.settings.mess_plus,
        features=features,
        satisfaction=_learner(ngrams.name, kit),
        debts=kit.debts,
        costs=kit.costs,
        rng=kit.rng,
        version=ngrams.name,
        overflow=kit.settings.overflow,
    )


def _learner(encoder: str, kit: Kit) -> Satisfaction:
    """One for all routers; what it learned outlives a change of the others."""
    if encoder not in kit.learners:
        by_price = sorted(kit.lanes, key=lambda name: kit.lanes[name].price)
        kit.learners[encoder] = Satisfaction(by_price)
    return kit.learners[encoder]
