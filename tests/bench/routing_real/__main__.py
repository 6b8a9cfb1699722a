"""``python -m tests.bench.routing_real``: what routing saves on two real engines, and the recipe of
its labels."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
import numpy as np
import typer

from fairgate.labelling.run import Label, Prompt
from fairgate.routing.learning import records
from fairgate.routing.learning.evaluation import evaluate
from fairgate.routing.learning.records import Records
from loadgen.report import markdown_table, plain_table
from tests.bench.routing.data import PAIR_FILE
from tests.bench.routing.signal import filled
from tests.bench.routing_real import cold as few
from tests.bench.routing_real import exams, labelled, recorded, tasks, through, worth
from tests.bench.routing_real import several as several_labels
from tests.bench.routing_real.plan import split
from tests.bench.routing_real.recorded import Knob, Row, broken, knobs, trained

app = typer.Typer(no_args_is_help=True, help=__doc__)

SEED = 6
SCORERS = ("log-probability", several_labels.BY_WORDS, several_labels.CHECKED)
DROPS = (0.02, 0.05, 0.1)
RESPLIT_LABELS = (500, 1000)
TENANTS = {"careful": Knob(drop=0.05), "usual": Knob(drop=0.1), "thrifty": Knob(quality=0.3)}

Data = Annotated[Path | None, typer.Option(help="Folder with the recorded outcomes.")]


@app.command()
def prompts(
    out: Annotated[Path, typer.Option(help="JSON lines for `fairgate router label --by unit`.")],
    count: Annotated[int, typer.Option(min=0, help="Generated tasks.")] = 2800,
    data: Data = None,
    mmlu: Annotated[Path | None, typer.Option(help="Folder with MMLU's SUBJECT_test.csv.")] = None,
    gsm8k: Annotated[Path | None, typer.Option(help="GSM8K's test.jsonl.")] = None,
    choices: Annotated[int, typer.Option(min=0, help="Questions of MMLU.")] = 350,
    sums: Annotated[int, typer.Option(min=0, help="Questions of GSM8K.")] = 150,
) -> None:
    """Make checkable prompts, in an order of chance."""
    made = list(tasks.generated(SEED, count))
    if data is not None:
        known = records.load(data / PAIR_FILE)
        made += exams.choices(known, mmlu, SEED, choices) if mmlu else []
        made += exams.sums(known, gsm8k, SEED, sums) if gsm8k else []
    Random(SEED).shuffle(made)
    with out.open("wb") as file:
        file.writelines(msgspec.json.encode(prompt) + b"\n" for prompt in made)
    typer.echo(f"{out}: {len(made)} prompts", err=True)


@app.command()
def pack(
    asked: Annotated[Path, typer.Argument(help="What `prompts` wrote.")],
    labels: Annotated[Path, typer.Argument(help="What `fairgate router label` wrote.")],
    out: Annotated[Path, typer.Option()] = labelled.SHIPPED,
) -> None:
    """Keep labels in the form in which they are shipped: scores, and no answers."""
    prompt, label = (msgspec.json.Decoder(kind).decode_lines for kind in (Prompt, Label))
    kept = labelled.pack(prompt(asked.read_bytes()), label(labels.read_bytes()), out)
    typer.echo(f"{out}: {kept} labels", err=True)


@app.command()
def again(
    out: Annotated[Path, typer.Option(help="JSON lines for `fairgate router label --by unit`.")],
    data: Data = None,
) -> None:
    """Write the prompts of the shipped labels, in their order, to have them answered anew."""
    known = labelled.load(labelled.SHIPPED, _words(data))
    of = zip(known.records.prompts, known.records.tasks, known.checks, strict=True)
    with out.open("wb") as file:
        file.writelines(
            msgspec.json.encode(Prompt(text, task=task, check=check)) + b"\n"
            for text, task, check in of
        )
    typer.echo(f"{out}: {len(known.checks)} prompts", err=True)


@app.command()
def pack_several(
    labels: Annotated[Path, typer.Argument(help="What `label --samples` wrote.")],
    out: Annotated[Path, typer.Option()] = several_labels.SHIPPED,
) -> None:
    """Keep labels of several answers in the form in which they are shipped."""
    read = msgspec.json.Decoder(Label).decode_lines(labels.read_bytes())
    typer.echo(f"{out}: {several_labels.pack(read, out)} labels", err=True)


@app.command()
def several(
    labels: Annotated[Path, typer.Option(help="What `pack-several` wrote.")] = (
        several_labels.SHIPPED
    ),
    data: Data = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Tell how much the engines' answers vary, and what choosing among several is worth."""
    show = markdown_table if markdown else plain_table
    words = _words(data)
    known = {scorer: several_labels.load(labels, words, scorer) for scorer in SCORERS}
    typer.echo(show(filled(list(worth.models(known)))))
    lost: list[Row] = []
    asked: list[Row] = []
    for records_ in known.values():
        judged = worth.unseen(records_)
        for ratio in worth.RATIOS:
            lost += worth.routed(records_, judged, ratio)
        for threshold in worth.THRESHOLDS:
            asked += worth.asked(records_, judged, worth.RATIOS[-1], threshold)
    typer.echo(f"\nQuality lost at a cost cut, trained without the prompt\n\n{show(filled(lost))}")
    typer.echo(f"\nAnswers asked for\n\n{show(filled(asked))}")


