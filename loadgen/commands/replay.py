"""``loadgen replay``: sends a trace to a gateway or engine, tenant by tenant."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from loadgen.arrivals import Arrivals, Lengths
from loadgen.client import Request
from loadgen.commands import options
from loadgen.commands.common import EXIT_SIGNAL, check_writable, errors_told, say
from loadgen.floods import Flood
from loadgen.job import Finished, Job, run
from loadgen.metrics import summarise
from loadgen.plan import build_plan
from loadgen.records import Chain, Outcome, TraceRequest
from loadgen.report import lost_by_cause, print_report, write_json, write_record
from loadgen.tenants import Skew, Tenant, read_tenants, read_weights
from loadgen.traces import read_traces

EXIT_NOTHING_SERVED = 1


def replay(
    traces: options.Traces,
    target: options.Target,
    tenants: options.Tenants,
    start: options.Start = 0.0,
    limit: options.Limit = None,
    duration: options.Duration = None,
    rate: options.Rate = None,
    time_scale: options.TimeScale = None,
    flood: options.Floods = None,
    interactions: options.Interactions = False,
    think: options.Think = 1.0,
    seed: options.Seed = 0,
    skew: options.SkewOption = "zipf:1",
    weights: options.Weights = "",
    scale_tokens: options.ScaleTokens = 1.0,
    max_prompt: options.MaxPrompt = None,
    max_output: options.MaxOutput = None,
    natural_length: options.NaturalLength = False,
    shared_prefix: options.SharedPrefix = 0,
    model: options.Model = "",
    api: options.ApiOption = "chat",
    timeout: options.Timeout = 600.0,
    retries: options.Retries = 0,
    max_duration: options.MaxDuration = None,
    json: options.Json = None,
    record: options.Record = None,
    markdown: options.Markdown = False,
) -> None:
    """Replay a trace in open loop, spread over tenants, and print what each of them got.

    Ends with 0; 1 when no call was served; 2 for wrong options; 3 when the target does not answer;
    130 after Ctrl-C.
    """
    with errors_told():
        check_writable(json, record)
        senders = read_tenants(tenants)
        tenant_weights = read_weights(weights, senders)
        arrivals = Arrivals(
            start_s=start, limit=limit, duration_s=duration, rate=rate, time_scale=time_scale
        )
        lengths = Lengths(scale=scale_tokens, max_prompt=max_prompt, max_output=max_output)
        plan = build_plan(
            fitted(traces, arrivals, lengths),
            senders,
            skew=Skew.parse(skew),
            floods=[Flood.parse(text, senders) for text in flood or ()],
            think_s=think if interactions else None,
            seed=seed,
        )
        say(describe(plan, senders))
        request = Request(
            model=model, api=api, timeout_s=timeout, retries=retries, natural_length=natural_length
        )
        finished = run(
            Job(
                target=target, tenants=senders, plan=plan, request=request,
                shared_prefix=shared_prefix, max_duration_s=max_duration, seed=seed,
            )
        )  # fmt: skip
    report(finished, tenant_weights, json=json, record=record, markdown=markdown)
    raise typer.Exit(exit_code(finished))


def fitted(traces: list[str], arrivals: Arrivals, lengths: Lengths) -> list[TraceRequest]:
    """The requests of the traces, as many, as fast and as long as is wanted."""
    return [lengths.fit(request) for request in arrivals.fit(read_traces(traces))]


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
