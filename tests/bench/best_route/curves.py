"""Quality at equal cost of artefacts that were trained on simulated answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import several_ways, training
from fairgate.routing.learning.frontier import CUTS, Rule, drops
from fairgate.routing.learning.several_answers import Array
from tests.bench.best_route.records import Recorded
from tests.bench.best_route.world import Verifier, draw_rates, expected_success, several

RULES: tuple[Rule, ...] = ("threshold", "value")

_TRAINED = 0.6


@dataclass(frozen=True)
class Setting:
    """One simulated deployment. Costs are those of tokens written: the prompt, which n answers
    share, would speak for several answers."""

    concentration: float
    accuracy: float = 0.85
    price_ratio: float = 10.0
    samples: int = 5


@dataclass(frozen=True)
class Drops:
    """Relative loss of quality against the reference, at each of :data:`CUTS`."""

    single: tuple[float, ...]
    best_of: tuple[float, ...]

    def ratio(self, cut: float) -> float:
        """Of the best-of-n router's drop to the single-sample router's."""
        at = CUTS.index(cut)
        return self.best_of[at] / self.single[at]


def simulate(recorded: Recorded, setting: Setting, seed: int) -> dict[tuple[str, str], Drops]:
    """Drops on held-out prompts by (where the quality comes from, how is chosen).

    Heads and success are learned from several simulated answers to each training prompt; the
    formula is told the verifier's true accuracy and the true concentration.
    """
    rng = np.random.default_rng(seed)
    rates = draw_rates(recorded, setting.concentration, rng)
    verifier = Verifier(setting.accuracy)
    order = rng.permutation(len(rates))
    train, test = np.split(order, [int(_TRAINED * len(order))])
    answers = several(recorded, rates, train, verifier, setting.samples, rng)
    known = [recorded.encoded[i] for i in train.tolist()]
    predictor = LearnedPredictor(
        training.train(answers, NGrams(), encoded=known).artifact, NGrams()
    )
    return _Judged(recorded, predictor, setting).drops(rates[test], test)


@dataclass(frozen=True)
class _Judged:
    recorded: Recorded
    predictor: LearnedPredictor
    setting: Setting

    def drops(self, rates: Array, test: Array) -> dict[tuple[str, str], Drops]:
        """Of each source and rule, on the prompts ``test``."""
        setting, models = self.setting, self.predictor.models
        said = [self.predictor.judge(self.recorded.encoded[i]) for i in test.tolist()]
        expected = expected_success(rates, Verifier(setting.accuracy), setting.samples)
        outcome = several_ways.ways_of(expected, self.recorded.reference[test])
        prices = dict.fromkeys(models, 1.0) | {models[-1]: setting.price_ratio}
        costs = several_ways.costs_of(prices, models, setting.samples)
        one = several_ways.single_answers(setting.samples, len(costs))
        found = {}
        for rule in RULES:
            formula = several_ways.by_formula(
                rule, setting.samples,
                accuracy=setting.accuracy, concentration=setting.concentration,
            )  # fmt: skip
            heads = several_ways.by_heads(rule, setting.samples)
            for source, believed in (("heads", heads), ("formula", formula)):
                predicted = several_ways.all_of(said, models, believed)
                found[source, rule] = Drops(
                    drops(predicted[:, one], outcome[:, one], costs[one], rule),
                    drops(predicted, outcome, costs, rule),
                )
        return found
