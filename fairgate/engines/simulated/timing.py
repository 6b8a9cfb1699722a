"""How long one engine step takes: linear in what the step computes.

    step = base + per_prefill_token · prefill tokens + per_sequence · decoding sequences
                + per_kv_token · KV tokens that the batch attends to

Everything is whole nanoseconds, so sums do not depend on the order in which steps are added up and
a simulation is the same to the byte on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class TimingProfile:
    """Coefficients of the step time, in nanoseconds."""

    base_ns: int
    per_prefill_token_ns: int
    per_sequence_ns: int
    per_kv_token_ns: int

    def step_ns(self, prefill_tokens: int, decoding: int, kv_tokens: int) -> int:
        """Duration of one step that computes so much."""
        return (
            self.base_ns
            + self.per_prefill_token_ns * prefill_tokens
            + self.per_sequence_ns * decoding
            + self.per_kv_token_ns * kv_tokens
        )

    def at_speed(self, speed: float) -> TimingProfile:
        """The same engine ``speed`` times as fast (2.0 halves every step)."""
        if not speed > 0:
            raise ValueError(f"speed: expected a number > 0, got {speed}")
        return TimingProfile(
            base_ns=round(self.base_ns / speed),
            per_prefill_token_ns=round(self.per_prefill_token_ns / speed),
            per_sequence_ns=round(self.per_sequence_ns / speed),
            per_kv_token_ns=round(self.per_kv_token_ns / speed),
        )


# cpu-small: vLLM 0.32 (CPU build) with SmolLM2-135M-Instruct on two cores makes 51 tokens/s alone
# and 450 tokens/s with 64 sequences at once, hence 19.6 ms and 142 ms per step. KV tokens cost what
# reading their 23 KB takes (30 layers · 3 KV heads · 64 · 2 · 2 bytes, at 10 GB/s); a prefill token
# is set to about a third of a decoded one, since its weights are read once per chunk.
_CPU_SMALL: Final = TimingProfile(17_650_000, 600_000, 1_700_000, 2_300)

# a100-70b, h100-70b: llama2-70b at tensor parallel 8, from SageServe's perf_model.csv (MIT;
# hardware a100-80gb and h100-80gb, 105 rows each), by ordinary least squares in two passes:
#   token_time  = base + per_sequence·batch + per_kv·batch·(prompt_size + token_size/2)
#   prompt_time = base + per_prefill·prompt_size·batch    with that base, rows up to 8,192 tokens
# since no step prefills more than max_num_batched_tokens. R²: decode 0.960 and 0.968, prefill 0.941
# and 0.972. To fit again, with numpy, r the selected rows and its columns as arrays in seconds:
#   x = np.c_[np.ones(len(r)), batch, batch * (prompt + token / 2)]
#   base, seq, kv = np.linalg.lstsq(x, token_time)[0]
#   few = prompt * batch <= 8192; n = (prompt * batch)[few]
#   per_prefill = n @ (prompt_time[few] - base) / (n @ n)
_A100_70B: Final = TimingProfile(44_090_538, 197_721, 211_076, 321)
_H100_70B: Final = TimingProfile(29_825_146, 91_682, 207_735, 173)

PROFILES: Final[Mapping[str, TimingProfile]] = MappingProxyType(
    {
        "instant": TimingProfile(1_000, 0, 0, 0),
        "cpu-small": _CPU_SMALL,
        # Qwen2.5-Coder-0.5B-Instruct on the same two cores is about three times slower.
        "cpu-large": _CPU_SMALL.at_speed(1 / 3),
        "a100-70b": _A100_70B,
        "h100-70b": _H100_70B,
    }
)
