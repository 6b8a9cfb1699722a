"""What is seen of one call while it runs; sealed into an :class:`~loadgen.records.Outcome`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from loadgen.records import Call, Outcome, Result
from loadgen.stream import StreamScan


class Observation:
    """Filled in by the client, attempt by attempt, and sealed once by the replay.

    It can be sealed at any time: a call that is cut off is an error with what it got so far. Times
    are seconds since the start of the replay.
    """

    def __init__(self, call: Call, intended_s: float) -> None:
        self._call = call
        self._intended_s = intended_s
        self._sent_s: float | None = None
        self._attempt_s = intended_s
        self.retries = 0
        self.result: Result = "error"
        self.reason = "cut_off"
        self.status = 0
        self.retry_after_s: float | None = None
        self._queue_s: float | None = None
        self._lane: str | None = None
        self._engine: str | None = None
        self.scan = StreamScan()

    def begin(self, now_s: float) -> None:
        """A (further) attempt is sent now; what the previous one showed is forgotten."""
        if self._sent_s is None:
            self._sent_s = now_s
        else:
            self.retries += 1
        self._attempt_s = now_s
        self.result, self.reason, self.status = "error", "cut_off", 0
        self.retry_after_s = self._queue_s = None
        self.scan = StreamScan()

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer has come."""
        self.status = status
        self.retry_after_s = _number(headers.get("Retry-After"))
        queue_ms = _number(headers.get("x-fairgate-queue-ms"))
        self._queue_s = None if queue_ms is None else queue_ms / 1000
        self._lane = headers.get("x-fairgate-lane")
        self._engine = headers.get("x-fairgate-engine")

    def complete(self) -> None:
        """The whole answer has come."""
        self.result, self.reason = "completed", ""

    def lose(self, reason: str) -> None:
        """The attempt got no whole answer; 429 counts as throttled, everything else as error."""
        self.result = "throttled" if self.status == 429 else "error"
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """As openai-python decides: refused for now, or failed before an answer began."""
        if self.result == "completed" or self.status == 200:
            return False
        return self.status in (0, 408, 409, 429) or self.status >= 500

    def seal(self, end_s: float) -> Outcome:
        """The outcome of the call, which ended at ``end_s``."""
        call = self._call
        prompt_tokens, completion_tokens = self._delivered()
        granted = self.status == 200 and self._queue_s is not None
        return Outcome(
            tenant=call.tenant,
            user=call.user,
            app=call.app,
            interaction=call.interaction,
            number=call.number,
            calls=call.calls,
            result=self.result,
            reason=self.reason,
            status=self.status,
            retries=self.retries,
            wanted_prompt_tokens=call.prompt_tokens,
            wanted_output_tokens=call.output_tokens,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            intended_s=self._intended_s,
            sent_s=self._intended_s if self._sent_s is None else self._sent_s,
            granted_s=self._attempt_s + (self._queue_s or 0.0) if granted else None,
            first_token_s=self.scan.first_token_s,
            end_s=end_s,
            queue_s=self._queue_s,
            lane=self._lane,
            engine=self._engine,
        )

    def _delivered(self) -> tuple[int, int]:
        """Prompt and completion tokens: the usage, else what a started stream shows."""
        usage = self.scan.usage()
        if usage is not None:
            return usage
        if self.scan.first_token_s is None:
            return 0, 0
        return self._call.prompt_tokens, self.scan.events


def _number(text: str | None) -> float | None:
    """A number >= 0 from a header, else ``None`` (``Retry-After`` may also be a date)."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
