"""Finds every place where plain data misses the shape of the configuration structs.

``msgspec.convert`` stops at the first problem; who edits a file wants all of them at once. The
shapes come from the structs themselves, so there is no second description to keep in step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

from fairgate.config.base import Name, Sha256

# Redis scripts compute in doubles: larger whole numbers would silently lose digits there.
MAX_EXACT = 2**53

# Their values never appear in a message; a raw key pasted for its hash is a common slip.
_SECRET_FIELDS = frozenset({"api_key", "env", "sha256"})


def _pattern(annotated: Any) -> str:
    return str(annotated.__metadata__[0].pattern)


_WORDS = {
    _pattern(Name): (
        "a name of at most 64 letters, digits, '.', '_' and '-' that starts with a letter or digit"
    ),
    _pattern(Sha256): "the SHA-256 of a key as 64 lower-case hex digits",
}


@dataclass(frozen=True, slots=True)
class Substituted:
    """A string of the file with its environment variables filled in."""

    template: str
    """What the file says; shown in messages instead of the value, which may be a secret."""
    text: str | None
    """``None``: a variable is missing, which has been reported already."""


def fit(data: object, kind: type) -> tuple[Any, list[str]]:
    """Compare ``data`` with ``kind``; return it with plain values throughout, and the problems.

    A :class:`Substituted` becomes what its place asks for, so that ``port: ${PORT}`` is a number
    and ``api_key: ${KEY}`` a string even if it consists of digits.
    """
    fitter = _Fitter()
    return fitter.fit(data, inspect.type_info(kind), ""), fitter.problems


def join(path: str, name: object) -> str:
    """The path of a field inside ``path``."""
    return f"{path}.{name}" if path else str(name)


def did_you_mean(word: object, options: Collection[str]) -> str:
    """A suggestion to append to a message, or nothing."""
    close = get_close_matches(str(word), options, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


class _Fitter:
    """One pass over the data; collects what is wrong on the way."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def fit(self, value: Any, kind: inspect.Type, path: str) -> Any:
        match kind:
            case inspect.UnionType():
                return self._union(value, kind, path)
            case inspect.StructType() if isinstance(value, dict):
                return self._struct(value, kind, path)
            case inspect.DictType() if isinstance(value, dict):
                return self._dict(value, kind, path)
            case inspect.VarTupleType() if isinstance(value, list):
                return [self.fit(v, kind.item_type, f"{path}[{i}]") for i, v in enumerate(value)]
            case _:
                return self._scalar(value, kind, path)

    def _union(self, value: Any, kind: inspect.UnionType, path: str) -> Any:
        options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
        if value is None and len(options) < len(kind.types):
            return None
        if len(options) == 1:
            return self.fit(value, options[0], path)
        structs = [option for option in options if isinstance(option, inspect.StructType)]
        if isinstance(value, dict) and structs:
            chosen = structs[0] if len(structs) == 1 else self._by_tag(value, structs, path)
            return self._struct(value, chosen, path) if chosen else value
        return self._scalar(value, kind, path)

    def _by_tag(
        self, value: dict[Any, Any], structs: list[inspect.StructType], path: str
    ) -> inspect.StructType | None:
        field = structs[0].tag_field or ""
        tags = {str(struct.tag): struct for struct in structs}
        given = value.get(field)
        tag = given.text if isinstance(given, Substituted) else given
        if isinstance(tag, str) and tag in tags:
            return tags[tag]
        here = join(path, field)
        if field not in value:
            self._report(here, f"missing; expected {_one_of(tags)}")
        elif not (isinstance(given, Substituted) and tag is None):
            got = f"{_show(given, here)}{did_you_mean(tag, tags)}"
            self._report(here, f"expected {_one_of(tags)}, got {got}")
        return None

    def _struct(self, value: dict[Any, Any], kind: inspect.StructType, path: str) -> Any:
        fields = {field.encode_name: field for field in kind.fields}
        self._field_names(value, kind, fields, path)
        fitted = {
            name: self.fit(item, fields[name].type, join(path, name))
            for name, item in value.items()
            if name in fields
        }
        return {kind.tag_field: kind.tag, **fitted} if kind.tag_field else fitted

    def _field_names(
        self,
        value: dict[Any, Any],
        kind: inspect.StructType,
        fields: Collection[str],
        path: str,
    ) -> None:
        unknown = [name for name in value if name not in fields and name != kind.tag_field]
        guesses = {name: did_you_mean(name, fields) for name in unknown}
        for name, guess in guesses.items():
            self._report(
                join(path, name), f"unknown field{guess or '; expected ' + _one_of(fields)}"
            )
        meant = "".join(guesses.values())  # a misspelt field is not reported as missing as well
        for field in kind.fields:
            name = field.encode_name
            if field.required and name not in value and f"'{name}'" not in meant:
                self._report(join(path, name), f"missing; expected {_describe(field.type)}")

    def _dict(self, value: dict[Any, Any], kind: inspect.DictType, path: str) -> Any:
        for name in value:
            if not _accepts(kind.key_type, name):
                hint = _quote_hint(kind.key_type, name)
                expected = _describe(kind.key_type)
                self._report(path, f"expected {expected} as key, got {_show(name, path)}{hint}")
        return {k: self.fit(item, kind.value_type, join(path, k)) for k, item in value.items()}

    def _scalar(self, value: Any, kind: inspect.Type, path: str) -> Any:
        if isinstance(value, Substituted):
            if value.text is None:
                return None
            plain = _coerce(value.text, kind)
        else:
            plain = value
        if not _accepts(kind, plain):
            self._wrong(value, kind, path)
        return plain

    def _wrong(self, value: Any, kind: inspect.Type, path: str) -> None:
        hint = did_you_mean(value, _literals(kind)) if isinstance(value, str) else ""
        hint = hint or _quote_hint(kind, value)
        expected = _describe(kind)
        if _is_number(value) and abs(value) > MAX_EXACT and "<" not in expected:
            expected += ", at most 2^53"
        self._report(path, f"expected {expected}, got {_show(value, path)}{hint}")

    def _report(self, path: str, message: str) -> None:
        self.problems.append(f"{path}: {message}" if path else message)


