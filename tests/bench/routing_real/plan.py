"""Who is measured on what: training, certifying and testing never share a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from fairgate.routing.learning.records import folds
from tests.bench.routing_real.labelled import Labelled, is_exam

PARTS = 5
TRAIN, CERTIFY = (0, 1), (2, 3)
"""Of the parts told by the prompt's hash; what is left is the test."""
UNSEEN_OF = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """Three parts of the prompts of seen tasks, and all prompts of tasks that are held out."""

    train: Labelled
    certify: Labelled
    test: Labelled
    seen: Labelled
    """These three together."""
    unseen: Labelled


def split(labelled: Labelled) -> Plan:
    """By prompt hash; one task in :data:`UNSEEN_OF`, by the hash of its name, is held out whole."""
    records = labelled.records
    unseen = np.array([_held_out(task) for task in records.tasks])
    part = folds(records, PARTS)

    def taken(among: np.ndarray) -> Labelled:
        return labelled.take(np.flatnonzero(among))

    return Plan(
        taken(~unseen & np.isin(part, TRAIN)),
        taken(~unseen & np.isin(part, CERTIFY)),
        taken(~unseen & ~np.isin(part, (*TRAIN, *CERTIFY))),
        taken(~unseen),
        taken(unseen),
    )


def _held_out(task: str) -> bool:
    family = task.partition("/")[0] if is_exam(task) else task
    return int.from_bytes(sha256(family.encode()).digest()[:8]) % UNSEEN_OF == 0
