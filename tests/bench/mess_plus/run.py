"""Runs the shipped router over a stream: what it satisfies, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fairgate import codec
from fairgate.admission.model import LaneStatistics
from fairgate.config import Lane
from fairgate.config.routing import MessPlus as Settings
from fairgate.routing.base import LaneView, RouteRequest
from fairgate.routing.costs import LaneCosts
from fairgate.routing.debts import Debts
from fairgate.routing.mess_plus import MessPlus
from fairgate.routing.satisfaction import Satisfaction
from tests.bench.mess_plus.stream import Stream

_UP = LaneStatistics(engines_up=1, limit=8, free=8)


@dataclass
class Result:
    """Of one tenant, in the order of its requests."""

    agreed: float
    good: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """Of each request, the dearest lane's as 1."""
    dearest: list[float] = field(default_factory=list)
    """What the dearest lane would have satisfied: no router can count on more."""

    @property
    def running(self) -> NDArray[np.float64]:
        """Satisfaction so far."""
        return np.cumsum(self.good) / np.arange(1, len(self.good) + 1)

    @property
    def cost(self) -> float:
        """Of always taking the dearest lane."""
        return float(np.mean(self.costs))

    def worst(self, after: int = 1500) -> float:
        """Least running satisfaction from request ``after`` on, less what was agreed."""
        return float(self.running[after - 1 :].min() - self.agreed)

    def by_dearest(self) -> Result:
        """What always taking the dearest lane would have given."""
        return Result(self.agreed, self.dearest, [1.0] * len(self.dearest), self.dearest)

    def last(self, requests: int | None = None) -> float:
        """Satisfaction of the last ``requests``, less what was agreed."""
        return float(np.mean(self.good[-(requests or len(self.good)) :]) - self.agreed)


class Judge(Protocol):
    """Takes feedback: in this process, or by the shipped scripts."""

    def __call__(self, debts: Debts, tenant: str, score: float, agreed: float) -> None: ...


def judge_here(debts: Debts, tenant: str, score: float, agreed: float) -> None:
    """By the same formula as the script's, without a store."""
    debts.settle(tenant, score, agreed)


def run(
    stream: Stream,
    levels: Mapping[str, float],
    *,
    feedback: float = 1.0,
    unheard: Collection[str] = (),
    seed: int = 0,
    settings: Settings | None = None,
    judge: Judge = judge_here,
) -> dict[str, Result]:
    """One pass of ``stream``; its requests belong to the tenants of ``levels`` by turns at random.

    ``feedback`` is the share of requests that are judged: the answer of the lane that served, as a
    live gateway's. Those of the tenants ``unheard`` never are.
    """
    rng = random.Random(seed)
    lanes = {
        name: Lane(engines=(), price=price)
        for name, price in zip(stream.lanes, stream.prices, strict=True)
    }
    satisfaction, debts = Satisfaction(stream.lanes), Debts()
    current: list[np.ndarray] = [stream.features[0]]
    router = MessPlus(
        settings or Settings(),
        features=lambda _: current[0],
        satisfaction=satisfaction,
        debts=debts,
        costs=LaneCosts(lanes, "price"),
        rng=rng,
        overflow=False,
    )
    views = [LaneView(name, lane.price, _UP, name) for name, lane in lanes.items()]
    dearest = stream.prices.index(max(stream.prices))
    results = {tenant: Result(agreed) for tenant, agreed in levels.items()}
    for number, tenant in enumerate(_tenants(levels, len(stream), rng)):
        current[0] = stream.features[number]
        request = RouteRequest(_CALL, tenant=tenant, satisfaction=levels[tenant])
        lane = router.route(request, views).actions[0].lane
        at = stream.lanes.index(lane)
        score = float(stream.good[number, at])
        result = results[tenant]
        result.good.append(score)
        result.costs.append(stream.prices[at] / max(stream.prices))
        result.dearest.append(float(stream.good[number, dearest]))
        if rng.random() < feedback and tenant not in unheard:
            judge(debts, tenant, score, levels[tenant])
            satisfaction.learn(lane, current[0], score)
    return results


def _tenants(levels: Mapping[str, float], requests: int, rng: random.Random) -> Iterator[str]:
    names = list(levels)
    return (rng.choice(names) for _ in range(requests))


_CALL = codec.decode("/v1/chat/completions", b'{"model": "auto", "messages": []}', max_choices=1)
