"""Presets of the scheduling policy: fills in what a ``policy`` section leaves open.

``fcfs`` and ``rpm`` are what engines and API providers do today, ``vtc`` is the Virtual Token
Counter (arXiv 2401.00588), ``overload-only`` and ``fairserve`` are FairServe (arXiv 2411.15997)
without and with its treatment of interactions. All run on the same scripts.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import asdict

from fairgate.config import Interactions, Levels, Normalise, Order, Policy, Preset, Throttle


class Choices(Struct, frozen=True, kw_only=True):
    """The fields that a preset decides."""

    order: Order
    throttle: Throttle
    interaction_aware: bool
    normalise_tenant: Normalise = "none"
    normalise_user: Normalise = "none"
    levels: Levels = "tenant+user"
    continuation_advantage: float = 0.0
    handicap_s: float = 0.0
    idle_credit: float = 0.0
    patience_s: float = 0.0


class ResolvedPolicy(Choices, frozen=True, kw_only=True):
    """A policy with every value decided; the meanings are those of :class:`config.Policy`."""

    preset: Preset
    backfill: float
    input_weight: float
    system_weight: float
    output_weight: float
    output_quantile: float
    interactions: Interactions


def resolve_policy(policy: Policy | Preset) -> ResolvedPolicy:
    """Every value of ``policy``: what it says itself, else what its preset says."""
    stated = Policy(preset=policy) if isinstance(policy, str) else policy
    explicit = {name: value for name, value in asdict(stated).items() if value is not UNSET}
    values: dict[str, Any] = asdict(_choices(stated.preset)) | explicit
    return ResolvedPolicy(**values)


def _choices(preset: Preset) -> Choices:
    match preset:
        case "fcfs":
            return Choices(order="fcfs", throttle="never", interaction_aware=False)
        case "rpm":
            return Choices(order="fcfs", throttle="always", interaction_aware=False)
        case "vtc":
            return Choices(order="fair", throttle="never", interaction_aware=False)
        case "overload-only":
            return Choices(
                order="fair",
                throttle="overload",
                interaction_aware=False,
                normalise_user="app",
                idle_credit=0.2,
                patience_s=60.0,
            )
        case "fairserve":
            return Choices(
                order="fair",
                throttle="overload",
                interaction_aware=True,
                normalise_user="app",
                continuation_advantage=1.0,
                handicap_s=300.0,
                idle_credit=0.2,
                patience_s=60.0,
            )
