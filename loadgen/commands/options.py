"""The options of the sub-commands, each declared once; their defaults stand with the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairgate.engines.simulated.timing import PROFILES
from loadgen.client import Api

TRAFFIC, TENANTS, REQUESTS = "Traffic", "Tenants", "Requests"
LOAD, ENGINES, OWN_SITE, OUTPUT = "Load", "Engines", "Your own site", "Output"

# What is replayed

Traces = Annotated[
    list[str],
    typer.Argument(
        metavar="TRACE...",
        help="Azure CSV, BurstGPT CSV or Mooncake JSON lines, also .gz, or "
        "synthetic:rate=5,duration=60,prompt=128,output=64. APP=TRACE names its app; "
        "several are merged.",
    ),
]
Target = Annotated[str, typer.Option(help="Address of the gateway or engine.")]
Tenants = Annotated[str, typer.Option(metavar="SPEC", help="NAME=KEY[:SHARE],… or a YAML file.")]
Start = Annotated[
    float, typer.Option(help="Skip so many seconds of the trace.", rich_help_panel=TRAFFIC)
]
Limit = Annotated[
    int | None, typer.Option(help="At most so many requests.", rich_help_panel=TRAFFIC)
]
Duration = Annotated[
    float | None,
    typer.Option(
        help="Seconds of the replay. Two of --limit, --duration, --rate fix the third.",
        rich_help_panel=TRAFFIC,
    ),
]
Rate = Annotated[float | None, typer.Option(help="Mean requests/s.", rich_help_panel=TRAFFIC)]
TimeScale = Annotated[
    float | None, typer.Option(help="Stretch time: 2 is half as fast.", rich_help_panel=TRAFFIC)
]
Floods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENANT:FACTOR@START-END",
        help="On top of the replay, the tenant sends FACTOR times the mean rate of the others "
        "between these seconds of it.",
        rich_help_panel=TRAFFIC,
    ),
]
Interactions = Annotated[
    bool,
    typer.Option(
        help="Chain each user's requests to interactions: 69 % single calls, a long tail.",
        rich_help_panel=TRAFFIC,
    ),
]
Think = Annotated[
    float,
    typer.Option(
        min=0.0, help="Mean pause inside an interaction, seconds.", rich_help_panel=TRAFFIC
    ),
]
Seed = Annotated[int, typer.Option(help="Of every draw.", rich_help_panel=TRAFFIC)]
SkewOption = Annotated[
    str,
    typer.Option(
        help="How unequal tenants without SHARE, and users, are: none, zipf[:S], "
        "lognormal[:SIGMA] (2.7 is ServeGen's).",
        rich_help_panel=TENANTS,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="NAME=WEIGHT,…",
        help="Weights at the target, for the fairness figures.",
        rich_help_panel=TENANTS,
    ),
]

# Requests

ScaleTokens = Annotated[
    float, typer.Option(min=0.001, help="Multiply all lengths.", rich_help_panel=REQUESTS)
]
MaxPrompt = Annotated[
    int | None, typer.Option(help="Cap of the prompt, tokens.", rich_help_panel=REQUESTS)
]
MaxOutput = Annotated[
    int | None, typer.Option(help="Cap of the output, tokens.", rich_help_panel=REQUESTS)
]
NaturalLength = Annotated[
    bool,
    typer.Option(
        help="Let the model end; else the trace's output length is forced (vLLM's ignore_eos).",
        rich_help_panel=REQUESTS,
    ),
]
SharedPrefix = Annotated[
    int,
    typer.Option(
        min=0,
        help="Tokens alike in all prompts of a tenant and app; else prefix caches are missed.",
        rich_help_panel=REQUESTS,
    ),
]
Model = Annotated[
    str,
    typer.Option(help="Default: the target's only model, else auto.", rich_help_panel=REQUESTS),
]
ApiOption = Annotated[
    Api,
    typer.Option(
        help="chat adds the tokens of the model's template; completions is exact.",
        rich_help_panel=REQUESTS,
    ),
]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds per attempt.", rich_help_panel=REQUESTS)
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Times a client comes back after a 429 (replay: also after failures), honouring "
        "Retry-After.",
        rich_help_panel=REQUESTS,
    ),
]
MaxDuration = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds after which what is still under way is cut off.",
        rich_help_panel=REQUESTS,
    ),
]

# Scenarios, and how much of them

Policies = Annotated[
    str,
    typer.Option(
        help="Names with commas between, all (the presets), ablations, or (simulate) config, "
        "which is that of --config.",
        rich_help_panel=LOAD,
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, help="Runs of each, with other draws.", rich_help_panel=LOAD)
]
Load = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        help="Offered load; 1 is all that the engines can serve. Default: the scenario's own.",
        rich_help_panel=LOAD,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the Azure traces; without them, synthetic ones like them.",
        rich_help_panel=LOAD,
    ),
]

# Engines

EnginesFrom = Annotated[
    str,
    typer.Option(
        metavar="FILE|demo|sim",
        help="Engines of a fairgate configuration; of the demo (real vLLM on the CPU); or a "
        "simulated one over HTTP.",
        rich_help_panel=ENGINES,
    ),
]
LaneOfFile = Annotated[
    str, typer.Option(help="Lane of that file; default: the first.", rich_help_panel=ENGINES)
]
FittedProfile = Annotated[
    str,
    typer.Option(
        help="Timing profile of the simulation, fitted to the engines' capacity; default: "
        "cpu-LANE, else cpu-small. Simulated engines keep their own.",
        rich_help_panel=ENGINES,
    ),
]
Headroom = Annotated[
    str,
    typer.Option(
        help="Shares of each lane kept for tenants below theirs, commas between; default: as the "
        "lanes say.",
        rich_help_panel=ENGINES,
    ),
]

# A site of one's own

OwnConfig = Annotated[
    Path | None,
    typer.Option(
        help="Your fairgate.yaml: its tenants, weights, limits, lanes and prices, with simulated "
        "engines of the same capacity; its policy is called config.",
        rich_help_panel=OWN_SITE,
    ),
]
PoolOfFile = Annotated[
    str, typer.Option(help="Of that file, if it has several.", rich_help_panel=OWN_SITE)
]
OwnProfile = Annotated[
    str,
    typer.Option(
        help=f"How fast its engines are: {', '.join(PROFILES)}; default: cpu-LANE.",
        rich_help_panel=OWN_SITE,
    ),
]
Shares = Annotated[
    str,
    typer.Option(
        metavar="NAME=SHARE,...",
        help="Of a trace's requests, by tenant; default: unequal ones (Zipf).",
        rich_help_panel=OWN_SITE,
    ),
]

# Output

Report = Annotated[
    Path | None,
    typer.Option(
        help="Folder for report.html, report.json and report.md (measure: and logs).",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    Path | None, typer.Option(help="Write the figures as JSON.", rich_help_panel=OUTPUT)
]
Record = Annotated[
    Path | None, typer.Option(help="Write a JSON line per call.", rich_help_panel=OUTPUT)
]
Markdown = Annotated[
    bool, typer.Option(help="Print the table as Markdown.", rich_help_panel=OUTPUT)
]
