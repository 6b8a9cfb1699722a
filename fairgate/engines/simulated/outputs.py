"""What the simulated model says: how many tokens, which words, or which tool call.

All of it follows from the engine's seed and the prompt, so the same request gets the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from math import exp
from statistics import NormalDist
from typing import Any, Final, Literal

import orjson

from fairgate.engines.simulated.scheduler import Sequence

BYTES_PER_TOKEN: Final = 4
FinishReason = Literal["stop", "length"]

# Chat answers are roughly lognormal: median 120 tokens, nine in ten below 335.
_LOG_LENGTH: Final = NormalDist(mu=4.787, sigma=0.8)
_SYLLABLES: Final = tuple(c + v for c, v in product("bdklmnprst", "aeiou"))
_WORDS: Final = tuple(f" {a}{b}" for a, b in product(_SYLLABLES, _SYLLABLES[::3]))


def count_tokens(data: bytes) -> int:
    """Tokens of a text: one per four bytes, at least one."""
    return max(1, -(-len(data) // BYTES_PER_TOKEN))


def fingerprint(seed: int, data: bytes) -> bytes:
    """Eight bytes that stand for a text under a seed."""
    return blake2b(data, digest_size=8, key=seed.to_bytes(8, "big", signed=True)).digest()


def draw_length(chance: bytes) -> int:
    """Output tokens that the model would choose, from a fingerprint."""
    uniform = (int.from_bytes(chance, "big") + 0.5) / 2**64
    return max(1, round(exp(_LOG_LENGTH.inv_cdf(uniform))))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call as the answer; its first token names it, the others spell the arguments."""

    id: str
    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        """Output tokens of the whole call."""
        return 1 + count_tokens(self.arguments.encode())

    def piece(self, start: int, count: int) -> str:
        """The part of the arguments that tokens ``start`` to ``start + count`` spell."""
        return self.arguments[max(0, start - 1) * 4 : max(0, start + count - 1) * 4]


@dataclass(slots=True)
class Output:
    """One choice of an answer: its sequence in the engine and what its tokens spell."""

    sequence: Sequence
    finish_reason: FinishReason
    start: int = 0
    stride: int = 1
    call: ToolCall | None = None
    with_logprobs: bool = False
    """They were asked for."""

    def logprobs(self, start: int, count: int) -> list[tuple[str, float]]:
        """Tokens ``start`` to ``start + count`` with their log-probabilities, -3 to 0.

        Some outputs are surer than others, so their means differ.
        """
        level = 0.5 + self.start % 256 / 256
        return [
            (self.piece(i, 1), -level * ((i * self.stride) % 33) / 16)
            for i in range(start, start + count)
        ]

    def piece(self, start: int, count: int) -> str:
        """The text of tokens ``start`` to ``start + count``; plain ASCII words unless a call."""
        if self.call:
            return self.call.piece(start, count)
        words, size = _WORDS, len(_WORDS)
        first, stride = self.start, self.stride
        text = "".join([words[(first + i * stride) % size] for i in range(start, start + count)])
        return text if start else text.lstrip()

    @property
    def text(self) -> str:
        """All of it."""
        return self.piece(0, self.sequence.output_tokens)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The request's say in the length of its outputs. ``cap`` is what still fits, in tokens."""

    cap: int
    min_tokens: int = 0
    ignore_eos: bool = False

    def length(self, wanted: int) -> tuple[int, FinishReason]:
        """Output tokens and why they end there."""
        if self.ignore_eos:
            return self.cap, "length"
        wanted = max(wanted, self.min_tokens)
        return (wanted, "stop") if wanted < self.cap else (self.cap, "length")


def plan_outputs(
    prompt: bytes,
    sampling: Sampling,
    *,
    name: str,
    seed: int,
    n: int = 1,
    priority: int = 0,
    arrival: float = 0,
    prompt_tokens: int | None = None,
    call: ToolCall | None = None,
    with_logprobs: bool = False,
) -> list[Output]:
    """The ``n`` outputs of one prompt; all but the first find the prompt's KV already computed."""
    tokens = prompt_tokens or count_tokens(prompt)
    identity = fingerprint(seed, prompt)
    outputs = []
    for index in range(n):
        chance = fingerprint(index, identity)
        length, reason = sampling.length(call.tokens if call else draw_length(chance))
        sequence = Sequence(
            id=f"{name}-{index}",
            prompt_tokens=tokens,
            output_tokens=length,
            priority=priority,
            arrival=arrival,
            cached_tokens=tokens - 1 if index else 0,
        )
        start, stride = chance[0] * 7, 1 + 2 * chance[1]
        outputs.append(Output(sequence, reason, start, stride, call, with_logprobs))
    return outputs


def arguments_for(schema: Mapping[str, Any]) -> str:
    """JSON arguments that satisfy the required fields of a function's parameter schema."""
    return orjson.dumps(_example(schema)).decode() if schema else "{}"


def _example(schema: Mapping[str, Any]) -> Any:
    if "const" in schema or schema.get("enum"):
        return schema.get("const", (schema.get("enum") or [None])[0])
    for variants in ("anyOf", "oneOf", "allOf"):
        if schema.get(variants):
            return _example(schema[variants][0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    match kind:
        case "object" | "dict":
            properties = schema.get("properties", {})
            required = schema.get("required", ())
            return {name: _example(properties.get(name, {})) for name in required}
        case "array" | "list":
            return [_example(schema.get("items", {}))] * int(schema.get("minItems", 1))
        case "integer" | "number" | "float":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
    return "x" * max(int(schema.get("minLength", 0)) - 4, 0) + "text"
