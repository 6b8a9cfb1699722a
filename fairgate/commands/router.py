"""``fairgate router``: trains, certifies, measures and explains the difficulty router."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fairgate.commands.router_label import label
from fairgate.commands.router_live import record
from fairgate.errors import FairgateError, RecordsError
from fairgate.routing import artifact
from fairgate.routing.encoders.registry import EncoderName, encoder
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learning import certifying, evaluation, labels, records, training
from fairgate.routing.loading import load_predictor

router_app = typer.Typer(name="router", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(help="Records: CSV or JSON lines, plain or gzipped.")]
Trained = Annotated[Path | None, typer.Option("--artifact", help="Default: the shipped one.")]


@router_app.callback()
def _group() -> None:
    """Train, examine and feed the router that picks the smallest model that will do."""


router_app.command()(record)
router_app.command()(label)


@router_app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Where the artefact is written.")],
    encoder_name: Annotated[EncoderName, typer.Option("--encoder")] = "ngrams",
    method: Annotated[labels.Method, typer.Option(help="What is learned; gap is ours.")] = "gap",
    prices: Annotated[
        Path | None, typer.Option(help="JSON object: price of each model; sets their order.")
    ] = None,
    trainer: Annotated[
        training.Trainer, typer.Option(help="ridge, or torch: cross-entropy, early stopping.")
    ] = "ridge",
    cold: Annotated[
        bool,
        typer.Option(
            "--cold-start",
            help="From few labels, by the tasks that the records name: knows what it lacks.",
        ),
    ] = False,
) -> None:
    """Train on DATA. Without --prices, JSON lines' models are ordered by their mean score."""
    with _told():
        if cold and find_spec("torch") is None:
            raise RecordsError("--cold-start needs torch: pip install fairgate[router]")
        outcomes = records.load(data, _prices(prices))
        trained = training.train(
            outcomes, encoder(encoder_name), method, trainer=trainer, cold=cold
        )
        artifact.save(trained.artifact, out)
        made = load_predictor(out)
    typer.echo(f"{out}: {made.version}, {len(outcomes)} records of {', '.join(made.models)}")
    if made.best_of is not None:
        typer.echo(
            f"heads for 1 to {made.best_of.samples} answers, picked by {made.best_of.scorer}"
        )


@router_app.command()
def calibrate(
    data: Data,
    drop: Annotated[float, typer.Option(min=0, max=1, help="Allowed loss of quality.")] = 0.01,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999)] = 0.95,
    trained: Trained = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the artefact with the promise in it.")
    ] = None,
) -> None:
    """Find the threshold whose loss stays below --drop, on DATA that training has not seen."""
    with _told():
        predictor = load_predictor(trained)
        found = certifying.certify(predictor, records.load(data), drop, confidence)
        typer.echo("\n".join(found.report()))
        if out is not None:
            artifact.save(certifying.with_promise(predictor.artifact, found), out)


@router_app.command()
def evaluate(
    data: Data,
    trained: Trained = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    prices: Annotated[
        Path | None,
        typer.Option(help="JSON object: price of each model; shows what several answers save."),
    ] = None,
) -> None:
    """Route the prompts of DATA and compare with what both models made of them."""
    with _told():
        result = evaluation.evaluate(load_predictor(trained), records.load(data), _prices(prices))
    if as_json:
        typer.echo(evaluation.as_json(result))
        return
    for name, value in msgspec.to_builtins(result).items():
        typer.echo(f"{name:12} {value:.4f}" if isinstance(value, float) else f"{name:12} {value}")


@router_app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="The text of a prompt.")],
    trained: Trained = None,
    quality: Annotated[float, typer.Option(min=0, max=1, help="The knob.")] = 0.5,
) -> None:
    """Show what the router thinks of PROMPT and where it would go."""
    with _told():
        predictor = load_predictor(trained)
        said = predictor.predict(prompt)
    typer.echo(f"artefact     {predictor.version}")
    for model in predictor.models:
        typer.echo(
            f"{model:12} answers well {said.success[model]:.3f}, suffices {said.enough[model]:.3f}"
        )
        if said.several is not None and model in said.several.as_good:
            chances = " ".join(f"{p:.3f}" for p in said.several.as_good[model])
            typer.echo(f"{'':12} best of 1, 2, … as good as {predictor.models[-1]}: {chances}")
    typer.echo(f"support      {said.support:.2f}")
    typer.echo(f"goes to      {Hybrid(predictor.artifact).choose(said, quality)}")


def _prices(path: Path | None) -> dict[str, float] | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError) as error:
        raise RecordsError(f"{path}: {error}") from error


@contextmanager
def _told() -> Iterator[None]:
    """Errors of ours, and files that cannot be written, are printed; then the exit status is 1."""
    try:
        yield
    except (FairgateError, OSError) as error:
        typer.echo(f"fairgate: {error}", err=True)
        raise typer.Exit(1) from error
