"""The generated pages are as the code is."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import fields

from fairgate.config import Config
from fairgate.reference.__main__ import PAGES
from fairgate.reference.settings import settings_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run: python -m fairgate.reference docs"


def test_every_setting_of_the_file_is_on_the_page() -> None:
    page = settings_page()
    assert all(f"| `{field.encode_name}` |" in page for field in fields(Config))
    for nested in ("kv_cache_tokens", "continuation_advantage", "aliases"):
        assert f"| `{nested}` |" in page
