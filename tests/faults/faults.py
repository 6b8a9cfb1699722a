"""What a fault is: a name, what it shows, and a context in which it is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tests.faults.site import Site, StoreKind


@dataclass(slots=True)
class Harm:
    """What a fault did while it was there."""

    times: int = 1
    """How often it was injected."""
    notes: list[str] = field(default_factory=list)
    """What went wrong that no client of the load sees: the row fails."""
    remarks: list[str] = field(default_factory=list)
    """What else is worth saying."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Leaving the context heals it."""

    name: str
    shows: str
    lasts_s: float
    inject: Callable[[Site], AbstractAsyncContextManager[Harm]]
    store: StoreKind = "plain"
    """What it needs; those that need a plain one also go with the proxy before it."""
    recovers_s: float | None = None
    """How soon all works again once it is healed, as promised."""


Inject = Callable[[Site], AbstractAsyncContextManager[Harm]]


class Registry:
    """The faults of one kind, in the order in which they are written down."""

    def __init__(self, *, recovers_s: float | None = None) -> None:
        self._recovers_s = recovers_s
        self.faults: list[Fault] = []

    def add(
        self, name: str, shows: str, *, lasts_s: float, store: StoreKind = "plain"
    ) -> Callable[[Inject], Inject]:
        """Decorates a fault's context manager."""

        def keep(inject: Inject) -> Inject:
            fault = Fault(name, shows, lasts_s, inject, store, self._recovers_s)
            self.faults.append(fault)
            return inject

        return keep
