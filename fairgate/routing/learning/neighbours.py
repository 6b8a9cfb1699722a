"""A classifier for few labels that knows when it does not know: probabilistic neighbours (PNCA).

Mallick et al., "Probabilistic Neighbourhood Component Analysis", arXiv 2007.10800. Several small
networks embed the input; random Fourier features of each embedding are averaged, which makes a
kernel between inputs that is the mean over the networks. A class is as probable as its share of
the kernel to all training points. Where the kernel reaches nothing, every class is as likely.

Training needs torch (``pip install fairgate[router]``); what it makes runs on numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]

EMBEDDERS = 10
HIDDEN = 200
LATENT = 10
FOURIER = 256
FREQUENCY = 3.0
EPOCHS = 100
RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A trained classifier: the networks, the frequencies, and the training points' features."""

    layers: tuple[tuple[tuple[Matrix, Matrix], ...], ...]
    frequencies: Matrix
    phases: Matrix
    memory: Matrix
    labels: Labels
    classes: int

    def probabilities(self, x: Matrix) -> Matrix:
        """Shape (inputs, classes); uniform for inputs that no training point supports."""
        kernel = self._kernel(x)
        votes = kernel @ np.eye(self.classes, dtype=np.float32)[self.labels]
        total = votes.sum(axis=1, keepdims=True)
        uniform = np.full_like(votes, 1 / self.classes)
        return np.where(total > 0, votes / np.maximum(total, 1e-12), uniform)

    def support(self, x: Matrix) -> Matrix:
        """The largest kernel to any training point, 0..1: 0 means that nothing is like it."""
        return np.asarray(np.clip(self._kernel(x).max(axis=1), 0, 1), np.float32)

    def _kernel(self, x: Matrix) -> Matrix:
        return np.maximum(self._features(x) @ self.memory.T, 0)

    def _features(self, x: Matrix) -> Matrix:
        total = np.zeros((len(x), self.frequencies.shape[1]), np.float32)
        for network in self.layers:
            h = x
            for k, (weights, bias) in enumerate(network):
                h = h @ weights.T + bias
                if k < len(network) - 1:
                    h = np.maximum(h, 0)
            total += np.cos(h @ self.frequencies + self.phases)
        return np.asarray(total * np.sqrt(2 / total.shape[1]) / len(self.layers), np.float32)


def fit(x: Matrix, labels: Labels, classes: int, seed: int = 0) -> Neighbours:
    """Minimise the leave-one-out log loss of ``labels``, 0..``classes`` - 1."""
    import torch

    random = torch.Generator().manual_seed(seed)
    sizes = (x.shape[1], HIDDEN, HIDDEN, LATENT)
    networks = [
        [_initial(into, out, random) for into, out in pairwise(sizes)] for _ in range(EMBEDDERS)
    ]
    frequencies = FREQUENCY * torch.randn(LATENT, FOURIER, generator=random)
    phases = 2 * torch.pi * torch.rand(FOURIER, generator=random)
    points, wanted = torch.from_numpy(x), torch.from_numpy(labels)
    one_hot = torch.nn.functional.one_hot(wanted, classes).float()
    parameters = [p for network in networks for layer in network for p in layer]
    optimizer = torch.optim.NAdam(parameters, lr=RATE)

    def features() -> torch.Tensor:
        total = torch.zeros(len(points), FOURIER)
        for network in networks:
            h = points
            for k, (weights, bias) in enumerate(network):
                h = torch.nn.functional.linear(h, weights, bias)
                if k < len(network) - 1:
                    h = torch.relu(h)
            total = total + torch.cos(h @ frequencies + phases)
        return total * (2 / FOURIER) ** 0.5 / EMBEDDERS

    others = 1 - torch.eye(len(points))
    for _ in range(EPOCHS):
        f = features()
        kernel = torch.relu(f @ f.T) * others
        right = (kernel @ one_hot)[torch.arange(len(points)), wanted]
        loss = -torch.log(right / (kernel.sum(dim=1) + 1e-9) + 1e-9).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        memory = features().numpy()
    layers = tuple(
        tuple((w.detach().numpy(), b.detach().numpy()) for w, b in network) for network in networks
    )
    return Neighbours(layers, frequencies.numpy(), phases.numpy(), memory, labels, classes)


def _initial(into: int, out: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    weights = torch.randn(out, into, generator=random) * (2 / into) ** 0.5
    return weights.requires_grad_(), torch.zeros(out).requires_grad_()
