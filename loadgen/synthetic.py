"""A trace from a name instead of a file: ``synthetic:rate=5,duration=60,prompt=128,output=64``."""

from __future__ import annotations

import math
from random import Random

from loadgen.errors import TraceError
from loadgen.records import TraceRequest

_DEFAULTS = {
    "rate": 1.0,  # mean requests/s
    "duration": 60.0,  # s
    "prompt": 128.0,  # mean tokens
    "output": 64.0,  # mean tokens
    "cv": 1.0,  # burstiness: coefficient of variation of the gaps; 0 even, 1 Poisson
    "spread": 0.5,  # sigma of the log-normal token lengths; 0 all alike
    "seed": 0.0,
}


def synthesise(name: str) -> list[TraceRequest]:
    """Draw gamma-distributed gaps and log-normal lengths; the same name gives the same trace."""
    settings = _settings(name)
    random = Random(settings["seed"])  # noqa: S311  reproducible load, not a secret
    requests = []
    at_s = 0.0
    while at_s < settings["duration"]:
        prompt_tokens = _length(random, settings["prompt"], settings["spread"])
        output_tokens = _length(random, settings["output"], settings["spread"])
        requests.append(TraceRequest(at_s, prompt_tokens, output_tokens))
        at_s += _gap(random, settings["rate"], settings["cv"])
    return requests


def _settings(name: str) -> dict[str, float]:
    settings = dict(_DEFAULTS)
    for part in filter(None, name.removeprefix("synthetic:").split(",")):
        key, _, value = part.partition("=")
        try:
            if key not in _DEFAULTS or not math.isfinite(number := float(value)) or number < 0:
                raise ValueError
        except ValueError:
            expected = ", ".join(_DEFAULTS)
            raise TraceError(
                f"{name}: {part!r}: expected NAME=NUMBER, not negative, with a name of {expected}"
            ) from None
        settings[key] = number
    if settings["rate"] == 0:
        raise TraceError(f"{name}: rate: expected requests/s > 0, got 0")
    return settings


def _gap(random: Random, rate: float, cv: float) -> float:
    if cv == 0:
        return 1 / rate
    shape = 1 / cv**2
    return random.gammavariate(shape, 1 / (rate * shape))


def _length(random: Random, mean: float, spread: float) -> int:
    return max(1, round(mean * random.lognormvariate(-(spread**2) / 2, spread)))
