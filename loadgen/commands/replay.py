"""``loadgen replay``: sends a trace to a gateway or engine, tenant by tenant."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadgen.arrivals import Arrivals, Lengths
from loadgen.client import Api, Request
from loadgen.commands.common import EXIT_USAGE, check_writable, say
from loadgen.errors import LoadgenError, TargetError
from loadgen.floods import Flood
from loadgen.job import Finished, Job, run
from loadgen.metrics import summarise
from loadgen.plan import build_plan
from loadgen.records import Chain, Outcome
from loadgen.report import lost_by_cause, print_report, write_json, write_record
from loadgen.tenants import Skew, Tenant, read_tenants, read_weights
from loadgen.traces import read_traces

EXIT_NOTHING_SERVED = 1
EXIT_UNREACHABLE = 3
EXIT_SIGNAL = 128

TRAFFIC, TENANTS, REQUESTS, OUTPUT = "Traffic", "Tenants", "Requests", "Output"


def replay(
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE...",
            help="Azure CSV, BurstGPT CSV or Mooncake JSON lines, also .gz, or "
            "synthetic:rate=5,duration=60,prompt=128,output=64. APP=TRACE names its app; "
            "several are merged.",
        ),
    ],
    target: Annotated[str, typer.Option(help="Address of the gateway or engine.")],
    tenants: Annotated[
        str, typer.Option(metavar="SPEC", help="NAME=KEY[:SHARE],… or a YAML file.")
    ],
    start: Annotated[
        float, typer.Option(help="Skip so many seconds of the trace.", rich_help_panel=TRAFFIC)
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(help="At most so many requests.", rich_help_panel=TRAFFIC)
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            help="Seconds of the replay. Two of --limit, --duration, --rate fix the third.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Mean requests/s.", rich_help_panel=TRAFFIC)
    ] = None,
    time_scale: Annotated[
        float | None,
        typer.Option(help="Stretch time: 2 is half as fast.", rich_help_panel=TRAFFIC),
    ] = None,
    flood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT:FACTOR@START-END",
            help="On top of the replay, the tenant sends FACTOR times the mean rate of the others "
            "between these seconds of it.",
            rich_help_panel=TRAFFIC,
        ),
    ] = None,
    interactions: Annotated[
        bool,
        typer.Option(
            help="Chain each user's requests to interactions: 69 % single calls, a long tail.",
            rich_help_panel=TRAFFIC,
        ),
    ] = False,
    think: Annotated[
        float,
        typer.Option(
            min=0.0, help="Mean pause inside an interaction, seconds.", rich_help_panel=TRAFFIC
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of every draw.", rich_help_panel=TRAFFIC)] = 0,
    skew: Annotated[
        str,
        typer.Option(
            help="How unequal tenants without SHARE, and users, are: none, zipf[:S], "
            "lognormal[:SIGMA] (2.7 is ServeGen's).",
            rich_help_panel=TENANTS,
        ),
    ] = "zipf:1",
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME=WEIGHT,…",
            help="Weights at the target, for the fairness figures.",
            rich_help_panel=TENANTS,
        ),
    ] = "",
    scale_tokens: Annotated[
        float, typer.Option(help="Multiply all lengths.", rich_help_panel=REQUESTS)
    ] = 1.0,
    max_prompt: Annotated[
        int | None, typer.Option(help="Cap of the prompt, tokens.", rich_help_panel=REQUESTS)
    ] = None,
    max_output: Annotated[
        int | None, typer.Option(help="Cap of the output, tokens.", rich_help_panel=REQUESTS)
    ] = None,
    natural_length: Annotated[
        bool,
        typer.Option(
            help="Let the model end; else the trace's output length is forced (vLLM's ignore_eos).",
            rich_help_panel=REQUESTS,
        ),
    ] = False,
    shared_prefix: Annotated[
        int,
        typer.Option(
            min=0,
            help="Tokens alike in all prompts of a tenant and app; else prefix caches are missed.",
            rich_help_panel=REQUESTS,
        ),
    ] = 0,
    model: Annotated[
        str,
        typer.Option(help="Default: the target's only model, else auto.", rich_help_panel=REQUESTS),
    ] = "",
    api: Annotated[
        Api,
        typer.Option(
            help="chat adds the tokens of the model's template; completions is exact.",
            rich_help_panel=REQUESTS,
        ),
    ] = "chat",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds per attempt.", rich_help_panel=REQUESTS)
    ] = 600.0,
    retries: Annotated[
        int,
        typer.Option(
            min=0, help="After 429 and failures, honouring Retry-After.", rich_help_panel=REQUESTS
        ),
    ] = 0,
    max_duration: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds after which what is still under way is cut off.",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the figures as JSON.", rich_help_panel=OUTPUT)
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write a JSON line per call.", rich_help_panel=OUTPUT)
    ] = None,
    markdown: Annotated[
        bool, typer.Option(help="Print the table as Markdown.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Replay a trace in open loop, spread over tenants, and print what each of them got.

    Ends with 0; 1 when no call was served; 2 for wrong options; 3 when the target does not answer;
    130 after Ctrl-C.
    """
    try:
        check_writable(json, record)
        senders = read_tenants(tenants)
        tenant_weights = read_weights(weights, senders)
        arrivals = Arrivals(
            start_s=start, limit=limit, duration_s=duration, rate=rate, time_scale=time_scale
        )
        lengths = Lengths(scale=scale_tokens, max_prompt=max_prompt, max_output=max_output)
        plan = build_plan(
            [lengths.fit(request) for request in arrivals.fit(read_traces(traces))],
            senders,
            skew=Skew.parse(skew),
            floods=[Flood.parse(text, senders) for text in flood or ()],
            think_s=think if interactions else None,
            seed=seed,
        )
        say(describe(plan, senders))
        request = Request(
            model=model,
            api=api,
            timeout_s=timeout,
            retries=retries,
            natural_length=natural_length,
        )
        job = Job(
            target=target,
            tenants=senders,
            plan=plan,
            request=request,
            shared_prefix=shared_prefix,
            max_duration_s=max_duration,
            seed=seed,
        )
        finished = run(job)
    except LoadgenError as error:
        say(f"loadgen: {error}")
        code = EXIT_UNREACHABLE if isinstance(error, TargetError) else EXIT_USAGE
        raise typer.Exit(code) from error
    report(finished, tenant_weights, json=json, record=record, markdown=markdown)
    raise typer.Exit(exit_code(finished))


