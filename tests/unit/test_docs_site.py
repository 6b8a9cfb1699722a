"""The pages as a site: it builds without a warning, names what exists, and cites all sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_CITED = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")


def test_it_builds_and_every_link_leads_somewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in DOCS.glob("*.md")}
    built = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert pages <= built


def test_nothing_is_fetched_from_elsewhere(tmp_path):
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert theme["font"] is False
    for picture in (DOCS / "images").glob("*.svg"):
        text = picture.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text, picture


def test_every_paper_that_the_code_cites_is_on_the_page():
    page = (DOCS / "papers.md").read_text()
    for package in ("fairgate", "loadgen"):
        for module in (ROOT / package).rglob("*.py"):
            missing = set(_CITED.findall(module.read_text())) - set(_CITED.findall(page))
            assert not missing, f"{module}: {missing}"


def test_modules_and_files_that_pages_name_are_there():
    pages = ("papers", "operations", "concepts", "growth", "index")
    for page in pages:
        text = (DOCS / f"{page}.md").read_text()
        for path in re.findall(r"`((?:fairgate|loadgen|deploy|tests)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page}.md: {path}"


def test_commands_of_make_are_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"^\$ make ([\w-]+)", page.read_text(), re.MULTILINE):
            assert name in targets, f"{page.name}: make {name}"


def test_every_alert_is_explained():
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    page = (DOCS / "operations.md").read_text()
    assert names == set(re.findall(r"\bFairgate[A-Z]\w+", page))
