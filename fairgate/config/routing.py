"""The configuration of the difficulty router: section ``routing`` of a pool."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fairgate.config.base import Base, Count, NonNegative, Positive, Share
from fairgate.config.sampling import BestRoute

OpenShare = Annotated[float, Meta(gt=0, lt=1)]

RouterName = Literal["auto", "most-free", "price-order", "hybrid", "best-route", "mess-plus"]


class RouterChoice(Base, frozen=True):
    """Which router decides, and by what."""

    router: RouterName = "auto"
    """``auto``: ``hybrid`` where the artefact knows every lane's model, else ``price-order``."""
    artifact: str | None = None
    """File of a trained artefact; ``None``: the one that fairgate comes with."""


class Trial(RouterChoice, frozen=True):
    """A second router that decides for a share of the interactions."""

    share: Share = 0.1


class MessPlus(Base, frozen=True):
    """Settings of the router ``mess-plus``."""

    cost: Literal["price", "energy", "latency"] = "price"
    """What it saves: the lanes' ``price``, their ``energy``, or their measured seconds."""
    thrift: Positive = 3.0
    """V: the weight of costs against debt, with the dearest lane's cost as 1. A lane likelier to
    satisfy by d is worth the whole of it once the tenant is owed V / d requests. Larger is cheaper,
    and slower to make good what was missed."""
    exploration: NonNegative = 0.1
    """c: request t explores with probability c / t^(1/4)."""


class Record(Base, frozen=True):
    """Writes decisions and outcomes of live traffic, as JSON lines."""

    file: str | None = None
    """``None``: only while ``fairgate router record`` asks for them."""
    share: Share = 1.0
    """Of the interactions, and of the requests that belong to none."""
    prompts: bool = False
    """Also the text of prompts, which training needs. Without it nothing that a client wrote leaves
    the gateway, whoever asks."""
    max_bytes: Count = 256 * 1024 * 1024
    """At this size the file is set aside as FILE.1, in place of the one before."""


class Drift(Base, frozen=True):
    """When the artefact's predictions count as no longer true."""

    window: Count = 500
    """Requests with feedback, of one lane, that are compared with what was predicted for them."""
    tolerance: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Difference of the two means that is an alarm once chance does not explain it."""


Check = Literal["finished", "json"]


class Judge(Base, frozen=True):
    """A service that says how good an answer is.

    It is sent ``{"prompt", "answer", "model"}`` as JSON and answers ``{"score": 0..1}``. Streams
    are not judged: nobody keeps them.
    """

    url: str
    share: Share = 0.05
    """Of the requests."""
    timeout_s: Positive = 60.0


class Routing(RouterChoice, frozen=True):
    """How the lane of a request with ``model: auto`` is chosen."""

    quality: Share | None = None
    """The quality knob where neither request nor tenant names one."""
    drop: OpenShare | None = None
    """Largest loss of quality, certified by ``fairgate router calibrate``, where nobody names a
    quality; ``None``: they get quality 0.5."""
    satisfaction: OpenShare = 0.8
    """Of tenants who have none of their own."""
    sticky: bool = True
    """An interaction stays on its lane until a call is too difficult for it."""
    overflow: bool = True
    """A dearer lane with room takes what the chosen one has no room for."""
    best_route: BestRoute = BestRoute()
    mess_plus: MessPlus = MessPlus()
    shadow: RouterChoice | None = None
    """Decides as well, is counted and logged, and is not obeyed."""
    trial: Trial | None = None
    record: Record | None = None
    drift: Drift = Drift()
    checks: tuple[Check, ...] = ()
    """Feedback that an answer gives by itself, unless it is a stream: ``finished``, 0 if it is
    empty or was cut off at its longest; ``json``, whether it is JSON where that was asked for."""
    judge: Judge | None = None
    feedback_s: Positive = 3600.0
    """How long after its answer a request may be given feedback."""
    max_pending: Count = 10_000
    """Requests of one tenant that wait for feedback; beyond it the oldest is forgotten."""
