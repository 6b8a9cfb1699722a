"""Fits the heads of a router by cross-entropy with torch, all parts at once: as Hybrid LLM does.

Ding et al., arXiv 2404.14618, section 4: soft labels, the best epoch by the loss on prompts held
out. The penalties are those of the ridge, whose squared error weighs four times as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Encoded
from fairgate.routing.heads import Heads, View
from fairgate.routing.learning.fitting import (
    FORM_PENALTY,
    MEANING_PENALTY,
    WORDS_PENALTY,
    empty_views,
    rarity_of,
)

Matrix = NDArray[np.float32]

EPOCHS = 40
PATIENCE = 4
"""Epochs without a better one, after which training ends."""
BATCH = 256
RATE = 0.01
HELD = 0.1
_SEED = 6
_EDGE = 0.01


def fit_by_crossentropy(prompts: Sequence[Encoded], targets: Matrix, buckets: int) -> Heads:
    """As :func:`fairgate.routing.learning.fitting.fit_heads`; ``targets`` are in 0..1."""
    return _Fit(prompts, targets, buckets).run()


class _Fit:
    """One training."""

    def __init__(self, prompts: Sequence[Encoded], targets: Matrix, buckets: int) -> None:
        dense = np.stack([prompt.dense for prompt in prompts])
        self._rarity = rarity_of(prompts, buckets)
        self._views = empty_views(dense)
        self._targets = torch.from_numpy(targets)
        self._dense = [torch.from_numpy(view.features(dense)) for view in self._views]
        self._bags = [torch.from_numpy(prompt.buckets) for prompt in prompts]
        self._weights = [torch.from_numpy(_unit(self._rarity, p.buckets)) for p in prompts]
        heads, count = targets.shape[1], len(prompts)
        mean = np.clip(targets.mean(axis=0), _EDGE, 1 - _EDGE)
        self._bias = torch.from_numpy(np.log(mean / (1 - mean))).requires_grad_()
        self._table = torch.zeros(buckets, heads, requires_grad=True)
        self._linear = [torch.zeros(d.shape[1], heads, requires_grad=True) for d in self._dense]
        self._penalties = [WORDS_PENALTY / 8 / count]
        for view in self._views:
            penalty = MEANING_PENALTY if view.kernel is None else FORM_PENALTY
            self._penalties.append(penalty / 8 / count)

    def run(self) -> Heads:
        """The heads of the epoch with the least loss on the prompts held out."""
        random = torch.Generator().manual_seed(_SEED)
        order = torch.randperm(len(self._bags), generator=random)
        held, known = order.split([n := round(HELD * len(order)), len(order) - n])
        parameters = [self._table, *self._linear, self._bias]
        optimizer = torch.optim.Adam(parameters, lr=RATE)
        best, kept, since = float("inf"), self._heads(), 0
        for _ in range(EPOCHS):
            for batch in known[torch.randperm(len(known), generator=random)].split(BATCH):
                loss = self._loss(batch) + self._penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                seen = float(self._loss(held))
            since += 1
            if seen < best:
                best, kept, since = seen, self._heads(), 0
            if since == PATIENCE:
                break
        return kept

    def _loss(self, which: torch.Tensor) -> torch.Tensor:
        picked = which.tolist()
        lengths = torch.tensor([0, *(len(self._bags[i]) for i in picked[:-1])])
        total = self._bias + torch.nn.functional.embedding_bag(
            torch.cat([self._bags[i] for i in picked]),
            self._table,
            lengths.cumsum(0),
            mode="sum",
            per_sample_weights=torch.cat([self._weights[i] for i in picked]),
        )
        for features, weights in zip(self._dense, self._linear, strict=True):
            total = total + features[which] @ weights
        wanted = self._targets[which]
        return torch.nn.functional.binary_cross_entropy_with_logits(total, wanted)

    def _penalty(self) -> torch.Tensor:
        weights = [self._table, *self._linear]
        parts = [p * (w * w).sum() for p, w in zip(self._penalties, weights, strict=True)]
        return torch.stack(parts).sum()

    def _heads(self) -> Heads:
        table = self._table.detach().numpy() * self._rarity[:, None]
        views = tuple(
            View(view.begin, view.end, view.kernel, weights.detach().numpy().copy())
            for view, weights in zip(self._views, self._linear, strict=True)
        )
        bias = self._bias.detach().numpy().copy()
        return Heads(self._rarity, np.ascontiguousarray(table.T), views, bias, logistic=True)


def _unit(rarity: Matrix, buckets: NDArray[np.int64]) -> Matrix:
    """The weights of a prompt's buckets, of length 1."""
    weights = rarity.take(buckets)
    return np.asarray(weights / max(float(np.sqrt(weights @ weights)), 1e-6), np.float32)
