"""Faults between any two script calls, as rules of a machine that models the ledger."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from fairgate.admission.ledger import Admitted
from fairgate.config import Policy
from fairgate.config.policy import resolve_policy
from support.ledger_driver import LEASE_S, LedgerDriver

WAITING = "waiting"


class LedgerFaults:
    """Put before the machine among the bases: it adds rules to the machine's own."""

    driver: LedgerDriver
    state: dict[str, str]
    swept: set[str]
    gateway: dict[str, str]
    asked: dict[str, tuple[str, float]]
    charged: dict[str, float]
    lifted: dict[str, float]
    policy: ClassVar[Policy]

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.is_fair = resolve_policy(self.policy).order == "fair"

    def finish(self, request_id: str) -> None:
        """Also remember it: somebody may settle it once more."""
        super().finish(request_id)  # type: ignore[misc]
        self.ended.append(request_id)

    @rule(kind=st.sampled_from(["admit", "settle", "cancel", "renew"]))
    def the_next_reply_is_lost(self, kind: str) -> None:
        """The call is taken; whoever made it hears nothing and calls again."""
        self.driver.losing.add(kind)

    @rule()
    def scripts_are_flushed(self) -> None:
        self.driver.client.script_flush()

    @rule()
    def the_store_restarts_from_its_file(self) -> None:
        self.driver.restart(forget=False)
        self.all_beat()

    @rule()
    def the_store_restarts_empty(self) -> None:
        """Counters begin anew; those in line line up again, what runs is not known any more."""
        self.driver.restart(forget=True)
        in_line = [i for i, state in self.state.items() if state == WAITING]
        for request_id in [*self.state, *self.swept]:
            self.finish(request_id)
        for counters in (self.charged, self.lifted):
            counters.update(dict.fromkeys(counters, 0.0))
        self.all_beat()
        for request_id in in_line:
            self.line_up_again(request_id)

    @precondition(lambda self: self.swept)
    @rule(which=st.integers(0, 10**6))
    def who_was_granted_while_its_gateway_stood_still_lines_up_again(self, which: int) -> None:
        """It never heard of the grant; that lease was swept with its gateway's others."""
        request_id = sorted(self.swept)[which % len(self.swept)]
        self.finish(request_id)
        self.line_up_again(request_id, given_back=self.asked[request_id][1])

    def line_up_again(self, request_id: str, given_back: float = 0.0) -> None:
        tenant = self.asked[request_id][0]
        before = self.driver.counter(tenant), self.charged[tenant]
        self.charged[tenant] -= given_back
        if not isinstance(self.driver.admit_again(request_id), Admitted):
            self.take_grants()  # type: ignore[attr-defined]
            return
        self.ended.remove(request_id)
        self.state[request_id] = WAITING
        self.take_grants()  # type: ignore[attr-defined]
        rise = self.driver.counter(tenant) - before[0] - (self.charged[tenant] - before[1])
        assert rise >= -1e-3, "a lift never takes away"
        assert self.is_fair or rise <= 1e-3, "where nobody is lifted, what was asked for is charged"
        self.lifted[tenant] += rise

    @rule(seconds=st.floats(-3600, LEASE_S / 2))
    def the_clock_steps(self, seconds: float) -> None:
        """Back by an hour or a little ahead: nobody is taken for dead."""
        self.driver.now += seconds
        self.all_beat()

    @rule(seconds=st.floats(LEASE_S * 1.1, 2 * 86400))
    def the_clock_leaps_ahead(self, seconds: float) -> None:
        """Or the store stood still: where all were silent, nobody is taken for dead."""
        self.driver.now += seconds
        self.all_beat()

    @precondition(lambda self: self.ended)
    @rule(which=st.integers(0, 10**6), cancelled=st.booleans())
    def one_that_ended_is_ended_again(self, which: int, cancelled: bool) -> None:
        request_id = self.ended[which % len(self.ended)]
        if request_id in self.swept or request_id in self.state:
            return
        gateway = self.gateway[request_id]
        if cancelled:
            self.driver.cancel(request_id, gateway)
        else:
            self.driver.settle(request_id, 500.0, gateway, learn=True)
        self.take_grants()  # type: ignore[attr-defined]

    def all_beat(self) -> None:
        for gateway in self.driver.ledgers:
            self.driver.beat(gateway)
        self.take_grants()  # type: ignore[attr-defined]
