"""Statistics and charts."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from loadgen.simulation.charts import bar_chart, line_chart, short, ticks
from loadgen.simulation.statistics import Spread, over_seeds


def test_median_and_interval() -> None:
    spread = over_seeds([1.0, 2.0, 3.0, 4.0, 100.0])
    assert spread is not None
    assert spread.median == 3.0
    assert 1.0 <= spread.low <= 3.0 <= spread.high <= 100.0
    assert over_seeds([1.0, 2.0, 3.0, 4.0, 100.0]) == spread


def test_one_seed_has_no_interval() -> None:
    assert over_seeds([7.0]) == Spread(7.0, 7.0, 7.0)
    assert over_seeds([]) is None


@pytest.mark.parametrize("highest", [1e-9, 0.07, 1.0, 12.0, 999.0, 3.3e7])
def test_ticks_are_few_and_within(highest: float) -> None:
    found = ticks(highest)
    assert 3 <= len(found) <= 6
    assert found[0] == 0
    assert found[-1] <= highest * 1.001


def test_numbers_are_short() -> None:
    assert [short(n) for n in (0.0, 5.61, 34_000, 1_234_567)] == ["0", "5.61", "34k", "1.23M"]


def test_charts_are_well_formed_and_name_what_they_show() -> None:
    lines = line_chart(
        "A & B", {"<a>": [(0.0, 0.0), (9.0, 4.0)], "b": [(0.0, 1.0), (9.0, 2.0)]},
        x_name="s", y_name="units", bound=5.0,
    )  # fmt: skip
    bars = bar_chart("bars", {"fcfs": Spread(3.0, 2.0, 4.0), "vtc": Spread(0.0, 0.0, 0.0)})
    for chart in (lines, bars):
        ET.fromstring(chart)
    assert "&lt;a&gt;" in lines
    assert lines.count("<polyline") == 2
    assert "bound" in lines
    assert bars.count("<rect") == 2
    assert bar_chart("nothing", {"fcfs": Spread(0.0, 0.0, 0.0)}) == ""