def _accepts(kind: inspect.Type, value: Any) -> bool:
    match kind:
        case inspect.UnionType():
            return any(_accepts(option, value) for option in kind.types)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and _is_number(value) and _within(kind, value)
        case inspect.FloatType():
            return _is_number(value) and _within(kind, value)
        case inspect.StrType():
            return isinstance(value, str) and bool(re.fullmatch(kind.pattern or "(?s:.*)", value))
        case inspect.LiteralType():
            return isinstance(value, str) and value in kind.values
        case inspect.StructType() | inspect.DictType() | inspect.VarTupleType():
            return False  # what fits them has been taken apart before it came here
        case _:
            return True  # a kind that the structs do not use yet: left to msgspec.convert


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(kind: inspect.IntType | inspect.FloatType, value: float) -> bool:
    return (
        abs(value) <= MAX_EXACT  # refuses infinities and NaN as well
        and value > (-math.inf if kind.gt is None else kind.gt)
        and value >= (-math.inf if kind.ge is None else kind.ge)
        and value < (math.inf if kind.lt is None else kind.lt)
        and value <= (math.inf if kind.le is None else kind.le)
    )


def _coerce(text: str, kind: inspect.Type) -> Any:
    """``text`` as the place asks for it, or unchanged where that cannot be."""
    try:
        match kind:
            case inspect.IntType():
                return int(text)
            case inspect.FloatType():
                return float(text)
            case inspect.BoolType():
                return {"true": True, "false": False}.get(text.lower(), text)
    except ValueError:
        pass
    return text


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType():
            options = (o for o in kind.types if not isinstance(o, inspect.NoneType))
            return " or ".join(dict.fromkeys(_describe(option) for option in options))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(kind)
        case inspect.FloatType():
            return "a number" + _bounds(kind)
        case inspect.StrType():
            return _WORDS.get(kind.pattern or "", "a string")
        case inspect.LiteralType():
            return _one_of([str(value) for value in kind.values])
        case inspect.VarTupleType():
            return "a list"
        case _:
            return "a mapping"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    signs = {">": kind.gt, ">=": kind.ge, "<": kind.lt, "<=": kind.le}
    stated = [f"{sign} {bound:g}" for sign, bound in signs.items() if bound is not None]
    return " " + " and ".join(stated) if stated else ""


def _one_of(options: Collection[str]) -> str:
    return "one of " + ", ".join(f"'{option}'" for option in options)


def _literals(kind: inspect.Type) -> Sequence[str]:
    return list(_literal_values(kind))


def _literal_values(kind: inspect.Type) -> Iterator[str]:
    if isinstance(kind, inspect.LiteralType):
        yield from (str(value) for value in kind.values)
    elif isinstance(kind, inspect.UnionType):
        for option in kind.types:
            yield from _literal_values(option)


def _quote_hint(kind: inspect.Type, value: object) -> str:
    """YAML reads a bare ``no`` or ``123`` as something else than the text that was meant."""
    odd = value is not None and not isinstance(value, str | dict | list | Substituted)
    return "; put it in quotes" if odd and isinstance(kind, inspect.StrType) else ""


def _show(value: object, path: str) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case Substituted():
            return f"the value of '{value.template}'"
        case _ if _SECRET_FIELDS.intersection(re.split(r"[.\[]", path)):
            return f"{len(str(value))} other characters"
        case bool():
            return str(value).lower()
        case str():
            return repr(value if len(value) <= 80 else value[:77] + "...")
        case _:
            return str(value)[:80]
