"""fairgate: multi-tenant fairness for LLM serving.

The public door: what is named here stays; everything else may move.
"""

from fairgate.config import Config, Route, RouteCost
from fairgate.config.reading import load as load_config
from fairgate.errors import (
    AdminError,
    ArtifactError,
    BadGateway,
    BadRequest,
    BodyTooLarge,
    ConfigError,
    Conflict,
    EngineError,
    EngineStartError,
    EngineUnreachable,
    FairgateError,
    Forbidden,
    GatewayTimeout,
    Invalid,
    MethodNotAllowed,
    NoEngine,
    NotFound,
    PreconditionFailed,
    QueueTimeout,
    RecordsError,
    Refusal,
    StoreError,
    Throttled,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
    WorkerStartError,
)
from fairgate.gateway.app import Gateway
from fairgate.identity import Identity, Principal
from fairgate.metering import Measured
from fairgate.middleware import FairGate
from fairgate.runtime import Runtime
from fairgate.ticket import Ticket
from fairgate.usage import Usage

__all__ = [
    "AdminError",
    "ArtifactError",
    "BadGateway",
    "BadRequest",
    "BodyTooLarge",
    "Config",
    "ConfigError",
    "Conflict",
    "EngineError",
    "EngineStartError",
    "EngineUnreachable",
    "FairGate",
    "FairgateError",
    "Forbidden",
    "Gateway",
    "GatewayTimeout",
    "Identity",
    "Invalid",
    "Measured",
    "MethodNotAllowed",
    "NoEngine",
    "NotFound",
    "PreconditionFailed",
    "Principal",
    "QueueTimeout",
    "RecordsError",
    "Refusal",
    "Route",
    "RouteCost",
    "Runtime",
    "StoreError",
    "Throttled",
    "Ticket",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedEncoding",
    "Usage",
    "WorkerStartError",
    "load_config",
]
