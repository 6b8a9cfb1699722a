"""The configuration in ``docs/routing-live.md`` is a good one, and says what its text says."""

from __future__ import annotations

import re
from pathlib import Path

from fairgate.config.reading import loads
from fairgate.config.routing import MessPlus, Routing
from fairgate.routing.debts import CAUTION, FIRST_DEBT, MOST_OWED

PAGE = (Path(__file__).parents[2] / "docs" / "routing-live.md").read_text()


def test_the_example_is_good() -> None:
    found = re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    config = loads(found[1], source="docs/routing-live.md")
    routing = config.pools["main"].routing
    assert routing is not None
    assert routing.shadow is not None
    assert config.tenants["acme"].satisfaction == 0.85


def test_the_figures_in_the_text_are_those_of_the_code() -> None:
    assert f"(`mess_plus.thrift`, {MessPlus().thrift:g})" in PAGE
    assert f"raised by {CAUTION:g} standard errors" in PAGE
    assert f"a debt of {FIRST_DEBT:g} requests" in PAGE
    assert f"less those {FIRST_DEBT:g}. Above {MOST_OWED:g} it gets" in PAGE
    assert f"({Routing().max_pending:,}) requests wait" in PAGE
    assert Routing().feedback_s == 3600
