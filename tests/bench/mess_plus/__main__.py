"""``python -m tests.bench.mess_plus DATA``: what MESS+ satisfies, costs and misses, over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fairgate.config.routing import MessPlus as Settings
from tests.bench.mess_plus.missed import plot, violations
from tests.bench.mess_plus.run import Result, run
from tests.bench.mess_plus.stream import Stream, recorded

AGREED = 0.55
_AT = (100, 200, 500, 1000, 2000, 5000)
_HEAD = (
    f"{'case':<30} {'worst t>=1500':>22} {'at the end':>22} {'kept':>6} {'cost':>22} "
    f"{'last 500':>8} {'dearest: worst':>14} {'end':>6}"
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mess_plus", description=__doc__)
    parser.add_argument("data", type=Path, help="nine-model records, JSON lines")
    parser.add_argument("--seeds", type=int, default=20, help="random orders")
    parser.add_argument("--thrift", type=float, default=Settings().thrift, help="V")
    parser.add_argument("--exploration", type=float, default=Settings().exploration, help="c")
    parser.add_argument("--output", type=Path, default=Path("build/mess_plus"), help="of the plot")
    options = parser.parse_args()
    stream = recorded(options.data)
    settings = Settings(thrift=options.thrift, exploration=options.exploration)
    seeds = range(options.seeds)
    shares = ", ".join(
        f"{m} {g:.3f}" for m, g in zip(stream.lanes, stream.good.mean(0), strict=True)
    )
    print(f"{len(stream)} requests, {options.seeds} orders; satisfied by one lane alone: {shares}")
    print(f"agreed {AGREED}, prices {stream.prices}, V {settings.thrift}, c {settings.exploration}")
    print("\nless what was agreed: mean over orders [least, largest]; cost of the dearest lane's;")
    print("kept: orders in which the level is kept at the end; dearest: that lane alone")
    print("goals: worst >= -0.02, at the end >= 0, cost <= 0.5; after a shift it recovers\n")
    print(_HEAD)
    one = {"acme": AGREED}
    table = {
        "all judged": lambda s: run(stream.shuffled(s), one, seed=s, settings=settings),
        "one in five judged": lambda s: run(
            stream.shuffled(s), one, feedback=0.2, seed=s, settings=settings
        ),
        "middle lane breaks at half": lambda s: run(
            stream.breaking(1, s), one, seed=s, settings=settings
        ),
        "task after task": lambda s: run(stream.by_task(s), one, seed=s, settings=settings),
    }
    ran = {}
    for name, work in table.items():
        ran[name] = [work(s)["acme"] for s in seeds]
        _row(name, ran[name])
    _tenants(stream, settings, seeds)
    both = {"judged": AGREED, "nobody judges": AGREED}
    silent = [
        run(stream.shuffled(s), both, unheard={"nobody judges"}, seed=s, settings=settings)
        for s in seeds
    ]
    for tenant in both:
        _row(f"together: {tenant}", [r[tenant] for r in silent])
    _violation(ran["all judged"], settings)
    print(f"\nplotted in {plot(ran, settings, options.output)}")


def _tenants(stream: Stream, settings: Settings, seeds: Sequence[int]) -> None:
    levels = {"modest": 0.45, "usual": 0.55, "strict": 0.6}
    together = [run(stream.shuffled(s), levels, seed=s, settings=settings) for s in seeds]
    for tenant, agreed in levels.items():
        _row(f"together: {tenant} {agreed}", [r[tenant] for r in together], after=500)


def _row(name: str, results: Sequence[Result], after: int = 1500) -> None:
    def spread(measure: Callable[[Result], float]) -> str:
        found = [measure(r) for r in results]
        return f"{np.mean(found):7.3f} [{min(found):6.3f},{max(found):6.3f}]"

    def mean(measure: Callable[[Result], float]) -> float:
        return float(np.mean([measure(r) for r in results]))

    alone = [r.by_dearest() for r in results]
    print(
        f"{name:<30} {spread(lambda r: r.worst(after)):>22} {spread(Result.last):>22} "
        f"{mean(lambda r: r.last() >= 0):6.0%} {spread(lambda r: r.cost):>22} "
        f"{mean(lambda r: r.last(500)):8.3f} {np.mean([r.worst(after) for r in alone]):14.3f} "
        f"{np.mean([r.last() for r in alone]):6.3f}"
    )


def _violation(results: Sequence[Result], settings: Settings) -> None:
    print("\nmissed, max(0, agreed - running), all judged, beside the theory O(V/T + 1/sqrt(T))\n")
    print(f"{'T':>6} {'mean':>8} {'largest':>8} {'V/T+1/sqrt(T)':>14} {'largest/theory':>15}")
    for at in violations(results, settings, _AT):
        print(
            f"{at.requests:6} {at.mean:8.4f} {at.largest:8.4f} {at.theory:14.4f} "
            f"{at.largest / at.theory:15.3f}"
        )


if __name__ == "__main__":
    main()
