"""The simulated engine's pure core: step times, and what the scheduler promises on any input."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairgate.engines.simulated.scheduler import (
    BLOCK_TOKENS,
    Scheduler,
    SchedulingPolicy,
    Sequence,
    StepResult,
    blocks_for,
)
from fairgate.engines.simulated.timing import PROFILES, TimingProfile

PROFILE = TimingProfile(1_000_000, 7_001, 30_011, 53)


@dataclass(frozen=True)
class Job:
    """One request of a made-up trace."""

    arrival: int
    prompt: int
    output: int
    priority: int = 0
    cached: int = 0
    abort_after: int | None = None
    """Aborted this long after its arrival."""

    def sequence(self, name: str) -> Sequence:
        cached = min(self.cached, self.prompt - 1)
        return Sequence(name, self.prompt, self.output, self.priority, self.arrival, cached)


@dataclass
class Run:
    """What a trace run through a scheduler gave."""

    token_times: dict[str, list[int]] = field(default_factory=dict)
    finish_times: dict[str, int] = field(default_factory=dict)
    preemptions: int = 0
    calls: int = 0


def replay(scheduler: Scheduler, jobs: list[Job], *, merge: bool) -> Run:
    """Run a trace in virtual time, with single steps or with merged ones."""
    sequences = {str(i): job.sequence(str(i)) for i, job in enumerate(jobs)}
    events = [(job.arrival, 0, str(i)) for i, job in enumerate(jobs)]
    events += [
        (job.arrival + job.abort_after, 1, str(i))
        for i, job in enumerate(jobs)
        if job.abort_after is not None
    ]
    events.sort()
    run, now = Run(), 0
    while events or scheduler.busy:
        if not scheduler.busy:
            now = max(now, events[0][0])
        while events and events[0][0] <= now:
            _, aborts, name = events.pop(0)
            (scheduler.abort if aborts else scheduler.add)(sequences[name])
        if not scheduler.busy:
            continue
        horizon = events[0][0] - now if events else None
        result = scheduler.advance(horizon) if merge else scheduler.step()
        note(run, result, now)
        now += result.duration_ns
        check(scheduler, result)
    return run


def note(run: Run, result: StepResult, now: int) -> None:
    run.calls += 1
    run.preemptions += len(result.preempted)
    times = [now + result.elapsed_ns(n) for n in range(1, result.steps + 1)]
    for sequence in result.emitting:
        run.token_times.setdefault(sequence.id, []).extend(times)
    for sequence in result.finished:
        run.finish_times[sequence.id] = times[-1]


def check(scheduler: Scheduler, result: StepResult) -> None:
    """What holds after every step."""
    held = sum(s.blocks for s in scheduler._running)
    assert held + scheduler._free_blocks == scheduler.num_blocks
    assert 0 <= scheduler.kv_usage <= 1
    assert scheduler.num_running <= scheduler.max_num_seqs
    assert result.prefill_tokens <= scheduler.max_num_batched_tokens
    assert result.emitting or result.finished or result.prefill_tokens
    for sequence in scheduler._running:
        assert sequence.blocks >= blocks_for(sequence.tokens - 1)


def engine(
    kv_blocks: int, *, seqs: int = 4, batched: int = 24, policy: SchedulingPolicy = "fcfs"
) -> Scheduler:
    return Scheduler(
        PROFILE,
        max_num_seqs=seqs,
        kv_cache_tokens=kv_blocks * BLOCK_TOKENS,
        max_num_batched_tokens=batched,
        policy=policy,
    )


JOBS = st.lists(
    st.builds(
        Job,
        arrival=st.integers(0, 60_000_000),
        prompt=st.integers(1, 80),
        output=st.integers(0, 80),
        priority=st.integers(-2, 2),
        cached=st.sampled_from([0, 0, 16, 48]),
        abort_after=st.one_of(st.none(), st.none(), st.integers(0, 40_000_000)),
    ),
    max_size=12,
)
ENGINES = st.fixed_dictionaries(
    {
        "kv_blocks": st.integers(10, 24),  # the longest job needs ten: preemptions are common
        "seqs": st.integers(1, 6),
        "batched": st.integers(6, 64),
        "policy": st.sampled_from(["fcfs", "priority"]),
    }
)


@settings(max_examples=300)
@given(jobs=JOBS, limits=ENGINES)
def test_merged_steps_give_the_very_token_times_of_single_steps(jobs, limits):
    single = replay(engine(**limits), jobs, merge=False)
    merged = replay(engine(**limits), jobs, merge=True)
    assert merged.token_times == single.token_times
    assert merged.finish_times == single.finish_times
    assert merged.preemptions == single.preemptions
    assert merged.calls <= single.calls


@settings(max_examples=200)
@given(jobs=JOBS, limits=ENGINES)
def test_every_sequence_ends_with_all_its_tokens_and_leaves_nothing_behind(jobs, limits):
    scheduler = engine(**limits)
    run = replay(scheduler, jobs, merge=True)
    for i, job in enumerate(jobs):
        if job.abort_after is None:
            assert str(i) in run.finish_times
            assert len(run.token_times.get(str(i), [])) == job.output
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.kv_usage) == (0, 0, 0)


@settings(max_examples=200)
@given(jobs=JOBS, limits=ENGINES)
def test_no_place_stays_empty_while_the_head_of_the_line_fits(jobs, limits):
    scheduler = engine(**limits)
    for i, job in enumerate(jobs):
        scheduler.add(job.sequence(str(i)))
    while scheduler.busy:
        free, running = scheduler._free_blocks, scheduler.num_running
        head = min(scheduler._waiting, key=lambda s: s.rank, default=None)
        result = scheduler.step()
        if head is None or head in result.admitted or result.preempted:
            continue
        batched = result.prefill_tokens + running
        assert (
            running == scheduler.max_num_seqs
            or blocks_for(head.tokens) > free - running
            or batched >= scheduler.max_num_batched_tokens
        )


def test_kv_that_runs_out_preempts_the_newest_sequence_which_still_finishes():
    scheduler = engine(6, batched=256)
    jobs = [Job(0, 32, 40), Job(1, 32, 40)]
    run = replay(scheduler, jobs, merge=True)
    assert run.preemptions >= 1
    assert run.finish_times["0"] < run.finish_times["1"]
    assert [len(run.token_times[i]) for i in "01"] == [40, 40]


def test_priority_orders_the_line_and_fcfs_ignores_it():
    jobs = [Job(0, 10, 5), Job(1, 10, 5, priority=3), Job(2, 10, 5, priority=-3)]
    order = {}
    for policy in ("fcfs", "priority"):
        run = replay(engine(20, seqs=1, policy=policy), jobs, merge=True)
        order[policy] = sorted(run.finish_times, key=lambda name: run.finish_times[name])
    assert order == {"fcfs": ["0", "1", "2"], "priority": ["0", "2", "1"]}


def test_a_long_prompt_is_prefilled_in_chunks_beside_running_decodes():
    scheduler = engine(20, batched=24)
    scheduler.add(Sequence("short", 8, 20))
    scheduler.step()
    scheduler.add(Sequence("long", 60, 1))
    chunks = []
    while scheduler.num_waiting or not chunks or chunks[-1]:
        result = scheduler.step()
        chunks.append(result.prefill_tokens)
        assert result.emitted["short"] == 1
    assert chunks == [23, 23, 14, 0]


def test_a_shared_prefix_is_computed_once():
    scheduler = engine(20, batched=256)
    scheduler.add(Sequence("first", 50, 2))
    scheduler.add(Sequence("second", 50, 2, cached_tokens=49))
    assert scheduler.step().prefill_tokens == 51


def test_an_abort_frees_the_sequence_at_once():
    scheduler = engine(20, seqs=1)
    running, waiting = Sequence("a", 10, 50), Sequence("b", 10, 50)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.step()
    scheduler.abort(waiting)
    scheduler.abort(running)
    scheduler.abort(running)
    assert (scheduler.busy, scheduler.kv_usage) == (False, 0)


def test_misuse_raises_at_once():
    scheduler = engine(4)
    with pytest.raises(RuntimeError, match="busy"):
        scheduler.step()
    with pytest.raises(ValueError, match="the cache holds 64"):
        scheduler.add(Sequence("big", 60, 6))
    fits = Sequence("fits", 60, 5)
    scheduler.add(fits)
    with pytest.raises(ValueError, match="added twice"):
        scheduler.add(fits)
    with pytest.raises(ValueError, match="prompt_tokens"):
        Sequence("empty", 0, 5)
    with pytest.raises(ValueError, match="cached_tokens"):
        Sequence("cached", 5, 5, cached_tokens=5)
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        engine(4, seqs=32, batched=16)


def throughput(profile: TimingProfile, sequences: int, *, prompt: int = 40, output: int = 128):
    """Output tokens per second of a batch that starts together, and its time to first token."""
    scheduler = Scheduler(
        profile, max_num_seqs=sequences, kv_cache_tokens=1 << 20, max_num_batched_tokens=8192
    )
    jobs = [Job(0, prompt, output) for _ in range(sequences)]
    run = replay(scheduler, jobs, merge=True)
    first = max(times[0] for times in run.token_times.values())
    last = max(run.finish_times.values())
    return sequences * (output - 1) * 1e9 / (last - first), first / 1e9


def test_profiles_reproduce_what_was_measured():
    # cpu-small: 51 and 450 tokens/s; the 70B rows of the source data, by batch size
    small = PROFILES["cpu-small"]
    assert throughput(small, 1)[0] == pytest.approx(51, rel=0.03)
    assert throughput(small, 64)[0] == pytest.approx(450, rel=0.05)
    assert throughput(PROFILES["cpu-large"], 1)[0] == pytest.approx(17, rel=0.03)
    a100, h100 = PROFILES["a100-70b"], PROFILES["h100-70b"]
    assert throughput(a100, 1, prompt=512)[0] == pytest.approx(1 / 0.0449, rel=0.03)
    assert throughput(a100, 64, prompt=512)[0] == pytest.approx(64 / 0.0713, rel=0.05)
    assert throughput(h100, 64, prompt=512)[0] == pytest.approx(64 / 0.0500, rel=0.05)
    assert throughput(h100, 1, prompt=8192)[1] == pytest.approx(0.85, rel=0.1)


def test_speed_divides_every_step():
    assert TimingProfile(100, 10, 30, 4).at_speed(2) == TimingProfile(50, 5, 15, 2)
    with pytest.raises(ValueError, match="speed"):
        PROFILE.at_speed(0)
