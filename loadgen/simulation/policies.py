"""The policies that are compared: presets of fairgate and ablations of its default.

All are settings of the same scripts (:class:`fairgate.config.Policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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
        "no-idle-credit": Policy(idle_credit=0.0),
        "no-patience": Policy(patience_s=0.0),
        "user-only": Policy(levels="user"),
        "tenant-only": Policy(levels="tenant"),
    }
)


def named_policies(text: str) -> dict[str, Policy]:
    """Read ``all`` (the presets), ``ablations``, or names with commas between; in that order."""
    known = {**PRESETS, **ABLATIONS}
    chosen: dict[str, Policy] = {}
    for name in text.split(","):
        if name == "all":
            chosen |= PRESETS
        elif name == "ablations":
            chosen |= {"fairserve": known["fairserve"], **ABLATIONS}
        elif name in known:
            chosen[name] = known[name]
        else:
            raise SpecError(
                f"--policy {name}: not a policy; they are all, ablations, {', '.join(known)}"
            )
    return chosen
