"""The page on best of n is true: fairgate takes its configuration, and has the scorers it names."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from fairgate.config import reading
from fairgate.config.sampling import Scorer
from fairgate.placement import check_served

PAGE = (Path(__file__).parents[2] / "docs" / "best-of.md").read_text()


def test_the_configuration() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = reading.loads(text, source="best-of.md")
    check_served(config)
    pool = config.pools["main"]
    assert pool.best_of is not None
    assert pool.cascade is not None
    assert (pool.cascade.first, pool.cascade.then) == ("small", "large")


def test_every_scorer_is_on_the_page_and_the_other_way_round() -> None:
    kinds = msgspec.inspect.type_info(Scorer)
    assert isinstance(kinds, msgspec.inspect.UnionType)
    known = {kind.tag for kind in kinds.types if isinstance(kind, msgspec.inspect.StructType)}
    section = PAGE.split("## Scorers")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == known | {"type"}
