"""The simulation of what several answers are worth: it chooses as fairgate does, and the claim."""

from __future__ import annotations

import asyncio
import json
import re
import statistics

import numpy as np
import pytest
import typer
from aiohttp import web
from support.gateway import fake_engine
from typer.testing import CliRunner

from fairgate.engines.process import free_port
from fairgate.routing.best_route import Option, best_value, cheapest
from fairgate.routing.learning.frontier import GRID, choices
from tests.bench.best_route.__main__ import main
from tests.bench.best_route.curves import Setting, simulate
from tests.bench.best_route.engine import main as measure_engine
from tests.bench.best_route.records import synthetic
from tests.bench.best_route.world import Verifier


def test_all_prompts_at_once_choose_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    costs = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 1.0])
    chances = np.column_stack([rng.random((20, 6)), np.ones(20)])
    thresholds = np.quantile(chances[:, :-1], np.linspace(0, 1, GRID))
    prices = 1 / np.geomspace(0.02, 50, GRID)
    by_threshold = choices(chances, costs, "threshold")
    by_value = choices(chances, costs, "value")
    for row, quality in enumerate(chances):
        ways = [
            Option(f"{k // 3}", k % 3 + 1, float(quality[k]), float(costs[k])) for k in range(7)
        ]
        for at in range(GRID):
            one = cheapest(ways[:-1], ways[-1], float(thresholds[at]))
            assert one == ways[by_threshold[at][row]]
            best = best_value(ways[:-1], ways[-1], float(prices[at]))
            assert best == ways[by_value[at][row]]


@pytest.mark.parametrize("accuracy", [0.7, 0.85])
def test_the_verifier_is_as_accurate_as_it_says(accuracy: float) -> None:
    verifier = Verifier(accuracy)
    scores = verifier.scores(np.array([[1.0, 0.0]]).repeat(40_000, 0), np.random.default_rng(0))
    assert np.mean(scores[:, 0] > scores[:, 1]) == pytest.approx(accuracy, abs=0.01)
    assert verifier.picks_right(2) == pytest.approx([0, accuracy, 1], abs=1e-3)


def test_at_a_cost_cut_of_60_percent_the_drop_is_at_most_four_fifths() -> None:
    recorded = synthetic(2000, seed=0)
    runs = [simulate(recorded, Setting(concentration=1.0), seed) for seed in range(2)]
    ratios = {way: statistics.fmean(run[way].ratio(0.6) for run in runs) for way in runs[0]}
    assert max(ratios.values()) <= 0.8, ratios
    assert ratios["heads", "threshold"] <= ratios["formula", "threshold"] + 0.02


def test_a_blind_verifier_is_worth_nothing() -> None:
    drops = simulate(synthetic(2000, seed=0), Setting(1.0, accuracy=0.5001), 0)
    for way, drop in drops.items():
        assert drop.ratio(0.6) == pytest.approx(1, abs=0.08), way


async def test_what_an_engine_is_told_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    """One that is right every second time, and surer then."""
    port = free_port()

    async def answer(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        a, operation, b = re.findall(r"(\d+) (.) (\d+)", body["messages"][0]["content"])[0]
        right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operation]
        choices = [
            {
                "message": {"content": str(right + wrong)},
                "logprobs": {"content": [{"logprob": -0.5 - wrong}]},
            }
            for wrong in [1, 0] * (body["n"] // 2)
        ]
        return web.json_response({"choices": choices})

    async with fake_engine(port, answer):
        await asyncio.to_thread(measure_engine, f"http://127.0.0.1:{port}", "m", 12, 4, 1)
    told = capsys.readouterr().out
    assert "right: 0.500 of 48 answers to 12 prompts" in told
    assert "LogProbability: 1.000 on pairs; best of 1, 2, … right: 0.00 1.00 1.00 1.00" in told


def test_the_command_prints_a_table(tmp_path) -> None:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(
        app,
        [
            "--data",
            str(tmp_path),
            "--splits",
            "2",
            "--prompts",
            "600",
            "--only",
            "synthetic,mmlu-pro",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "mmlu-pro: left out" in result.output
    assert "synthetic" in result.output
