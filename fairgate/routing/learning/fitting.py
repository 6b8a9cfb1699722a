"""Fits the heads of a router: every part on its own, all targets at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Encoded
from fairgate.routing.encoders.structure import WIDTH as FORM
from fairgate.routing.heads import Heads, Kernel, View
from fairgate.routing.learning.ridge import Linear, SparseRows, fit_dense, fit_sparse

Matrix = NDArray[np.float32]

WORDS_PENALTY = 10.0
FORM_PENALTY = 1.0
MEANING_PENALTY = 50.0
KERNEL_FEATURES = 400
KERNEL_WIDTH = 5.0
"""In deviations; chosen, as the penalties, on parts of the training records (5-fold)."""

_RARE = 2
_SEED = 6


def fit_heads(prompts: Sequence[Encoded], targets: Matrix, buckets: int) -> Heads:
    """Least squares for ``targets``, of shape (prompts, heads), from encoded prompts.

    The dense vector's first numbers are the form of the prompt and get a kernel; what follows is a
    sentence embedding and stays linear.
    """
    dense = np.stack([prompt.dense for prompt in prompts])
    rarity = rarity_of(prompts, buckets)
    rows = SparseRows([prompt.buckets for prompt in prompts], rarity)
    words = fit_sparse(rows, targets, WORDS_PENALTY)
    mean = np.asarray(targets.mean(axis=0), np.float32)
    form, bias = _view(0, _kernel(dense[:, :FORM]), dense, targets, FORM_PENALTY)
    views, bias = [form], words.bias + bias - mean
    if dense.shape[1] > FORM:
        meaning, more = _view(FORM, None, dense, targets, MEANING_PENALTY)
        views, bias = [form, meaning], bias + more - mean
    return Heads(
        rarity, np.ascontiguousarray((words.weights * rarity[:, None]).T), tuple(views), bias
    )


def _view(
    begin: int, kernel: Kernel | None, dense: Matrix, targets: Matrix, penalty: float
) -> tuple[View, Matrix]:
    end = dense.shape[1] if kernel is None else begin + len(kernel.mean)
    empty = View(begin, end, kernel, np.empty((0, 0), np.float32))
    fitted: Linear = fit_dense(empty.features(dense), targets, penalty)
    return View(begin, end, kernel, fitted.weights), fitted.bias


def _kernel(form: Matrix) -> Kernel:
    random = np.random.default_rng(_SEED)
    projection = random.normal(size=(form.shape[1], KERNEL_FEATURES)) / KERNEL_WIDTH
    return Kernel(
        np.asarray(form.mean(axis=0), np.float32),
        np.asarray(form.std(axis=0) + 1e-3, np.float32),
        projection.astype(np.float32),
        random.uniform(0, 2 * np.pi, KERNEL_FEATURES).astype(np.float32),
    )


def empty_views(dense: Matrix) -> tuple[View, ...]:
    """The views of these dense vectors, without weights: the form, and a meaning behind it."""
    nothing = np.empty((0, 0), np.float32)
    form = View(0, FORM, _kernel(dense[:, :FORM]), nothing)
    meaning = View(FORM, dense.shape[1], None, nothing)
    return (form, meaning) if dense.shape[1] > FORM else (form,)


def rarity_of(prompts: Sequence[Encoded], buckets: int) -> Matrix:
    """Smoothed inverse document frequency; 0 for what occurs in one prompt only."""
    seen = np.bincount(np.concatenate([p.buckets for p in prompts]), minlength=buckets)
    rarity = np.log((1 + len(prompts)) / (1 + seen)) + 1
    return np.where(seen >= _RARE, rarity, 0).astype(np.float32)
