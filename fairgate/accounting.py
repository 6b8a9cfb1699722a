"""What a request will cost and what it did: token estimates before, service units after.

Sizes are tokens unless they say bytes. Service is DESIGN.md §2's unit, after VTC (arXiv 2401.00588)
and FairServe (arXiv 2411.15997).
"""

from __future__ import annotations

import math
from typing import Protocol

from msgspec import Struct

from fairgate import tokenizer as tokenizers
from fairgate.codec import Call
from fairgate.config import App
from fairgate.prompt import MESSAGE_TOKENS, texts

BYTES_PER_TOKEN = 4.0
"""Bytes of request JSON per prompt token, before an app's own ratio is learned."""

EXACT_BYTES = 8 * 1024
"""Prompts up to this size are tokenized (half a millisecond); larger ones are told by ratio."""

MIN_SAMPLES = 20
"""Settled requests after which an app's learned output length is trusted."""


class AppProfile(Struct, frozen=True):
    """What the ledger learned about an app from its settled requests."""

    app: str
    samples: int = 0
    mean_cost: float = 0.0
    """Service units of a typical request: the ``W_a`` of FairServe."""
    output_quantile: float = 0.0
    """The policy's quantile of output tokens per choice."""
    bytes_per_token: float = BYTES_PER_TOKEN
    """``Call.prompt_bytes`` per prompt token."""


class Estimate(Struct, frozen=True, gc=False):
    """What a request is expected to take, charged and reserved at admission."""

    prompt_tokens: int
    """System tokens included."""
    system_tokens: int
    output_tokens: int
    """Of each choice."""
    choices: int

    @property
    def total_output_tokens(self) -> int:
        """Of all choices."""
        return self.output_tokens * self.choices

    @property
    def tokens(self) -> int:
        """Prompt and output: what token limits count."""
        return self.prompt_tokens + self.output_tokens * self.choices

    @property
    def kv_tokens(self) -> int:
        """Cache that it fills at most; choices share their prompt's."""
        return self.prompt_tokens + self.output_tokens * self.choices


class TokenEstimator:
    """Counts prompt tokens: by ``ratio``, a tiktoken encoding, or a ``tokenizer.json``.

    The constructor loads the tokenizer and may block; it raises ``ConfigError``.
    """

    def __init__(self, tokenizer: str = "ratio", *, exact_bytes: int = EXACT_BYTES) -> None:
        self._encoding = None if tokenizer == "ratio" else tokenizers.load(tokenizer)
        self._exact_bytes = exact_bytes

    def count(self, call: Call, bytes_per_token: float = BYTES_PER_TOKEN) -> int:
        """Tokens of the prompt, at least 1."""
        tokens = call.prompt_token_ids
        if tokens is None:
            tokens = self._tokenized(call)
        if tokens is None:
            tokens = math.ceil(call.prompt_bytes / max(bytes_per_token, 0.1))
        return tokens or 1

    def _tokenized(self, call: Call) -> int | None:
        """``None`` where the ratio must do: no tokenizer, a large prompt, or not only text."""
        if self._encoding is None:
            return None
        size = max(call.prompt_bytes, len(call.prompt))  # either is larger: tools, or inline images
        if size > self._exact_bytes:
            return None
        data = bytes(call.prompt)
        parts = texts(data)
        if parts is None:
            return None
        # Tools and instructions go into the prompt much as they were sent.
        beside = max(call.prompt_bytes - len(data), 0) / BYTES_PER_TOKEN
        overhead = 0 if call.route == "completions" else MESSAGE_TOKENS * len(parts)
        encode = self._encoding.encode_ordinary
        return sum(len(encode(part)) for part in parts) + overhead + math.ceil(beside)


class Estimator:
    """Turns a request into an :class:`Estimate`, for the engines of one lane."""

    def __init__(self, tokens: TokenEstimator) -> None:
        self._tokens = tokens

    def estimate(
        self, call: Call, app: App, profile: AppProfile | None, context_tokens: int | None
    ) -> Estimate:
        """``profile``: of ``app``, as far as it is learned; ``context_tokens``: the lane's."""
        ratio = profile.bytes_per_token if profile else BYTES_PER_TOKEN
        prompt = self._tokens.count(call, ratio)
        share = min(call.system_bytes / call.prompt_bytes, 1.0) if call.system_bytes else 0.0
        return Estimate(
            prompt_tokens=prompt,
            system_tokens=round(prompt * share) if share else 0,
            output_tokens=_output(call, app, profile, prompt, context_tokens),
            choices=call.choices,
        )


def _output(
    call: Call, app: App, profile: AppProfile | None, prompt: int, context: int | None
) -> int:
    if call.route == "embeddings":
        return 0
    learned = profile is not None and profile.samples >= MIN_SAMPLES
    output = (
        math.ceil(profile.output_quantile) if learned and profile else app.expected_output_tokens
    )
    if call.max_output_tokens is not None:
        output = min(output, call.max_output_tokens)
    if context is not None:
        output = min(output, context - prompt // call.prompts)
    return max(output, 1)


class Weights(Protocol):
    """Service units per token, from the policy."""

    @property
    def input_weight(self) -> float:
        """Of an uncached prompt token."""

    @property
    def system_weight(self) -> float:
        """Of a system prompt token."""

    @property
    def output_weight(self) -> float:
        """Of a token written."""


def cost(
    weights: Weights,
    *,
    prompt_tokens: int,
    output_tokens: int,
    cached_tokens: int = 0,
    system_tokens: int = 0,
) -> float:
    """Service units: ``w_in·uncached_in + w_sys·system + w_out·out``.

    ``prompt_tokens`` includes system and cached tokens. The system prompt leads, so the prefix
    cache holds it first: what is cached beyond it is taken off the input, and no token counts as
    both. ``output_tokens`` are those of all choices.
    """
    system = system_tokens if system_tokens < prompt_tokens else prompt_tokens
    uncached = prompt_tokens - (cached_tokens if cached_tokens > system else system)
    if uncached < 0:
        uncached = 0
    return (
        weights.input_weight * uncached
        + weights.system_weight * system
        + weights.output_weight * output_tokens
    )
