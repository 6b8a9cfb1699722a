"""The policies that are compared: presets of fairgate and ablations of its default.

All are settings of the same scripts (:class:`fairgate.config.Policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from fairgate.config import Policy
from loadgen.errors import SpecError

PRESETS: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "fcfs": Policy(preset="fcfs"),
        "rpm": Policy(preset="rpm"),
        "vtc": Policy(preset="vtc"),
        "overload-only": Policy(preset="overload-only"),
        "fairserve": Policy(preset="fairserve"),
    }
)
ABLATIONS: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "no-interaction": Policy(interaction_aware=False, continuation_advantage=0.0),
        "no-app-normalisation": Policy(normalise_user="none"),
        "no-continuation-advantage": Policy(continuation_advantage=0.0),
        "no-handicap": Policy(handicap_s=0.0),
        "no-idle-credit": Policy(idle_credit=0.0),
        "no-patience": Policy(patience_s=0.0),
        "user-only": Policy(levels="user"),
        "tenant-only": Policy(levels="tenant"),
    }
)


OWN: Final = "config"
"""The policy of one's own configuration."""


_OF_NO_PRESET = (
    "backfill", "input_weight", "system_weight", "output_weight", "output_quantile", "interactions",
)  # fmt: skip


def named_policies(text: str, own: Policy | None = None) -> dict[str, Policy]:
    """Read ``all`` (the presets), ``ablations``, or names with commas between; in that order.

    ``own`` is known as ``config`` and one of ``all``; what no preset decides (weights of tokens,
    backfill, bounds of interactions) the others take from it. Raises ``SpecError``.
    """
    known = {**PRESETS, **ABLATIONS}
    presets = list(PRESETS)
    if own is not None:
        known = {name: _beside(own, policy) for name, policy in known.items()} | {OWN: own}
        presets.append(OWN)
    chosen: dict[str, Policy] = {}
    for name in text.split(","):
        if name == "all":
            chosen |= {preset: known[preset] for preset in presets}
        elif name == "ablations":
            chosen |= {ablation: known[ablation] for ablation in ("fairserve", *ABLATIONS)}
        elif name in known:
            chosen[name] = known[name]
        else:
            raise SpecError(
                f"--policy {name}: not a policy; they are all, ablations, {', '.join(known)}"
            )
    return chosen


def _beside(own: Policy, policy: Policy) -> Policy:
    return replace(policy, **{field: getattr(own, field) for field in _OF_NO_PRESET})
