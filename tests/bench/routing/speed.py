"""What a decision and a training cost."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learning import records
from fairgate.routing.learning.training import train
from fairgate.routing.loading import load_predictor

WORDS = 1000
DECISIONS = 4000
TRACED = 200


def rows(data: Path) -> Iterator[dict[str, str]]:
    """Decisions on prompts of 1,000 words made of recorded ones, and training on all records."""
    outcomes = records.load(data)
    words = " ".join(outcomes.prompts).split(" ")
    starts = range(0, len(words) - WORDS, WORDS)
    prompts = [" ".join(words[start : start + WORDS]) for start in starts]
    predictor = load_predictor()
    hybrid = Hybrid(predictor.artifact)
    wall, cpu = np.empty(DECISIONS), np.empty(DECISIONS)
    tracemalloc.start()
    for prompt in prompts[:TRACED]:
        hybrid.choose(predictor.predict(prompt), 0.5)
    before = tracemalloc.get_traced_memory()[0]
    for prompt in prompts[TRACED : 2 * TRACED]:
        hybrid.choose(predictor.predict(prompt), 0.5)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for i in range(DECISIONS):
        start, busy = time.perf_counter(), time.thread_time()
        hybrid.choose(predictor.predict(prompts[i % len(prompts)]), 0.5)
        wall[i], cpu[i] = time.perf_counter() - start, time.thread_time() - busy
    for name, took in (("decision, elapsed", wall), ("decision, CPU of its thread", cpu)):
        p50, p99 = 1e6 * np.percentile(took, (50, 99))
        figure = f"p50 {p50:.0f} µs, p99 {p99:.0f} µs"
        yield {"what": name, "figure": figure, "goal": "p50 <= 300 µs, p99 <= 1,000 µs"}
    yield {
        "what": f"memory kept by {TRACED} more decisions",
        "figure": f"{grown} bytes",
        "goal": "flat",
    }
    start, busy = time.perf_counter(), time.process_time()
    train(outcomes, NGrams())
    elapsed, used = time.perf_counter() - start, time.process_time() - busy
    yield {
        "what": f"training on {len(outcomes)} records",
        "figure": f"{elapsed:.0f} s elapsed, {used:.0f} s of CPU",
        "goal": "< 300 s",
    }
