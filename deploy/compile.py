"""Compiles the modules on a request's path to C, with mypyc, into ``build/compiled``.

``PYTHONPATH=build/compiled fairgate serve …`` runs the result; the sources stay as they are and run
without it. Needs a C compiler and ``mypy[mypyc]``: ``make compiled`` sees to the latter.

mypyc builds classes without their keywords, so it would make msgspec's Structs mutable and their
fields unordered. Each module's Structs are therefore put into a module beside it, which stays
Python. So does all of ``gateway/cycle``: mypyc does not see what uvicorn's classes bring with them.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "compiled"

MODULES = (
    "accounting", "admission/ledger", "admission/link", "admission/places", "admission/queue",
    "admission/wire", "admission/words", "codec", "distribution", "engines/http_client",
    "engines/http_connection", "engines/http_transport", "events", "exchange", "gateway/forward",
    "headers", "identity", "inbox", "metering", "metrics/__init__", "metrics/tenants",
    "metrics/waste", "pool", "prompt", "routes", "routing/routed", "scanners", "tally", "telemetry",
    "ticket", "usage", "watch", "within",
)  # fmt: skip

_INTERPRETED = "_interpreted_"
_MADE_OF_STRUCTS = ("Decoder(", "Encoder(")


def main() -> int:
    """Copy the package, take it apart where it must be, compile in place."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        print("needs a C compiler (Debian: apt-get install gcc)", file=sys.stderr)
        return 1
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(
        ROOT / "fairgate", BUILD / "fairgate", ignore=shutil.ignore_patterns("__pycache__")
    )
    sources = [Path("fairgate", f"{name}.py") for name in MODULES]
    os.chdir(BUILD)
    for source in sources:
        _set_structs_apart(source)
    _compile(sources)
    return 0


def _compile(sources: list[Path]) -> None:
    from mypyc.build import mypycify
    from setuptools import setup

    options = [f"--config-file={ROOT / 'pyproject.toml'}", "--implicit-reexport"]
    setup(
        name="fairgate-compiled",
        packages=[],
        py_modules=[],
        ext_modules=mypycify([*options, *map(str, sources)], opt_level="2", debug_level="0"),
        script_args=["--quiet", "build_ext", "--inplace"],
    )


def _set_structs_apart(source: Path) -> None:
    """Move the Structs of ``source``, if it has any, to a module beside it and import them."""
    text = source.read_text()
    tree = ast.parse(text)
    structs = [node for node in tree.body if _is_struct(node)]
    if not structs:
        return
    beside = source.with_name(_INTERPRETED + source.name)
    beside.write_text(_join(text, _beside(tree, structs)))
    names = ", ".join(node.name for node in structs if isinstance(node, ast.ClassDef))
    module = ".".join(beside.with_suffix("").parts)
    kept = [_source(text, node) for node in tree.body if node not in structs]
    first = tree.body.index(structs[0])
    kept.insert(first, f"from {module} import {names}")
    source.write_text("\n\n".join(kept) + "\n")


def _beside(tree: ast.Module, structs: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The Structs, what is imported, and the names that they may use."""
    for node in tree.body:
        named = isinstance(node, ast.Assign | ast.AnnAssign) and not _calls_codec(node)
        if named or node in structs or isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def _calls_codec(node: ast.stmt) -> bool:
    return any(made in ast.unparse(node) for made in _MADE_OF_STRUCTS)


def _is_struct(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        ast.unparse(base) in ("Struct", "msgspec.Struct") for base in node.bases
    )


def _join(text: str, nodes: Iterator[ast.stmt]) -> str:
    return "\n\n".join(_source(text, node) for node in nodes) + "\n"


def _source(text: str, node: ast.stmt) -> str:
    """``node`` as it was written, with its decorators."""
    written = ast.get_source_segment(text, node)
    assert written is not None
    decorators = getattr(node, "decorator_list", [])
    return "".join(f"@{ast.unparse(d)}\n" for d in decorators) + written


if __name__ == "__main__":
    raise SystemExit(main())
