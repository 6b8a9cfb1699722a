"""Calls as bytes: what is packed word by word says the same as what is packed at once."""

from __future__ import annotations

from hiredis import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from fairgate.admission.scripts import Script, load_script
from fairgate.admission.words import Words, as_function, as_script, word, words_of

_WORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def _read(data: bytes) -> list[bytes]:
    reader = Reader()
    reader.feed(data)
    command: list[bytes] = reader.gets()
    assert reader.gets() is False, "more than one command"
    return command


@settings(deadline=None)
@given(keys=_WORDS, args=_WORDS)
def test_words_one_by_one_are_the_words_together(keys: list[bytes], args: list[bytes]) -> None:
    single = b"".join(map(word, (*keys, *args)))
    assert words_of(keys, args) == Words(len(keys), len(keys) + len(args), single)


@settings(deadline=None)
@given(keys=_WORDS, args=_WORDS)
def test_a_call_reaches_the_store_as_it_was_made(keys: list[bytes], args: list[bytes]) -> None:
    words, script = words_of(keys, args), load_script("admit")
    rest = [b"%d" % len(keys), *keys, *args]
    assert _read(as_function(script, words)) == [b"FCALL", script.function, *rest]
    assert _read(as_script(script, words, whole=False)) == [b"EVALSHA", script.sha, *rest]
    assert _read(as_script(script, words, whole=True)) == [b"EVAL", script.text, *rest]


def test_words_of_text_and_numbers() -> None:
    words = words_of(("schlüssel",), (1, 0.25, "", b"\r\n"))
    call = as_function(Script("x", b"", b"", b"f"), words)
    assert _read(call)[3:] == ["schlüssel".encode(), b"1", b"0.25", b"", b"\r\n"]