@app.command()
def measure(
    labels: Annotated[Path, typer.Option(help="What `pack` wrote.")] = labelled.SHIPPED,
    data: Data = None,
    ask: Annotated[int, typer.Option(min=0, help="Prompts that each tenant asks.")] = 300,
    small: Annotated[str, typer.Option(help="URL of a running engine; else it is started.")] = "",
    large: Annotated[str, typer.Option(help="The same of the large one.")] = "",
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Train, certify, and measure: by the labels, then with three tenants through a gateway."""
    show = markdown_table if markdown else plain_table

    def tell(title: str, rows: list[Row]) -> None:
        typer.echo(f"\n{title}\n\n{show(filled(rows))}")

    words = _words(data)
    everything = labelled.load(labels, words)
    plan = split(everything)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "router.safetensors"
        predictor, certified = trained(plan, DROPS, file)
        tell("What the models can do", list(_abilities(everything.records)))
        typer.echo("What is certified\n")
        for found in certified:
            named = f"drop {found.limit:.0%}, {found.labels} labels: "
            typer.echo(named + "; ".join(found.report()))
        wanted = [*(Knob(drop=drop) for drop in DROPS), *(Knob(quality=q) for q in (0.7, 0.5, 0.3))]
        tell("By the recorded labels", list(knobs(predictor, plan, wanted)))
        tell("A promise, resplit", [
            broken(plan.seen.records, count, drop) for count in RESPLIT_LABELS for drop in DROPS
        ])  # fmt: skip
        told = evaluate(predictor, plan.test.records)
        typer.echo(f"\nAPGR {told.apgr:.3f}, AUC {told.auc:.3f}, ECE {told.ece:.3f}, n {told.n}")
        if ask:
            engines = (
                through.running(small, large) if small and large else through.spawned(_models())
            )
            settings = through.configuration(engines, TENANTS, file)
            some = plan.test.take(np.arange(min(ask, len(plan.test.records))))
            answered = asyncio.run(through.ask(settings, some, list(TENANTS)))
            tell("Through the gateway", [
                {"tenant": name, "knob": str(TENANTS[name])} | through.row(some, got)
                for name, got in answered.items()
            ])  # fmt: skip


@app.command()
def bound(data: Data = None) -> None:
    """Tell how often a promise is wrong, from few labels to many and for all kinds of drops."""
    seen = split(labelled.load(labelled.SHIPPED, _words(data))).seen.records
    rows = recorded.bound(seen, (100, 200, 500, 1000, 2000, 5000), (0.02, 0.05, 0.1, 0.2))
    typer.echo(plain_table(filled(list(rows))))


@app.command()
def cold(
    labels: Annotated[int, typer.Option(min=50, help="That training is given.")] = 100,
    seeds: Annotated[int, typer.Option(min=2, help="Draws of them.")] = 5,
    data: Data = None,
) -> None:
    """Compare the cold start with the usual heads on few labels; needs torch."""
    words = _words(data)
    plan = split(labelled.load(labelled.SHIPPED, words))
    typer.echo(plain_table(filled(list(few.rows(plan, labels, seeds)))))


def _abilities(outcomes: Records) -> Iterator[Row]:
    """Of each group of tasks: how often each model is right, and alone right."""
    groups = np.array([task.partition("/")[0] for task in outcomes.tasks])
    for name in (*np.unique(groups), "all"):
        small, large = outcomes.quality[(groups == name) | (name == "all")].T
        yield {
            "tasks": str(name),
            "prompts": str(len(small)),
            "small right": f"{small.mean():.1%}",
            "large right": f"{large.mean():.1%}",
            "only small": f"{(small > large).mean():.1%}",
            "only large": f"{(large > small).mean():.1%}",
        }


def _words(data: Path | None) -> list[str]:
    """Of the exam questions, where the records are at hand that hold them."""
    return exams.texts(records.load(data / PAIR_FILE)) if data else []


def _models() -> Path:
    return Path(os.environ.get("FAIRGATE_MODELS") or ".cache/models")


if __name__ == "__main__":
    app()
