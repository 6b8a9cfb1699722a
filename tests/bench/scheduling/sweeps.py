"""Who is there: populations of growing size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FEW_TENANTS = 4
USERS_PER_TENANT = 2
HEADROOM = 0.125


@dataclass(frozen=True, slots=True)
class Sender:
    """A user who has one request at a time, in one lane."""

    tenant: str
    user: str
    lane: str


@dataclass(frozen=True, slots=True)
class Population:
    """``waiting`` requests in line; ``tenant(i)`` and ``user(i)`` send the ``i``-th one."""

    waiting: int
    tenant: Callable[[int], str]
    user: Callable[[int], str]
    idle_tenants: int = 0
    """Tenants that had one request served before."""
    headroom: float = 0.0
    """Of every lane."""

    def sender(self, i: int, lanes: tuple[str, ...]) -> Sender:
        """Who sends request ``i``."""
        return Sender(self.tenant(i), self.user(i), lanes[i % len(lanes)])


@dataclass(frozen=True, slots=True)
class Sweep:
    """Populations from 10 to ``largest``, each ten times the one before."""

    name: str
    x_name: str
    about: str
    largest: int
    population: Callable[[int], Population]

    def sizes(self, limit: int) -> list[int]:
        """10, 100, … up to ``largest`` and ``limit``."""
        powers = [10**k for k in range(1, 10)]
        return [n for n in powers if n <= min(self.largest, limit)]


def _users(n: int) -> Population:
    return Population(n, lambda i: f"t{i % FEW_TENANTS}", lambda i: f"u{i}")


def _requests(n: int) -> Population:
    return Population(n, lambda _: "t0", lambda _: "u0")


def _tenants(n: int) -> Population:
    return Population(USERS_PER_TENANT * n, lambda i: f"t{i % n}", lambda i: f"u{i // n}")


def _tenants_headroom(n: int) -> Population:
    few = _tenants(n)
    return Population(few.waiting, few.tenant, few.user, headroom=HEADROOM)


def _idle(n: int) -> Population:
    return Population(100, lambda i: f"t{i % FEW_TENANTS}", lambda i: f"u{i}", idle_tenants=n)


SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("users", "waiting users", "Users of four tenants, one waiting request each.",
              100_000, _users),
        Sweep("requests", "waiting requests", "All of one user.", 100_000, _requests),
        Sweep("tenants", "waiting tenants", "Tenants with two waiting users each.",
              10_000, _tenants),
        Sweep("tenants-headroom", "waiting tenants", "The same, in lanes with headroom 0.125.",
              10_000, _tenants_headroom),
        Sweep("idle", "idle tenants", "Tenants that the ledger knows, while 100 users of four "
              "others wait.", 10_000, _idle),
    )
}  # fmt: skip
