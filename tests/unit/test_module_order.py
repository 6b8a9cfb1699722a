"""CONTRIBUTING.md names modules in the order in which a request travels; no import goes back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fairgate"
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
LOOK_AHEAD = {("routing/by_best_route.py", "sampling")}


def order() -> list[str]:
    listed = TEXT.partition("a request travels:")[2].partition(". A module imports")[0]
    return [name.rstrip("/") for name in re.findall("`([^`]+)`", listed)]


def files_of(module: str) -> list[Path]:
    alone = PACKAGE / f"{module}.py"
    return [alone] if alone.exists() else sorted((PACKAGE / module).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Modules right below the package, by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fairgate":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fairgate."):
            yield str(node.module).split(".")[1]


def test_no_module_imports_from_one_that_comes_later() -> None:
    places = {name: place for place, name in enumerate(order())}
    back = {
        (str(path.relative_to(PACKAGE)), other)
        for name, place in places.items()
        for path in files_of(name)
        for other in imported(path)
        if places.get(other, place) > place
    }
    assert back == LOOK_AHEAD


def test_all_that_is_named_is_there_and_each_package_is_named() -> None:
    assert [name for name in order() if not files_of(name)] == []
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert [name for name in packages if f"{name}/" not in TEXT] == []
