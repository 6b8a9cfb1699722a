"""Simulated engines in the place of those that a configuration names."""

from __future__ import annotations

from msgspec.structs import replace

from fairgate.config import Engine, SimulatedEngine
from fairgate.engines.monitor import UNTOLD_MAX_NUM_SEQS
from fairgate.engines.simulated.timing import PROFILES
from loadgen.errors import SpecError

_PLENTY = 4096


def check_profile(profile: str) -> None:
    """Raises ``SpecError`` unless it is empty or the name of a timing profile."""
    if profile and profile not in PROFILES:
        raise SpecError(f"--profile {profile}: not a profile; they are {', '.join(PROFILES)}")


def profile_of_lane(lane: str, named: str) -> str | None:
    """The profile ``named``, else ``cpu-<lane>``; ``None`` where there is neither."""
    return named or (f"cpu-{lane}" if f"cpu-{lane}" in PROFILES else None)


def modelled(spec: Engine, profile: str) -> SimulatedEngine:
    """The model of an engine: its sequences and KV tokens, plenty of them where it does not say.

    One that is simulated already keeps its own profile.
    """
    if isinstance(spec, SimulatedEngine):
        return replace(spec, port=None)
    sequences = spec.max_num_seqs or UNTOLD_MAX_NUM_SEQS
    return SimulatedEngine(
        name=spec.name,
        profile=profile,
        max_num_seqs=sequences,
        kv_cache_tokens=spec.kv_cache_tokens or _PLENTY * sequences,
    )
