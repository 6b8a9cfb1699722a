"""Every exception that fairgate raises, as one tree.

FairgateError
├── ConfigError            the configuration file is wrong; names the path and the value
├── RecordsError           records for the router are malformed; names the line and the field
├── ArtifactError          a router's artefact is missing, damaged or of another version
├── AdminError             a gateway's admin API refused, or does not answer
├── StoreError             Redis/Valkey did not answer, or refused
├── EngineStartError       an engine of ours did not come up
├── WorkerStartError       a worker process of ours did not come up
├── EngineError            an engine failed while it served a request
│   └── EngineUnreachable  it did not even take the request
└── Refusal                a request is answered by fairgate itself, not by an engine
    ├── BadRequest         400  a field that fairgate reads is malformed or out of range
    ├── Unauthenticated    401  no key, or an unknown one
    ├── Forbidden          403  the key may not do this
    ├── NotFound           404  unknown route or model
    ├── MethodNotAllowed   405  the route exists, for other methods
    ├── Conflict           409  the admin API: what is there does not allow the change
    ├── PreconditionFailed 412  the admin API: it changed since the client looked
    ├── Invalid            422  the admin API: fields of the body, each with its problem
    ├── BodyTooLarge       413
    ├── UnsupportedEncoding 415 the body is compressed
    ├── Throttled          429  a rate limit under overload, a hard quota, or a full line
    ├── QueueTimeout       429  the queue deadline passed before capacity came free
    ├── BadGateway         502  the engine failed
    ├── GatewayTimeout     504  the engine sent nothing in time
    └── Unavailable        503  store closed, or draining
        └── NoEngine       503  no healthy engine for the model
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairgate.headers import LimitView
    from fairgate.identity import Principal


class FairgateError(Exception):
    """Base of everything that fairgate raises on purpose."""


class ConfigError(FairgateError):
    """The configuration is wrong. ``str(error)`` lists every problem, one per line."""

    def __init__(self, problems: list[str], *, source: str = "") -> None:
        self.problems = problems
        self.source = source
        super().__init__("\n".join(f"{source}: {p}" if source else p for p in problems))


class RecordsError(FairgateError):
    """Records of models' outcomes are malformed; names the file, the line, the field, the value."""


class ArtifactError(FairgateError):
    """A router's artefact is missing, damaged or of another version; names the field and value."""


class AdminError(FairgateError):
    """A gateway's admin API refused, or does not answer; says why, a field a line."""


class StoreError(FairgateError):
    """The store (Redis, Valkey) is away, timed out, or answered with an error.

    ``sent``: the call may have run all the same.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.waited_s = 0.0
        """Seconds that the request had stood in line."""


class EngineStartError(FairgateError):
    """An engine of ours did not come up; the message says why, or what its log ended with."""


class WorkerStartError(FairgateError):
    """A worker process ended before it served; its own log lines say why."""


class EngineError(FairgateError):
    """An engine failed while it served a request; the message is short and fit for clients."""


class EngineUnreachable(EngineError):
    """It cannot be reached at all: the request was not taken."""


class Refusal(FairgateError):
    """A request that fairgate answers itself.

    ``code`` is the machine-readable reason in the OpenAI error object, ``param`` the request field
    at fault, ``retry_after`` the seconds after which a retry makes sense (jitter is added when the
    header is written).
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after
        self.limits: LimitView | None = None
        """What is left of the caller's limits, for the headers."""


class BadRequest(Refusal):
    """A field that fairgate itself reads is malformed or out of range; ``param`` names it."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(Refusal):
    """No API key was sent, or nobody owns it."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(Refusal):
    """The key is known but may not do this."""

    status = 403
    type = "permission_error"
    code = "forbidden"
    principal: Principal | None = None
    """Whose key it is, for the log."""


class NotFound(Refusal):
    """No such route or model."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(Refusal):
    """The route exists, for other methods."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(Refusal):
    """What is there does not allow the change."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class PreconditionFailed(Refusal):
    """The object changed since the client looked at it (``If-Match``)."""

    status = 412
    type = "invalid_request_error"
    code = "precondition_failed"


class Invalid(Refusal):
    """What was sent is wrong; ``problems`` says each field and its value."""

    status = 422
    type = "invalid_request_error"
    code = "invalid"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems), param=self.problems[0].partition(":")[0])


class BodyTooLarge(Refusal):
    """The body exceeds ``server.max_body_bytes``."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedEncoding(Refusal):
    """The body is compressed: how large it is nobody knows before it is unpacked."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class Throttled(Refusal):
    """A limit refused the request. ``limit`` names it, such as ``tenant.rpm`` or ``queue``."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: str, retry_after: float, code: str | None = None):
        super().__init__(message, code=code, retry_after=retry_after)
        self.limit = limit


class QueueTimeout(Refusal):
    """The request waited for its whole queue deadline and capacity did not come free."""

    status = 429
    type = "rate_limit_error"
    code = "queue_timeout"


class BadGateway(Refusal):
    """The engine could not be reached, or broke off."""

    status = 502
    type = "server_error"
    code = "engine_failed"


class GatewayTimeout(Refusal):
    """The engine sent nothing in time."""

    status = 504
    type = "server_error"
    code = "engine_timeout"


class Unavailable(Refusal):
    """Nothing can serve the request now: store closed, or draining."""

    status = 503
    type = "server_error"
    code = "unavailable"


class NoEngine(Unavailable):
    """No lane that may serve the request has an engine that is up."""

    code = "no_healthy_engine"
