"""The page of settings: every section of ``fairgate.yaml``, by the structs that decode it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from fairgate.config import Config
from fairgate.config.base import Base

_HEAD = """# Configuration

*Made by `python -m fairgate.reference docs`: change the code, not this page.*

`fairgate serve --config fairgate.yaml`; the README has an example. `fairgate config check FILE`
tells everything that is wrong with a file, and `fairgate config schema` prints the JSON Schema of
all this. `${NAME}` in a value is taken from the environment.

Types: `Name` is up to 64 letters, digits, `.`, `_` and `-`; `Count` a whole number from 1;
`Positive` a number above 0; `NonNegative` one from 0; `Share` one from 0 to 1. Units stand in the
names: `_s` seconds, `_bytes`, `_tokens`.

"""


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    type: str
    default: str
    told: str


def settings_page() -> str:
    """As Markdown."""
    return _HEAD + "\n".join(map(_section, _sections(Config)))


def _sections(root: type[Base]) -> list[type[Base]]:
    """All structs below ``root``, as they are first named."""
    found = [root]
    for section in found:
        for hint in get_type_hints(section, include_extras=True).values():
            found += [it for it in _structs(hint) if it not in found]
    return found


def _structs(hint: Any) -> Iterator[type[Base]]:
    if isinstance(hint, type) and issubclass(hint, Base):
        yield hint
    for part in get_args(hint):
        yield from _structs(part)


def _section(section: type[Base]) -> str:
    told = inspect.cleandoc(section.__doc__ or "")
    tag = section.__struct_config__.tag
    kind = f" (`type: {tag}`)" if tag else ""
    rows = "".join(map(_row, _settings(section)))
    table = (
        f"\n| name | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}" if rows else ""
    )
    return f"## {section.__name__}{kind}\n\n{_markdown(told)}\n{table}"


def _row(it: _Setting) -> str:
    cells = (f"`{it.name}`", f"`{it.type}`", it.default, _markdown(it.told))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _settings(section: type[Base]) -> Iterator[_Setting]:
    known = {field.encode_name for field in msgspec.structs.fields(section)}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 — the source of a class
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            if name in known:
                type_, default = ast.unparse(node.annotation), _default(node.value)
                yield _Setting(name, type_, default, _told(after))


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call) and not value.args and not value.keywords:
        return "see there"
    if isinstance(value, ast.Call):
        (factory,) = (k.value for k in value.keywords if k.arg == "default_factory")
        return "`{}`" if isinstance(factory, ast.Name) else "one, `default`"
    return f"`{ast.unparse(value)}`"


def _told(after: ast.stmt | None) -> str:
    """The string that follows a field."""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
        return " ".join(str(after.value.value).split())
    return ""


def _markdown(text: str) -> str:
    """Docstrings have reStructuredText's marks."""
    return text.replace("``", "`").replace(":mod:", "").replace(":class:", "")
