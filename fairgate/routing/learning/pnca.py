"""Trains probabilistic neighbours (PNCA) with torch: ``pip install fairgate[router]``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch

from fairgate.routing.neighbours import Labels, Matrix, Neighbours

EMBEDDERS = 10
HIDDEN = 200
LATENT = 10
FOURIER = 256
FREQUENCY = 4.0
"""Chosen on splits that `make routing` does not measure on."""
EPOCHS = 200
RATE = 1e-3
_LEAST = 1e-9

Network = Sequence[tuple[torch.Tensor, torch.Tensor]]


def fit(x: Matrix, labels: Labels, classes: int, seed: int = 0) -> Neighbours:
    """Minimise the leave-one-out log loss of ``labels``, each in 0..``classes`` - 1."""
    random = torch.Generator().manual_seed(seed)
    sizes = (x.shape[1], HIDDEN, HIDDEN, LATENT)
    networks = [
        [_layer(into, out, random) for into, out in pairwise(sizes)] for _ in range(EMBEDDERS)
    ]
    frequencies = FREQUENCY * torch.randn(LATENT, FOURIER, generator=random)
    phases = 2 * torch.pi * torch.rand(FOURIER, generator=random)
    points, wanted = torch.from_numpy(x), torch.from_numpy(labels)
    parameters = [p for network in networks for layer in network for p in layer]
    optimizer = torch.optim.NAdam(parameters, lr=RATE)
    for _ in range(EPOCHS):
        loss = _loss(_features(networks, points, frequencies, phases), wanted, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        memory = _features(networks, points, frequencies, phases).numpy()
    layers = tuple(
        tuple((w.detach().numpy(), b.detach().numpy()) for w, b in network) for network in networks
    )
    return Neighbours(layers, frequencies.numpy(), phases.numpy(), memory, labels, classes)


def _features(
    networks: Sequence[Network], x: torch.Tensor, frequencies: torch.Tensor, phases: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(len(x), FOURIER)
    for network in networks:
        h = x
        for k, (weights, bias) in enumerate(network):
            h = torch.nn.functional.linear(h, weights, bias)
            if k < len(network) - 1:
                h = torch.relu(h)
        total = total + torch.cos(h @ frequencies + phases)
    return total * (sqrt(2 / FOURIER) / len(networks))


def _loss(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    kernel = torch.relu(features @ features.T) * (1 - torch.eye(len(features)))
    votes = kernel @ torch.nn.functional.one_hot(labels, classes).float()
    right = votes[torch.arange(len(labels)), labels]
    return -torch.log(right / (kernel.sum(dim=1) + _LEAST) + _LEAST).mean()


def _layer(into: int, out: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Small, so that kernels between points are neither all 1 nor all 0 when training begins."""
    bound = 1 / sqrt(into)
    weights, bias = (
        bound * (2 * torch.rand(*n, generator=random) - 1) for n in ((out, into), (out,))
    )
    return weights.requires_grad_(), bias.requires_grad_()
