"""What we run: nothing unpickles or evaluates, licences and pins are known, the lock is true."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import fairgate

ROOT = Path(fairgate.__file__).parent.parent
PACKAGES = ("fairgate", "loadgen")

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "__import__", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "os.system", "os.popen", "torch.load", "numpy.load", "np.load",
    "tempfile.mktemp",
    "asyncio.create_subprocess_shell", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"shell": True, "allow_pickle": True, "verify": False, "ssl": False}

KNOWN_BAD = {
    "aiohttp": "<3.13.3",  # CVE-2025-69223 and others: decompression, cookies, memory
    "h11": "<0.16",  # CVE-2025-43859: chunked bodies, request smuggling
    "httptools": "<0.6.4",
    "jinja2": "<3.1.6",  # CVE-2025-27516
    "litellm": "==1.107.*",  # reported as compromised
    "pyyaml": "<5.4",  # CVE-2020-14343
    "redis": ">=4.5.0,<4.5.5",  # CVE-2023-28858, CVE-2023-28859: answers of others
    "requests": "<2.32.4",  # CVE-2024-47081
    "setuptools": "<78.1.1",  # CVE-2025-47273
    "starlette": "<0.49.1",  # CVE-2024-47874, CVE-2025-62727
    "urllib3": "<2.5",  # CVE-2025-50181
    "uvicorn": "<0.11.7",  # CVE-2020-7694, CVE-2020-7695
    "werkzeug": "<3.1.4",  # CVE-2025-66221
}
"""By what was known when this was written, without asking anybody."""

PERMISSIVE = re.compile(
    r"Apache|BSD|MIT\b|\bISC\b|PSF|Python Software Foundation|MPL|Mozilla Public|Unlicense|0BSD"
)


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def test_nothing_unpickles_evaluates_or_starts_a_shell() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}: {what}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        for what in dangers(node)
    ]
    assert not found


def dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (it.name for it in node.names if it.name.split(".")[0] in FORBIDDEN_IMPORTS)
    elif isinstance(node, ast.ImportFrom):
        if (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            yield str(node.module)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in FORBIDDEN_CALLS:
            yield name
        for given in node.keywords:
            value = given.value.value if isinstance(given.value, ast.Constant) else None
            if given.arg in FORBIDDEN_ARGUMENTS and value is FORBIDDEN_ARGUMENTS[given.arg]:
                yield f"{name}({given.arg}={value})"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "eval('1')", "yaml.load(x, Loader=y)",
        "subprocess.run('ls', shell=True)", "np.load(x, allow_pickle=True)", "os.system('ls')",
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(code: str) -> None:
    assert [what for node in ast.walk(ast.parse(code)) for what in dangers(node)]


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    """Of fairgate itself, its extra ``loadgen`` and its development."""
    told = project()
    itself, groups = told["project"], told["dependency-groups"]
    assert isinstance(itself, dict)
    assert isinstance(groups, dict)
    lines = [*itself["dependencies"], *itself["optional-dependencies"]["loadgen"]]
    return [Requirement(line) for line in (*lines, *members(groups, "dev"))]


def members(groups: dict[str, list[str | dict[str, str]]], name: str) -> Iterator[str]:
    """Of a dependency group, and of those that it includes."""
    for line in groups[name]:
        if isinstance(line, str):
            yield line
        else:
            yield from members(groups, line["include-group"])


def locked() -> dict[str, Version]:
    """The lock, each line with the hash of one file."""
    lines = (ROOT / "requirements-dev.lock").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            pin = re.fullmatch(r"([a-z0-9._-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
            assert pin, line
            pins[str(canonicalize_name(pin[1]))] = Version(pin[2])
    return pins


def test_the_lock_satisfies_the_project() -> None:
    """After a change of pyproject.toml: make lock."""
    pins = locked()
    for requirement in requirements():
        if requirement.marker is None or requirement.marker.evaluate():
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin is not None, f"{requirement.name} is not locked"
            assert pin in requirement.specifier, f"{requirement} is locked as {pin}"


def test_nothing_known_to_be_bad_is_locked_or_installed() -> None:
    for name, bad in KNOWN_BAD.items():
        versions = {locked().get(name)}
        if versions == {None}:
            continue  # nothing of ours needs it, such as the setuptools that came with Python
        try:
            versions.add(Version(distribution(name).version))
        except PackageNotFoundError:
            pass
        for version in versions - {None}:
            assert version not in SpecifierSet(bad), f"{name} {version} is among {bad}"


def dependencies(requirement: Requirement, seen: set[str]) -> None:
    """Everything that ``requirement`` needs at run time, on this Python and platform."""
    name = canonicalize_name(requirement.name)
    if name in seen:
        return
    seen.add(name)
    for line in distribution(name).requires or ():
        needed = Requirement(line)
        extras = [{"extra": extra} for extra in (*requirement.extras, "")]
        if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
            dependencies(needed, seen)


def test_what_fairgate_needs_is_little_and_permissively_licensed() -> None:
    itself = project()["project"]
    assert isinstance(itself, dict)
    needed: set[str] = set()
    for line in itself["dependencies"]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            dependencies(requirement, needed)
    assert len(needed) < 60, sorted(needed)
    unknown = {
        name: licence for name in needed if not PERMISSIVE.search(licence := licence_of(name))
    }
    assert not unknown


def licence_of(name: str) -> str:
    """As its metadata tells: an expression, a short text, or classifiers."""
    told = distribution(name).metadata
    texts = [str(told.get(key) or "")[:200] for key in ("License-Expression", "License")]
    classified = told.get_all("Classifier") or []
    return " ".join([*texts, *(line for line in classified if line.startswith("License"))])
