"""What the arguments of ``simulate`` name: scenarios or traces, on our site or on one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from loadgen.errors import SpecError
from loadgen.simulation.modelled import check_profile
from loadgen.simulation.own_site import (
    Site,
    check_scenario,
    read_shares,
    read_site,
    with_scenario,
    with_trace,
)
from loadgen.simulation.scenarios import SCENARIOS, Build, Scenario, of_trace
from loadgen.simulation.sources import Source

ALL: Final = "all"
_SYNTHETIC = "synthetic:"
_FEW = 100


def own_site(config: Path | None, pool: str, profile: str, shares: str) -> Site | None:
    """The site of ``--config``, ``None`` without. Raises ``SpecError``."""
    if config is not None:
        check_profile(profile)
        return read_site(config, pool, profile)
    for option, value in (("--pool", pool), ("--profile", profile), ("--shares", shares)):
        if value:
            raise SpecError(
                f"{option} {value}: says something of --config FILE, which is not given"
            )
    return None


def read_headrooms(text: str) -> list[float | None]:
    """Shares of a lane with commas between; of an empty text that which the site has.

    Raises ``SpecError``.
    """
    if not text:
        return [None]
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share < 1 for share in shares):
        raise SpecError(f"--headroom {text}: expected shares from 0 to below 1, commas between")
    return list(shares)


def chosen_scenarios(names: Sequence[str], site: Site | None, shares: str) -> list[Scenario]:
    """Scenarios by name, and one of all traces; on the lanes of ``site`` where there is one.

    ``shares``: of the traces' requests, by tenant. Raises ``SpecError``.
    """
    chosen: list[Scenario] = []
    traces = []
    for name in names:
        if name == ALL:
            chosen += [_on_site(scenario, site) for scenario in SCENARIOS.values()]
        elif name in SCENARIOS:
            chosen.append(_on_site(SCENARIOS[name], site))
        elif _SYNTHETIC in name or Path(name.partition("=")[2] or name).is_file():
            traces.append(name)
        else:
            raise SpecError(
                f"{name}: neither a scenario nor a file; scenarios: {', '.join(SCENARIOS)}"
            )
    if traces:
        label = "+".join(map(_label, traces))
        chosen.append(Scenario(label, _of_trace(traces, site, shares), load=0.8))
    elif shares:
        raise SpecError(f"--shares {shares}: are those of a trace's requests; no trace is given")
    return chosen


def _label(trace: str) -> str:
    return "synthetic" if _SYNTHETIC in trace else Path(trace.rpartition("=")[2]).stem


def _of_trace(traces: list[str], site: Site | None, shares: str) -> Build:
    build = partial(of_trace, traces)
    if site is not None:
        build = partial(with_trace, site, traces, read_shares(shares, site))
    build(_FEW, 0, Source())  # what is wrong with a trace is said now, not in the midst of the runs
    return build


def _on_site(scenario: Scenario, site: Site | None) -> Scenario:
    """On the lanes of ``site``. Raises ``SpecError`` now rather than in the middle of the runs."""
    if site is None:
        return scenario
    check_scenario(site, scenario)
    return replace(scenario, build=partial(with_scenario, site, scenario.build))
