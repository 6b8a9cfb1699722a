"""The configuration as typed structs: what may stand in ``fairgate.yaml``.

Field names are those of the file. Units: ``*_s`` seconds, ``*_bytes`` bytes, ``*_tokens`` tokens.
Loading, checking across fields and error messages live in :mod:`fairgate.config.reading`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from fairgate.config.admin import Admin, UsageRecords
from fairgate.config.base import Base, Count, Headroom, Name, NonNegative, Positive, Sha256, Share
from fairgate.config.routing import OpenShare, Routing
from fairgate.config.sampling import BestOf, Cascade
from fairgate.config.server import Breaker, Server, Store, Timeouts
from fairgate.config.tracing import Tracing


class Limits(Base, frozen=True):
    """Rate limits and quotas of one tenant, user or app. ``None``: not limited.

    ``rpm`` and ``tpm`` (requests and tokens per sliding minute) bite only under overload unless the
    policy says ``throttle: always``; ``concurrency`` (requests in flight, waiting ones included)
    and ``daily_tokens`` (per UTC day) are hard and bite always.
    """

    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_tokens: Count | None = None


class RateLimits(Base, frozen=True):
    """Limits of an app, over all tenants: rates only."""

    rpm: Count | None = None
    tpm: Count | None = None


class Key(Base, frozen=True):
    """One API key of a tenant, kept only as the SHA-256 of its text, in lower-case hex."""

    sha256: Sha256
    name: str = ""
    user: str | None = None
    """Pins the user; without it the request names one, else the key itself is the user."""
    apps: tuple[Name, ...] | None = None
    """Apps the key may name; ``None``: those of its tenant. The first one is the default."""


class Tenant(Base, frozen=True):
    """Who pays. A larger ``weight`` means more service."""

    keys: tuple[Key, ...] = ()
    weight: Positive = 1.0
    apps: tuple[Name, ...] = ()
    """Apps that keys of this tenant may name; empty: any configured app."""
    cache_group: Name | None = None
    """Tenants with the same one share what engines keep of prompts (vLLM's prefix cache); ``None``:
    this tenant shares with nobody, so nobody can tell from a quick answer what it asked."""
    limits: Limits = Limits()
    user_limits: Limits = Limits()
    """Limits of each user of the tenant."""
    user_weights: dict[str, Positive] = field(default_factory=dict)
    quality: Share | None = None
    """The quality knob of its requests with ``model: auto`` that name none: 0 is the cheapest lane,
    1 the best one; ``None``: that of the pool."""
    drop: OpenShare | None = None
    """Largest loss of quality, certified by ``fairgate router calibrate``, for its requests with
    ``model: auto`` where neither they nor it names a quality. The router ``hybrid`` keeps it; where
    the artefact promises nothing so strict, the best lane serves. ``None``: that of the pool."""
    satisfaction: OpenShare | None = None
    """Share of its requests with ``model: auto`` that must be answered satisfactorily, as its
    feedback tells; the router ``mess-plus`` keeps it. ``None``: that of the pool."""


class App(Base, frozen=True):
    """A kind of application with its own token profile."""

    limits: RateLimits = RateLimits()
    expected_output_tokens: Count = 256
    """Used until the app's own quantile is learned."""


class Interactions(Base, frozen=True):
    """Bounds of the privilege that a running interaction has."""

    idle_s: Positive = 300.0
    max_calls: Count = 256
    max_tokens: Count = 2_000_000


Order = Literal["fair", "fcfs"]
Throttle = Literal["overload", "always", "never"]
Normalise = Literal["app", "none"]
Levels = Literal["tenant+user", "tenant", "user"]
Preset = Literal["fcfs", "rpm", "vtc", "overload-only", "fairserve"]


class Policy(Base, frozen=True):
    """How the next request is chosen and who is throttled. Unset fields come from ``preset``."""

    preset: Preset = "fairserve"
    order: Order | UnsetType = UNSET
    throttle: Throttle | UnsetType = UNSET
    interaction_aware: bool | UnsetType = UNSET
    normalise_tenant: Normalise | UnsetType = UNSET
    normalise_user: Normalise | UnsetType = UNSET
    levels: Levels | UnsetType = UNSET
    continuation_advantage: NonNegative | UnsetType = UNSET
    """Head start of a running interaction over other users, in typical requests."""
    handicap_s: NonNegative | UnsetType = UNSET
    """In the line of one user, seconds that a request counts as having come later: most of it for
    one that is worth many typical requests with what its interaction will still ask for, little for
    a short one. How far interactions go is learned from those of the same app; where they have one
    call only, all keep their order. More get finished so. 0: continuations come first, then arrival
    decides."""
    idle_credit: NonNegative | UnsetType = UNSET
    """Service below its share that a tenant may save up while idle, in typical requests for each
    sequence of the lane; 0: none, as in VTC."""
    patience_s: NonNegative | UnsetType = UNSET
    """``throttle: overload`` bites once the line takes longer than this to work off: a burst waits,
    a standing queue is cut (RFC 8289 tells them apart so). 0: as soon as a request must wait."""
    backfill: NonNegative = 0.0
    """Service units that may pass a head of line which does not fit; 0 is strict order."""
    input_weight: NonNegative = 1.0
    system_weight: NonNegative = 1.0
    output_weight: NonNegative = 2.0
    output_quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    """Quantile of an app's output lengths that is reserved for a request of unknown length."""
    interactions: Interactions = Interactions()


class Queue(Base, frozen=True):
    """The waiting line of a lane."""

    max_waiting: Annotated[int, Meta(ge=0)] = 10_000
    max_waiting_per_tenant: Annotated[int, Meta(ge=0)] = 4_000
    timeout_s: Positive = 120.0
    """A request that waited so long is answered 429."""
    continuation_timeout_s: Positive = 600.0
    """The same for one that continues an admitted interaction, if longer: refused, all calls before
    it were in vain. The policy's handicap takes half of it at most."""

    @property
    def longest_s(self) -> float:
        """Longest wait of any request."""
        return max(self.timeout_s, self.continuation_timeout_s)


class HttpEngine(Base, frozen=True, tag="http"):
    """Any OpenAI-compatible server that somebody else runs."""

    url: str
    name: Name | None = None
    api_key: str | None = None
    max_num_seqs: Count | None = None
    """Sequences it runs at once; ``None``: 256 until the adaptive limit learns better."""
    kv_cache_tokens: Count | None = None
    """KV tokens it holds; ``None``: as told by ``vllm:cache_config_info``, else not limited."""
    priority: bool = False
    """It runs with ``--scheduling-policy priority``: send a priority from the ledger."""
    cache_salt: bool = True
    """Send vLLM's ``cache_salt``, which keeps tenants' prefix caches apart; ``False``: for servers
    that refuse the field, and where all tenants may share."""
    drained: bool = False
    """It gets no new requests; those that run end by themselves."""


class VllmEngine(Base, frozen=True, tag="vllm"):
    """A vLLM server that fairgate starts, supervises and stops."""

    model: str
    """Path or hub name, given to ``--model``."""
    name: Name | None = None
    port: int | None = None
    """``None``: a free port on the loopback interface."""
    max_num_seqs: Count = 256
    kv_cache_tokens: Count | None = None
    priority: bool = False
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    python: str | None = None
    """Interpreter that has vLLM; ``None``: the one fairgate runs on."""
    start_timeout_s: Positive = 600.0
    drained: bool = False


class InProcessEngine(Base, frozen=True, tag="vllm-inprocess"):
    """vLLM's server as an app inside the gateway's own process: no HTTP between.

    The fields are those of ``vllm``, but for port and interpreter, which it has not.
    """

    model: str
    name: Name | None = None
    max_num_seqs: Count = 256
    kv_cache_tokens: Count | None = None
    priority: bool = False
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    """Set while it starts, so that its engine process has it; engines start one by one."""
    start_timeout_s: Positive = 600.0
    drained: bool = False


class SimulatedEngine(Base, frozen=True, tag="simulated"):
    """The simulated engine, as a process on the loopback interface: for tests, laptops, scale."""

    name: Name | None = None
    port: int | None = None
    max_num_seqs: Count = 16
    kv_cache_tokens: Count = 65_536
    profile: str = "cpu-small"
    """Timing profile: see :mod:`fairgate.engines.simulated.timing`."""
    speed: Positive = 1.0
    """2.0 runs twice as fast as the profile says."""
    seed: int = 0
    drained: bool = False


class AppEngine(Base, frozen=True, tag="app"):
    """The app that a mounted FairGate stands before: it serves what is admitted itself.

    Processes that share a store share its capacity, unless their lanes have different names.
    """

    name: Name | None = None
    max_num_seqs: Count | None = None
    """Requests that it serves at once; ``None``: as it tells, which only a vLLM server does,
    else 256."""
    kv_cache_tokens: Annotated[int, Meta(ge=0)] | None = None
    """KV tokens it holds, 0: not limited; ``None``: as it tells, else not limited."""
    drained: bool = False


Engine = HttpEngine | VllmEngine | InProcessEngine | SimulatedEngine | AppEngine


class Lane(Base, frozen=True):
    """A group of interchangeable engines: one model, one waiting line, one capacity."""

    engines: tuple[Engine, ...]
    model: str | None = None
    """The model name that its engines know; ``None``: the lane's own name."""
    aliases: tuple[str, ...] = ()
    """Further model names that clients may use for this lane."""
    price: Positive = 1.0
    """Multiplies the cost of a token in the ledger."""
    energy: Positive | None = None
    """Joules that a token costs; only the router ``mess-plus`` with ``cost: energy`` reads it."""
    headroom: Headroom = 0.0
    """Share of the lane's sequences kept for tenants who run less than their fair share of it, so
    that they need not wait for a running request to end. Costs throughput while nobody takes it."""
    context_tokens: Count | None = None
    """Longest prompt + output; caps the expected output."""
    tokenizer: str = "ratio"
    """``ratio`` (learned bytes per token), a tiktoken encoding, or a path to a tokenizer.json."""
    queue: Queue = Queue()

    def engines_of(self, name: str) -> dict[str, Engine]:
        """The engines of this lane, which is called ``name``, by what each is called."""
        return {e.name or f"{name}-{place}": e for place, e in enumerate(self.engines)}


class Pool(Base, frozen=True):
    """Lanes that share one fairness ledger."""

    lanes: dict[Name, Lane]
    policy: Policy | Preset = Policy()
    best_of: BestOf | None = None
    """``None``: every request gets the one answer that it asks for."""
    cascade: Cascade | None = None
    routing: Routing | None = None
    """``None``: ``hybrid`` where the shipped artefact knows the model of every lane, else the lane
    with most free capacity."""


Api = Literal["chat", "completions", "embeddings", "responses"]


class RouteCost(Base, frozen=True):
    """Cost of a request without tokens: a sum, in service units."""

    per_request: NonNegative = 0.0
    per_byte: NonNegative = 0.0
    """Of the bodies of request and answer."""
    per_second: NonNegative = 0.0
    """From the grant to the end of the answer."""
    header: str | None = None
    """Header of the app's answer that says further units; clients do not see it."""
    expected: NonNegative = 0.0
    """Charged at admission for what only the answer tells; corrected when it ends."""


class Route(Base, frozen=True):
    """How a mounted FairGate meters a path, or all paths with a prefix, within its app."""

    path: str | None = None
    prefix: str | None = None
    methods: tuple[str, ...] | None = None
    """``None``: POST for an ``api``, any for an exempt route, else all but HEAD and OPTIONS."""
    exempt: bool = False
    """Passes untouched."""
    api: Api | None = None
    """Its bodies are those of this OpenAI API, and tokens are what it costs."""
    cost: RouteCost | None = None
    """``None``, without ``api``: as the app's own function says, else 1 unit for each request."""
    lane: Name | None = None
    """Whose capacity it takes; ``None``: that of the model with ``api``, else the first lane's."""


class Config(Base, frozen=True):
    """The whole file."""

    pools: dict[Name, Pool]
    tenants: dict[Name, Tenant] = field(default_factory=dict)
    apps: dict[Name, App] = field(default_factory=lambda: {"default": App()})
    store: Store = Store()
    server: Server = Server()
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()
    anonymous: Name | None = None
    """Tenant of requests without a known key; ``None``: they are answered 401."""
    routes: tuple[Route, ...] = ()
    """Further routes that a mounted FairGate meters, or leaves out."""
    tracing: Tracing | None = None
    """``None``: no traces; a client's ``traceparent`` goes on to the engine."""
    max_choices: Count = 128
    """Largest ``n`` (and ``best_of``) that a request may ask for."""
    admin: Admin = Admin()
    usage: UsageRecords | None = None
    """``None``: no usage records are kept."""
