"""Outcomes and runs made by hand."""

from __future__ import annotations

from typing import Any

from fairgate.config import Policy
from loadgen.records import Call, Chain, Outcome
from loadgen.simulation.driver import Recording
from loadgen.simulation.figures import Conditions, Run, figures
from loadgen.simulation.workload import Workload, site

SPAN_S = 100.0


def outcome(tenant: str, at_s: float, **changes: Any) -> Outcome:
    """A call of 10 + 11 tokens with its first token after 1 s and its last one after 2 s."""
    done = changes.get("result", "completed") == "completed"
    fields: dict[str, Any] = {
        "tenant": tenant, "user": "u", "app": "chat", "interaction": None, "number": 0, "calls": 1,
        "result": "completed", "wanted_prompt_tokens": 10, "wanted_output_tokens": 11,
        "prompt_tokens": 10 if done else 0, "completion_tokens": 11 if done else 0,
        "intended_s": at_s, "sent_s": at_s, "granted_s": at_s if done else None,
        "first_token_s": at_s + 1 if done else None, "end_s": at_s + (2 if done else 0),
        "queue_s": 0.0,
    }  # fmt: skip
    return Outcome(**(fields | changes))


def refused(tenant: str, at_s: float, **changes: Any) -> Outcome:
    return outcome(tenant, at_s, **({"result": "throttled", "reason": "user.rpm"} | changes))


def run_of(outcomes: list[Outcome], *, without: list[Outcome] | None = None, **changes: Any) -> Run:
    call = Call(index=0, tenant="a", user="u", app="chat", prompt_tokens=1, output_tokens=1)
    workload = Workload(
        config=site({"a": 1.0, "b": 3.0}, ["chat"]),
        plan=[Chain(0.0, (call,)), Chain(SPAN_S, (call,))],
        **changes,
    )
    conditions = Conditions(
        scenario="hand-made", policy="fairserve", seed=0, load=1.0, capacity=2.0, rpm=0
    )
    before = None if without is None else Recording(without, [1.0] * len(without))
    recording = Recording(outcomes, [1.0] * len(outcomes))
    return figures(conditions, Policy(), workload, recording, before)
