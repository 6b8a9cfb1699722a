"""Who sends the load: the tenants of SPEC, their shares, users and skew.

SPEC is a YAML file ::

    tenants:
      acme:    {key: "${ACME_KEY}", share: 2, weight: 2, app: chat, users: 20}
      initech: {key: fg-demo-initech}

or, inline, ``acme=KEY:2,initech=KEY`` (name=key, then optionally the share of requests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from os.path import expandvars
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Annotated

import msgspec

from loadgen.errors import SpecError

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tenant as SPEC describes it."""

    key: str
    share: Positive | None = None
    """Of the requests, relative to the other tenants; ``None``: by the skew."""
    weight: Positive = 1.0
    """Its weight at the target; the fairness metrics divide by it."""
    app: str | None = None
    """Sent as ``X-Fairgate-App``; ``None``: the app of the trace, if it names one."""
    users: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Distinct users, sent as ``X-Fairgate-User``; 0 sends none."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tenants: dict[str, Tenant]


def read_tenants(spec: str) -> dict[str, Tenant]:
    """Read SPEC: a YAML file if there is one of that name, else the inline form."""
    if Path(spec).is_file():
        tenants = _read_file(Path(spec))
    elif "=" in spec:
        tenants = _read_inline(spec)
    else:
        raise SpecError(f"--tenants {spec}: neither a file nor NAME=KEY[:SHARE],…")
    if not tenants:
        raise SpecError(f"--tenants {spec}: expected at least one tenant")
    return tenants


def _read_file(path: Path) -> dict[str, Tenant]:
    try:
        text = expandvars(path.read_text())
        tenants = msgspec.yaml.decode(text, type=_File).tenants
    except (OSError, ValueError) as error:
        raise SpecError(f"--tenants {path}: {error}") from error
    for name, tenant in tenants.items():
        if tenant.key.startswith("${"):
            raise SpecError(f"--tenants {path}: tenants.{name}.key: {tenant.key} is not set")
    return tenants


def _read_inline(spec: str) -> dict[str, Tenant]:
    tenants: dict[str, Tenant] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, _, rest = part.partition("=")
        key, _, number = rest.rpartition(":")
        if not key:
            key, number = rest, ""
        if not (name and key) or name in tenants:
            raise SpecError(f"--tenants: {name or part}: expected NAME=KEY[:SHARE], each name once")
        share = _positive(f"--tenants: {name}: share", number) if number else None
        tenants[name] = Tenant(key=key, share=share)
    return tenants


def read_weights(text: str, tenants: Mapping[str, Tenant]) -> dict[str, float]:
    """Weight of each tenant: from ``NAME=WEIGHT,…`` if given there, else from SPEC."""
    weights = {name: tenant.weight for name, tenant in tenants.items()}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in tenants:
            raise SpecError(f"--weights: {name}: not a tenant; they are {', '.join(tenants)}")
        weights[name] = _positive(f"--weights: {name}", number)
    return weights


@dataclass(frozen=True, slots=True)
class Skew:
    """How unequal tenants without a share, and users within a tenant, are.

    ``none``; ``zipf:S``: the k-th gets 1/k^S; ``lognormal:SIGMA``: quantiles of a log-normal.
    Request rates of ServeGen's 43 m-small clients (arXiv 2505.09999) have SIGMA = 2.7.
    """

    kind: str = "none"
    parameter: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Skew:
        """Read ``none``, ``zipf[:S]`` or ``lognormal[:SIGMA]``."""
        kind, _, number = text.partition(":")
        if kind not in ("none", "zipf", "lognormal") or (kind == "none" and number):
            raise SpecError(f"--skew {text}: expected none, zipf[:S] or lognormal[:SIGMA]")
        return cls(kind, _positive(f"--skew {kind}", number) if number else 1.0)

    def shares(self, n: int) -> list[float]:
        """Shares of ``n`` members, largest first, with mean 1."""
        raw = [self._raw(rank, n) for rank in range(n)]
        total = sum(raw)
        return [share * n / total for share in raw]

    def _raw(self, rank: int, n: int) -> float:
        if self.kind == "zipf":
            return float((rank + 1) ** -self.parameter)
        if self.kind == "lognormal":
            return math.exp(self.parameter * NormalDist().inv_cdf(1 - (rank + 0.5) / n))
        return 1.0


class Population:
    """Draws the tenant and the user of each request; same seed, same draws."""

    def __init__(self, tenants: Mapping[str, Tenant], skew: Skew, seed: int) -> None:
        self._names = list(tenants)
        self._cumulative = list(accumulate(_shares(tenants, skew)))
        self._users = {
            name: list(accumulate(skew.shares(tenant.users))) for name, tenant in tenants.items()
        }
        self._seed = seed
        self._random = Random(f"population {seed}")  # noqa: S311  reproducible load

    def draw(self, session: str | None) -> tuple[str, str | None]:
        """Tenant and user of the next request; those of one session are the same."""
        random = self._random
        if session is not None:
            random = Random(f"session {self._seed} {session}")  # noqa: S311
        tenant = random.choices(self._names, cum_weights=self._cumulative)[0]
        return tenant, self.draw_user(tenant, random)

    def draw_user(self, tenant: str, random: Random) -> str | None:
        """A user of ``tenant``, drawn with ``random``; ``None`` when it has none."""
        users = self._users[tenant]
        if not users:
            return None
        return f"{tenant}-user-{random.choices(range(len(users)), cum_weights=users)[0]}"


def _shares(tenants: Mapping[str, Tenant], skew: Skew) -> list[float]:
    """Given shares as they are; the others by the skew, with mean 1."""
    open_shares = iter(skew.shares(sum(tenant.share is None for tenant in tenants.values())))
    return [
        tenant.share if tenant.share is not None else next(open_shares)
        for tenant in tenants.values()
    ]


def _positive(where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise SpecError(f"{where}: expected a number > 0, got {text!r}")
    return number
