"""Reads the configuration file: YAML with ``${ENV}`` in, checked structs or every problem out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fairgate.config import Config, rules, shape
from fairgate.config.shape import Substituted, join
from fairgate.errors import ConfigError

# The C parser is several times as fast, which counts with thousands of tenants; not every build
# of PyYAML has it.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_REFERENCE = re.compile(
    r"\$(?P<escaped>\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<malformed>\$\{)"
)

_TOO_DEEP = "is nested too deeply, or an alias contains itself"
_MALFORMED = "expected ${NAME} or ${NAME:-default}; write $${ for the characters ${ themselves"


def load(path: Path, *, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check the file at ``path``.

    Raises ``ConfigError`` with every problem found, also when the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"is not UTF-8 at byte {error.start}"], source=str(path)) from error
    return loads(text, source=str(path), environ=environ)


def loads(text: str, *, source: str, environ: Mapping[str, str] = os.environ) -> Config:
    """Check ``text``; ``source`` names it in messages.

    ``${NAME}`` and ``${NAME:-default}`` in values (not in keys) are filled in from ``environ``; the
    default serves where the variable is unset or empty, and ``$${`` stands for ``${``. That happens
    after parsing, so a variable never changes the structure of the file.

    Raises ``ConfigError`` with every problem found.
    """
    try:
        data, problems = _parse(text)
    except RecursionError as error:
        raise ConfigError([_TOO_DEEP], source=source) from error
    except yaml.YAMLError as error:
        raise ConfigError([_yaml_problem(error)], source=source) from error
    if problems:
        raise ConfigError(problems, source=source)
    return convert(data, source=source, environ=environ)


def convert(data: object, *, source: str, environ: Mapping[str, str] = os.environ) -> Config:
    """Check ``data``: what a file would hold, as mappings, lists and plain values.

    The rules are those of :func:`loads`. Raises ``ConfigError`` with every problem found.
    """
    problems: list[str] = []
    try:
        filled_in = _substitute(data, "", environ, problems)
    except RecursionError as error:
        raise ConfigError([_TOO_DEEP], source=source) from error
    plain, misfits = shape.fit(filled_in, Config)
    if problems or misfits:
        raise ConfigError([*problems, *misfits], source=source)
    return _checked(plain, source)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fairgate configuration",
        **msgspec.json.schema(Config),
    }


def _checked(plain: object, source: str) -> Config:
    try:
        config = msgspec.convert(plain, Config)
    except msgspec.ValidationError as error:
        raise ConfigError([str(error)], source=source) from error
    if problems := rules.problems(config):
        raise ConfigError(problems, source=source)
    return config


def _parse(text: str) -> tuple[Any, list[str]]:
    """The plain data in ``text``, or the keys that stand in it twice."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        if problems := list(_repeated_keys(node, "", set())):
            return None, problems
        return _construct(loader, node), []
    finally:
        loader.dispose()


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception as error:
        # PyYAML lets all kinds escape for scalars that deny their tag, such as a 13th month.
        raise yaml.YAMLError(f"a value cannot be read: {error}") from error


def _repeated_keys(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    """Keys that occur twice in one mapping; PyYAML itself would let the last one win.

    Looks at the nodes before aliases and ``<<`` merge them, where overriding a key is the point.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _repeated_keys(item, f"{path}[{i}]", seen)
    elif isinstance(node, yaml.MappingNode):
        yield from _repeated_here(node, path)
        for key, value in node.value:
            yield from _repeated_keys(value, join(path, key.value), seen)


def _repeated_here(node: yaml.MappingNode, path: str) -> Iterator[str]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value in lines:
            yield f"{join(path, key.value)}: stands twice, on lines {lines[key.value]} and {line}"
        lines[str(key.value)] = line


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the excerpt that PyYAML appends: it may show a secret."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).partition("\n")[0]
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"is not valid YAML{where}: {what}"


def _substitute(value: Any, path: str, environ: Mapping[str, str], problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _substitute(v, join(path, k), environ, problems) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_substitute(v, f"{path}[{i}]", environ, problems) for i, v in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _fill_in(value, path, environ, problems)
    return value


def _fill_in(
    template: str, path: str, environ: Mapping[str, str], problems: list[str]
) -> Substituted:
    faults: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        if match["malformed"]:
            faults.append(f"{path}: {_MALFORMED}")
            return ""
        name, default = match["name"], match["default"]
        if default is not None:
            return environ.get(name) or default
        if name not in environ:
            faults.append(f"{path}: {_not_set(name)}")
        return environ.get(name, "")

    text = _REFERENCE.sub(replace, template)
    problems.extend(faults)
    return Substituted(template, None if faults else text)


def _not_set(name: str) -> str:
    return f"environment variable {name} is not set; set it or give a default: ${{{name}:-...}}"
