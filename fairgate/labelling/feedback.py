"""Turns records of live traffic into labels: what was served, with the score that it was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def joined(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Labels of the served requests that have a prompt and a score, as their score comes.

    Records without prompts, which nobody can train on, are passed over, and those of several
    answers: the best of them says nothing of how good one answer is.
    """
    served: dict[str, dict[str, Any]] = {}
    for record in records:
        known = record.get("id", "")
        if record.get("event") == "served":
            served[known] = record
            continue
        request = served.pop(known, {})
        alone = request.get("samples", 1) == 1
        if record.get("event") == "scored" and request.get("prompt") and alone:
            yield {
                "prompt": request["prompt"],
                "task": request.get("app") or "live",
                "scores": {request["model"]: record["score"]},
            }
