"""Where scenarios take lengths and arrivals from: public traces, or synthetic ones like them.

With a folder of data, the Azure LLM inference traces of 2023 (CC-BY-4.0); without, requests drawn
from the quantiles that those traces have. Times are seconds, sizes tokens.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from loadgen.records import TraceRequest
from loadgen.traces import read_trace

_FILES = {
    "code": "AzureLLMInferenceTrace_code.csv",
    "conversation": "AzureLLMInferenceTrace_conv.csv",
}
_SHARES = {"code": 0.31, "conversation": 0.69}  # of the requests of both traces
_SHARES_BELOW = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
# Prompt and output tokens below which these shares of the requests lie; to see them:
#   sorted(int(row["ContextTokens"]) for row in csv.DictReader(file))[int(share * (rows - 1))]
_QUANTILES = {
    "code": ((3, 147, 1469, 5186, 7436, 7437), (6, 7, 13, 55, 249, 1899)),
    "conversation": ((2, 207, 1020, 2734, 4142, 14050), (7, 54, 129, 424, 601, 1000)),
}
_BURSTINESS = 2.0  # coefficient of variation of the gaps between synthetic arrivals
_THINNED_RATE = 1.7  # requests/s
_STEP = 0.37  # of the trace, from one seed's part of it to the next one's
LONGEST_PROMPT = 8192


@dataclass(frozen=True, slots=True)
class Source:
    """Requests of two production apps, ``code`` and ``conversation``."""

    traces: Path | None = None
    """Folder of the Azure CSV files; ``None`` or not there: synthetic."""

    def azure(self, n: int, seed: int) -> list[TraceRequest]:
        """``n`` requests of both apps, from another part of the trace by seed.

        The trace is thinned, not slowed, to about the rate that one of our engines serves, so its
        bursts last as long as they did.
        """
        both = sorted(self._merged(), key=lambda request: request.at_s)
        if len(both) <= n:
            return _synthetic(n, seed)
        random = Random(f"azure {seed}")  # noqa: S311  reproducible load
        size = min(len(both), round(n * len(both) / both[-1].at_s / _THINNED_RATE))
        first = int((seed * _STEP % 1.0) * (len(both) - size))
        chosen = sorted(random.sample(range(first, first + size), n))
        return [_trimmed(both[k], both[chosen[0]].at_s) for k in chosen]

    def lengths(self, app: str, n: int, seed: int) -> list[tuple[int, int]]:
        """Prompt and output lengths of ``n`` requests of one app."""
        random = Random(f"lengths {app} {seed}")  # noqa: S311  reproducible load
        known = [request for request in self._merged() if request.app == app]
        if not known:
            return [_drawn(app, random) for _ in range(n)]
        chosen = (_trimmed(request, 0.0) for request in random.choices(known, k=n))
        return [(request.prompt_tokens, request.output_tokens) for request in chosen]

    def _merged(self) -> list[TraceRequest]:
        if self.traces is None:
            return []
        files = {app: self.traces / name for app, name in _FILES.items()}
        if not all(file.is_file() for file in files.values()):
            return []
        return [replace(r, app=app) for app, file in files.items() for r in read_trace(file)]


def find_traces(data: Path | None) -> Path | None:
    """The folder of traces in ``data``, else in ``$FAIRGATE_DATA``; ``None``: none."""
    named = os.environ.get("FAIRGATE_DATA")
    for folder in [data] if data else [Path(named)] if named else []:
        for place in (folder / "traces", folder):
            if all((place / name).is_file() for name in _FILES.values()):
                return place
    return None


def _trimmed(request: TraceRequest, start_s: float) -> TraceRequest:
    return replace(
        request,
        at_s=request.at_s - start_s,
        prompt_tokens=max(1, min(request.prompt_tokens, LONGEST_PROMPT)),
        output_tokens=max(1, request.output_tokens),
    )


def _synthetic(n: int, seed: int) -> list[TraceRequest]:
    random = Random(f"azure {seed}")  # noqa: S311  reproducible load
    shape = 1 / _BURSTINESS**2
    requests, at_s = [], 0.0
    for _ in range(n):
        app = random.choices(list(_SHARES), list(_SHARES.values()))[0]
        requests.append(TraceRequest(at_s, *_drawn(app, random), app=app))
        at_s += random.gammavariate(shape, 1 / shape)
    return requests


def _drawn(app: str, random: Random) -> tuple[int, int]:
    """A long prompt does not go with a long answer: both are drawn on their own."""
    prompts, outputs = _QUANTILES[app]
    prompt = min(_quantile(prompts, random.random()), LONGEST_PROMPT)
    return prompt, _quantile(outputs, random.random())


def _quantile(values: Sequence[int], share: float) -> int:
    upper = max(1, bisect_left(_SHARES_BELOW, share))
    low, high = _SHARES_BELOW[upper - 1], _SHARES_BELOW[upper]
    part = (share - low) / (high - low)
    return max(1, round(values[upper - 1] + part * (values[upper] - values[upper - 1])))
