"""An engine's JSON answer with several choices, read; one of them can be left alone.

Only what is compared is decoded; every other byte of the choice that is left passes unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Encoder, decode

from fairgate.scoring.base import Answer

_NULL = Raw(b"null")

_encode = Encoder().encode


class _Function(Struct):
    name: str = ""
    arguments: str | None = None


class _ToolCall(Struct):
    function: _Function | None = None


class _Message(Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Token(Struct):
    logprob: float | None = None


class _LogProbs(Struct):
    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None


class _Choice(Struct):
    message: _Message | None = None
    text: str | None = None
    logprobs: _LogProbs | None = None


class Choices:
    """The choices of one answer."""

    def __init__(self, fields: dict[str, Raw], choices: Sequence[Raw]) -> None:
        self._fields = fields
        self._choices = choices
        self.answers = [_answer(decode(choice, type=_Choice)) for choice in choices]

    def only(self, index: int, *, without_logprobs: bool) -> bytes:
        """The answer with the choice at ``index`` alone, as number 0."""
        return _encode({**self._fields, "choices": [self.choice(index, without_logprobs)]})

    def choice(self, index: int, without_logprobs: bool) -> dict[str, Raw]:
        """The choice at ``index``, as number 0."""
        choice = decode(self._choices[index], type=dict[str, Raw])
        choice["index"] = Raw(b"0")
        if without_logprobs:
            choice["logprobs"] = _NULL
        return choice

    @property
    def head(self) -> dict[str, Raw]:
        """The fields beside the choices."""
        return {name: value for name, value in self._fields.items() if name != "choices"}


def read_choices(body: bytes) -> Choices | None:
    """The choices of a JSON answer; ``None`` where it has none that can be compared."""
    try:
        fields = decode(body, type=dict[str, Raw])
        choices = decode(fields.get("choices", _NULL), type=list[Raw] | None)
        return Choices(fields, choices) if choices else None
    except (DecodeError, RecursionError):
        return None


def _answer(choice: _Choice) -> Answer:
    return Answer(_text(choice), _logprobs(choice.logprobs))


def _text(choice: _Choice) -> str:
    message = choice.message
    if message is None:
        return choice.text or ""
    calls = (call.function for call in message.tool_calls or ())
    called = [f"{f.name}({f.arguments or ''})" for f in calls if f is not None]
    return "\n".join([*([message.content] if message.content else []), *called])


def _logprobs(told: _LogProbs | None) -> list[float]:
    if told is None:
        return []
    if told.content is not None:
        return [token.logprob for token in told.content if token.logprob is not None]
    return [logprob for logprob in told.token_logprobs or () if logprob is not None]
