"""``python -m tests.bench.routing``: measures the router on recorded outcomes and prints tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fairgate.routing.encoders.registry import EncoderName
from loadgen.report import markdown_table, plain_table
from tests.bench.routing import cascade, pools, promises, signal, speed, uncertainty
from tests.bench.routing.data import MATHS, NINE_FILE, PAIR_FILE, PRICES_FILE, PRO_FILE, recorded

PARTS = ("signal", "promise", "cascade", "pro", "nine", "uncertainty", "speed")
GOALS = {
    ("ngrams", "MMLU, seen tasks"): ">= 0.66",
    ("ngrams", "GSM8K"): ">= 0.56",
    ("ngrams", "MMLU, unseen tasks"): ">= 0.62",
    ("minilm", "MMLU, unseen tasks"): ">= 0.72",
}
"""APGR of the router, by encoder and prompts."""

PRO_PAIRS = (
    ("Phi-3-mini-4k-instruct", "Meta-Llama-3_1-70B-Instruct"),
    ("Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct"),
    ("Phi-3-mini-4k-instruct", "Meta-Llama-3_1-8B-Instruct"),
)


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the recorded outcomes.")],
    parts: Annotated[str, typer.Option(help="Names with commas between.")] = ",".join(PARTS),
    encoder: Annotated[EncoderName, typer.Option()] = "ngrams",
    seeds: Annotated[int, typer.Option(min=1, help="Splits into unseen tasks.")] = 2,
    cache: Annotated[Path, typer.Option(help="Where embeddings are kept.")] = Path("build/routing"),
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Measure the difficulty router. No figure is picked on what it is measured on."""
    show = markdown_table if markdown else plain_table
    for part in parts.split(","):
        if part not in PARTS:
            raise typer.BadParameter(f"--parts {part}: expected any of {', '.join(PARTS)}")
    wanted = parts.split(",")

    def tell(title: str, rows: list[dict[str, str]]) -> None:
        typer.echo(f"\n{title}\n\n{show(signal.filled(rows))}")

    if {"signal", "promise", "cascade"} & set(wanted):
        _pair(data, wanted, encoder, seeds, cache, tell)
    if "pro" in wanted:
        tell("MMLU-Pro, unseen prompts of seen tasks", _pro(data, encoder, cache))
    if "nine" in wanted:
        nine = recorded(data / NINE_FILE, encoder, cache)
        prices = {
            name: entry["output_price_per_mtok"]
            for name, entry in json.loads((data / PRICES_FILE).read_text()).items()
        }
        tell("Nine models, quality at a price", list(pools.rows(nine, prices, seed=0)))
    if "uncertainty" in wanted:
        tell("Task families from 500 labels", list(uncertainty.rows(data / PRO_FILE, cache)))
    if "speed" in wanted:
        tell("Cost", list(speed.rows(data / PAIR_FILE)))


def _pair(
    data: Path,
    wanted: list[str],
    encoder: EncoderName,
    seeds: int,
    cache: Path,
    tell: Callable[[str, list[dict[str, str]]], None],
) -> None:
    pair = recorded(data / PAIR_FILE, encoder, cache)
    small, large = pair.records.models
    quality = pair.records.quality.astype(np.float64)
    maths = pair.tasks == MATHS
    everything = np.ones(len(maths), np.bool_)
    part = signal.by_prompt(pair, seed=0)
    ours = signal.learned(pair, part, "gap", small, large)
    if "signal" in wanted:
        rows = list(signal.fixed("all", quality))
        for scores in (
            signal.rules(pair, part, quality),
            ours,
            signal.learned(pair, part, "det", small, large),
        ):
            rows += signal.rows("all, seen tasks", scores, quality, everything)
            rows += signal.rows("MMLU, seen tasks", scores, quality, ~maths)
            rows += signal.rows("GSM8K", scores, quality, maths)
        drawn: list[dict[str, str]] = []
        for seed in range(seeds):
            unseen = signal.by_task(pair, seed)
            for scores in (
                signal.rules(pair, unseen, quality),
                signal.learned(pair, unseen, "gap", small, large),
            ):
                name = f"MMLU, unseen tasks, split {seed}"
                rows += signal.rows(name, scores, quality, ~maths)
                drawn += signal.few_tasks(name, scores, quality, pair.tasks, ~maths)
        for row in rows:
            if row["router"] == "router (gap)":
                row["goal: APGR"] = GOALS.get((encoder, row["data"].partition(", split")[0]), "")
        tell(f"Mixtral-8x7B / GPT-4, encoder {encoder}", rows)
        tell("How much the choice of unseen tasks matters", drawn)
    to_large = ours.to_large["router (gap)"].astype(np.float64)
    if "promise" in wanted:
        rows = list(promises.rows("MMLU", -to_large[~maths], quality[~maths]))
        rows += promises.rows("MMLU and GSM8K", -to_large, quality)
        tell(f"A promised drop of {promises.LIMIT:.0%} in {promises.RESPLITS} resplits", rows)
    if "cascade" in wanted:
        rows = list(cascade.rows("MMLU", to_large[~maths], quality[~maths], part[~maths]))
        rows += cascade.rows("GSM8K", to_large[maths], quality[maths], part[maths])
        tell(f"A cascade, the large model's call {cascade.RATIO:g} times as dear", rows)


def _pro(data: Path, encoder: EncoderName, cache: Path) -> list[dict[str, str]]:
    pro = recorded(data / PRO_FILE, encoder, cache)
    part = signal.by_prompt(pro, seed=0)
    everything = np.ones(len(part), np.bool_)
    rows: list[dict[str, str]] = []
    for small, large in PRO_PAIRS:
        name = f"{small.split('-Instruct')[0]} / {large.split('-Instruct')[0]}"
        quality = pro.records.only((small, large)).quality.astype(np.float64)
        rows += signal.fixed(name, quality)
        rows += signal.rows(name, signal.rules(pro, part, quality), quality, everything)
        ours = signal.learned(pro, part, "gap", small, large)
        rows += signal.rows(name, ours, quality, everything)
    return rows


if __name__ == "__main__":
    typer.run(main)
