"""What the store keeps of a routed request until its feedback comes: no text, no user."""

from __future__ import annotations

import msgspec
import numpy as np

from fairgate.routing.predictor import Vector
from fairgate.routing.routed import Outcome, Routed

_FORMAT = "<f2"


class Note(msgspec.Struct, frozen=True, array_like=True):
    """Of one request."""

    lane: str
    router: str
    version: str
    predicted: float | None
    features: bytes
    """Of a router that learns online, float16."""
    recorded: bool

    def vector(self) -> Vector | None:
        """The features as they were learned from; ``None``: the router had none."""
        if not self.features:
            return None
        return np.frombuffer(self.features, _FORMAT).astype(np.float32)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Note).decode


def note_of(routed: Routed, outcome: Outcome, *, recorded: bool) -> Note:
    """What feedback to this request will need."""
    decision = routed.decision
    features = decision.features
    return Note(
        lane=outcome.lane,
        router=decision.router,
        version=decision.version,
        predicted=decision.predicted.get(outcome.lane),
        features=b"" if features is None else features.astype(_FORMAT).tobytes(),
        recorded=recorded,
    )
