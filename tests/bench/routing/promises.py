"""How often a promised drop is broken: the bound's rule beside the papers' one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.learning.promise import sweep

Floats = NDArray[np.float64]

RESPLITS = 200
LABELS = (500, 1500, 3000)
LIMIT = 0.01


def rows(name: str, score: Floats, quality: Floats) -> Iterator[dict[str, str]]:
    """Calibrate on some labels, look at all other prompts, 200 times.

    ``score`` must come from models that were fitted without the prompt.
    """
    small, large = quality.T
    for labels in LABELS:
        for rule in ("bound", "point estimate"):
            broken, shares = 0, []
            for seed in range(RESPLITS):
                order = np.random.default_rng(seed).permutation(len(score))
                known, rest = order[:labels], order[labels:]
                swept = sweep(score[known], small[known], large[known])
                step = swept.certified(LIMIT) if rule == "bound" else swept.measured(LIMIT)
                routed = np.zeros(len(rest), np.bool_)
                if step is not None:
                    routed = score[rest] >= swept.threshold[step]
                drop = (large[rest] - small[rest])[routed].sum() / large[rest].sum()
                broken += drop > LIMIT
                shares.append(float(routed.mean()))
            yield {
                "data": name,
                "labels": str(labels),
                "rule": rule,
                "broken": f"{broken / RESPLITS:.1%}",
                "to small": f"{np.mean(shares):.1%}",
                "10th..90th": "{:.1%}..{:.1%}".format(*np.percentile(shares, (10, 90))),
            }