def report(
    finished: Finished,
    weights: Mapping[str, float],
    *,
    json: Path | None,
    record: Path | None,
    markdown: bool,
) -> None:
    """Write files first, then print: a closed pipe costs nobody the figures."""
    summary = summarise(finished.outcomes, weights)
    if json is not None:
        write_json(summary, json)
    if record is not None:
        write_record(finished.outcomes, record)
    print_report(summary, finished.outcomes, sys.stdout, markdown=markdown)
    if finished.outcomes:
        each_ms = 1000 * finished.cpu_s / len(finished.outcomes)
        typer.echo(f"generator CPU                      {each_ms:.2f} ms per request")
    if problem := nothing_served(finished.outcomes):
        say(f"loadgen: {problem}")


def describe(plan: Sequence[Chain], tenants: Mapping[str, Tenant]) -> str:
    """The plan in a line: how many calls, how long, from whom."""
    calls = [call for chain in plan for call in chain.calls]
    by_tenant = Counter(call.tenant for call in calls)
    senders = ", ".join(f"{name} {by_tenant[name]}" for name in tenants)
    tokens = sum(call.prompt_tokens for call in calls), sum(call.output_tokens for call in calls)
    return (
        f"{len(calls)} calls in {plan[-1].start_s:.0f} s ({senders}); "
        f"{tokens[0]:,} prompt and {tokens[1]:,} output tokens"
    )


def nothing_served(outcomes: Sequence[Outcome]) -> str:
    """Why the run is of no use: nothing completed and nothing throttled. Empty when it is."""
    if any(outcome.result != "error" for outcome in outcomes):
        return ""
    reasons: Counter[str] = Counter()
    for (_, _, reason), count in lost_by_cause(outcomes).items():
        reasons[reason] += count
    causes = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())  # noqa: RUF001
    return f"no call was served: {causes or 'none was sent'}"


def exit_code(finished: Finished) -> int:
    """0, 1 when nothing was served, 128 + the signal that ended the run."""
    if finished.stopped_by is not None:
        return EXIT_SIGNAL + finished.stopped_by
    return EXIT_NOTHING_SERVED if nothing_served(finished.outcomes) else 0
