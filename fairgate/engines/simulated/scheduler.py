"""Continuous batching as a pure state machine: no clock, no I/O, same input, same result.

It schedules as vLLM's V1 scheduler does (chunked prefill, decodes first, KV cache in blocks,
preemption by recompute), simplified in two ways: a sequence gets the blocks of its whole prompt
when it is admitted, and prefix caching is only what ``Sequence.cached_tokens`` says.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, Literal

from fairgate.engines.simulated.timing import TimingProfile

BLOCK_TOKENS: Final = 16
MAX_NUM_BATCHED_TOKENS: Final = 2048

SchedulingPolicy = Literal["fcfs", "priority"]


def blocks_for(tokens: int) -> int:
    """KV blocks that so many tokens occupy."""
    return -(-tokens // BLOCK_TOKENS)


@dataclass(slots=True, eq=False)
class Sequence:
    """One output to generate; compared by identity.

    Counts are tokens. ``output_tokens`` 0 is a pooling request (embeddings): it ends with its
    prefill. ``arrival`` is any number that orders arrivals. ``cached_tokens`` of the prompt need no
    computing at first (a shared prefix), but they do occupy KV of their own.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    """Smaller runs first under the ``priority`` policy."""
    arrival: float = 0
    cached_tokens: int = 0
    preemptions: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)
    """Prompt and output so far."""
    pending: int = field(default=0, init=False)
    """How many of ``tokens`` still need their KV computed; 1 while decoding."""
    blocks: int = field(default=0, init=False)
    """KV blocks it holds; 0 while it waits."""
    rank: tuple[float, float, int] = field(default=(0, 0, 0), init=False)
    """Place in line: smaller goes first, and is preempted last."""

    def __post_init__(self) -> None:
        """Check the counts: misuse fails here, not in the middle of a run."""
        if self.prompt_tokens < 1 or self.output_tokens < 0:
            raise ValueError(f"sequence {self.id}: needs prompt_tokens >= 1 and output_tokens >= 0")
        if not 0 <= self.cached_tokens < self.prompt_tokens:
            raise ValueError(f"sequence {self.id}: cached_tokens must be less than prompt_tokens")
        self.tokens = self.prompt_tokens
        self.pending = self.prompt_tokens - self.cached_tokens

    @property
    def emitted(self) -> int:
        """Output tokens so far."""
        return min(self.tokens - self.prompt_tokens, self.output_tokens)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one engine step did, or several identical decode steps taken as one.

    Each sequence of ``emitting`` gained one token per step, the j-th (from 1) at
    ``elapsed_ns(j)`` after the start.
    """

    steps: int
    first_ns: int
    """Duration of the first step; each further one takes ``growth_ns`` more than the last."""
    growth_ns: int
    prefill_tokens: int
    emitting: list[Sequence]
    finished: list[Sequence]
    admitted: list[Sequence]
    preempted: list[Sequence]

    def elapsed_ns(self, steps: int) -> int:
        """Time from the start to the end of the given number of steps, in nanoseconds."""
        return _elapsed_ns(self.first_ns, self.growth_ns, steps)

    @property
    def duration_ns(self) -> int:
        """Time of all its steps, in nanoseconds."""
        return self.elapsed_ns(self.steps)

    @property
    def duration_s(self) -> float:
        """Time of all its steps, in seconds."""
        return self.duration_ns / 1e9

    @property
    def emitted(self) -> dict[str, int]:
        """Output tokens by sequence id."""
        return dict.fromkeys((s.id for s in self.emitting), self.steps)


class Scheduler:
    """The waiting line, the running batch and the KV cache of one engine."""

    def __init__(
        self,
        profile: TimingProfile,
        *,
        max_num_seqs: int,
        kv_cache_tokens: int,
        max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
        policy: SchedulingPolicy = "fcfs",
    ) -> None:
        """Limits as in vLLM; ``kv_cache_tokens`` is rounded down to whole blocks.

        Raises ``ValueError`` when a step could not hold one token of every running sequence.
        """
        if not 1 <= max_num_seqs <= max_num_batched_tokens or kv_cache_tokens < BLOCK_TOKENS:
            raise ValueError(
                "expected 1 <= max_num_seqs <= max_num_batched_tokens and kv_cache_tokens >= "
                f"{BLOCK_TOKENS}, got {max_num_seqs}, {max_num_batched_tokens}, {kv_cache_tokens}"
            )
        self.profile = profile
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.policy = policy
        self.num_blocks = kv_cache_tokens // BLOCK_TOKENS
        self._free_blocks = self.num_blocks
        self._running: list[Sequence] = []
        self._waiting: set[Sequence] = set()
        self._line: list[tuple[tuple[float, float, int], Sequence]] = []
        self._added = 0

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences in line, preempted ones included."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return 1 - self._free_blocks / self.num_blocks

    @property
    def busy(self) -> bool:
        """There is something to run."""
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence in line; it may run from the next step on.

        Raises ``ValueError`` when the KV cache could not hold it even alone.
        """
        last_kv = sequence.prompt_tokens + max(sequence.output_tokens - 1, 0)
        if blocks_for(last_kv) > self.num_blocks:
            raise ValueError(
                f"sequence {sequence.id}: needs {last_kv} KV tokens, the cache holds "
                f"{self.num_blocks * BLOCK_TOKENS}"
            )
        if sequence in self._waiting or sequence.blocks:
            raise ValueError(f"sequence {sequence.id}: added twice")
        self._added += 1
        priority = sequence.priority if self.policy == "priority" else 0
        sequence.rank = (priority, sequence.arrival, self._added)
        self._enqueue(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence and free its KV at once; nothing happens if it has ended."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)  # its entry in the heap is skipped when it comes up
        elif sequence.blocks:
            self._running.remove(sequence)
            self._release(sequence)

    def step(self) -> StepResult:
        """Run one engine step. Raises ``RuntimeError`` when there is nothing to run."""
        return self._run(merge=False, within_ns=None)

    def advance(self, within_ns: int | None = None) -> StepResult:
        """Run at least one step, and on while the batch only decodes and nothing can change.

        It stops at the end of the step in which a sequence finishes, in which ``within_ns`` is
        reached, or before one that needs a preemption; every token comes exactly when single steps
        would have made it. Costs O(running), however many steps it merges.
        """
        return self._run(merge=True, within_ns=within_ns)

    def _run(self, *, merge: bool, within_ns: int | None) -> StepResult:
        preempted = self._make_room()
        decoding = [s for s in self._running if s.pending == 1]
        chunks, admitted = self._plan_prefill(len(decoding), may_admit=not preempted)
        if not decoding and not chunks:
            raise RuntimeError("step() on an idle scheduler: check `busy` first")
        prefill = sum(n for _, n in chunks)
        kv = sum(s.tokens for s in decoding) + sum(s.tokens - s.pending + n for s, n in chunks)
        first = self.profile.step_ns(prefill, len(decoding), kv)
        growth = 0 if chunks else self.profile.per_kv_token_ns * len(decoding)
        steps = 1
        if merge and not chunks and not preempted:
            steps = self._mergeable(decoding, first, growth, within_ns)
        emitting = self._compute(decoding, chunks, steps)
        return StepResult(
            steps=steps,
            first_ns=first,
            growth_ns=growth,
            prefill_tokens=prefill,
            emitting=[s for s in emitting if s.output_tokens],
            finished=self._finish(emitting),
            admitted=admitted,
            preempted=preempted,
        )

    def _make_room(self) -> list[Sequence]:
        """Give every running sequence the block its next token needs, preempting from the back."""
        needing = [s for s in self._running if s.tokens > s.blocks * BLOCK_TOKENS]
        preempted: list[Sequence] = []
        while len(needing) > self._free_blocks:
            victim = max(self._running, key=lambda s: s.rank)
            self._preempt(victim)
            preempted.append(victim)
            needing = [s for s in needing if s is not victim]
        for sequence in needing:
            sequence.blocks += 1
        self._free_blocks -= len(needing)
        return preempted

    def _plan_prefill(
        self, decoding: int, *, may_admit: bool
    ) -> tuple[list[tuple[Sequence, int]], list[Sequence]]:
        """Share out what the decodes leave of the token budget: started prompts, then new ones."""
        budget = self.max_num_batched_tokens - decoding
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self._running:
            if sequence.pending > 1 and budget:
                chunks.append((sequence, min(sequence.pending, budget)))
                budget -= chunks[-1][1]
        admitted: list[Sequence] = []
        while may_admit and budget and (head := self._admit()):
            admitted.append(head)
            chunks.append((head, min(head.pending, budget)))
            budget -= chunks[-1][1]
        return chunks, admitted

    def _admit(self) -> Sequence | None:
        """Move the head of the line into the batch, if it fits."""
        while self._line and self._line[0][1] not in self._waiting:
            heappop(self._line)  # aborted while waiting
        if not self._line or len(self._running) >= self.max_num_seqs:
            return None
        head = self._line[0][1]
        needed = blocks_for(head.tokens)
        if needed > self._free_blocks:
            return None
        heappop(self._line)
        self._waiting.remove(head)
        head.blocks = needed
        self._free_blocks -= needed
        self._running.append(head)
        return head

    def _mergeable(
        self, decoding: list[Sequence], first: int, growth: int, within_ns: int | None
    ) -> int:
        """How many steps from this one on are the same but for the growing KV.

        A waiting head that does not fit now does not fit later in the run either: only a finished
        or aborted sequence frees a place or a block.
        """
        steps = max(1, min(s.prompt_tokens + s.output_tokens - s.tokens for s in decoding))
        if within_ns is not None:
            reach = range(1, steps)
            covered = bisect_left(reach, within_ns, key=lambda n: _elapsed_ns(first, growth, n))
            steps = min(steps, covered + 1)
        if len(decoding) * blocks_for(steps) <= self._free_blocks:
            return steps
        return bisect_right(
            range(1, steps + 1), self._free_blocks, key=lambda n: _new_blocks(decoding, n)
        )

    def _compute(
        self, decoding: list[Sequence], chunks: list[tuple[Sequence, int]], steps: int
    ) -> list[Sequence]:
        """Apply the planned work; the answer lists the sequences that got tokens (or pooled)."""
        if steps > 1:
            self._free_blocks -= _new_blocks(decoding, steps)
            for sequence in decoding:
                sequence.blocks = blocks_for(sequence.tokens + steps - 1)
        for sequence in decoding:
            sequence.tokens += steps
        emitting = decoding
        for sequence, count in chunks:
            sequence.pending -= count
            if not sequence.pending:
                sequence.pending = 1
                sequence.tokens += 1
                emitting.append(sequence)
        return emitting

    def _finish(self, emitting: list[Sequence]) -> list[Sequence]:
        finished = [s for s in emitting if s.tokens >= s.prompt_tokens + s.output_tokens]
        for sequence in finished:
            self._release(sequence)
        if finished:
            self._running = [s for s in self._running if s.blocks]
        return finished

    def _preempt(self, victim: Sequence) -> None:
        """Back into the line; all of its KV has to be computed again."""
        self._running.remove(victim)
        self._release(victim)
        victim.pending = victim.tokens
        victim.preemptions += 1
        self._enqueue(victim)

    def _enqueue(self, sequence: Sequence) -> None:
        self._waiting.add(sequence)
        heappush(self._line, (sequence.rank, sequence))

    def _release(self, sequence: Sequence) -> None:
        self._free_blocks += sequence.blocks
        sequence.blocks = 0


def _elapsed_ns(first: int, growth: int, steps: int) -> int:
    return steps * first + growth * (steps * (steps - 1) // 2)


def _new_blocks(decoding: list[Sequence], steps: int) -> int:
    """Blocks that the batch needs beyond those it holds to decode so many steps."""
    return sum(blocks_for(s.tokens + steps - 1) - s.blocks for s in decoding)
