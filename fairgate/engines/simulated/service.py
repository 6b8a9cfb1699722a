"""What every route asks of the engine: is this request allowed, and what will it generate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Raw

from fairgate.engines.simulated.client import Client
from fairgate.engines.simulated.loop import EngineLoop, Generation
from fairgate.engines.simulated.outputs import (
    Output,
    Sampling,
    ToolCall,
    arguments_for,
    count_tokens,
    fingerprint,
    plan_outputs,
)
from fairgate.engines.simulated.protocol import (
    ApiError,
    Function,
    Generate,
    Tool,
    bad_request,
    decode_tools,
)
from fairgate.engines.simulated.scheduler import BLOCK_TOKENS, Scheduler, SchedulingPolicy
from fairgate.engines.simulated.timing import PROFILES

GREEDY = 1e-5
"""Temperatures below it always take the likeliest token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command line of the server; names as in vLLM, counts in tokens or sequences."""

    model: str
    max_num_seqs: int = 16
    kv_cache_tokens: int = 65_536
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None
    """``None``: what the KV cache holds, at most 32,768."""
    profile: str = "cpu-small"
    speed: float = 1.0
    seed: int = 0
    scheduling_policy: SchedulingPolicy = "fcfs"
    api_key: str | None = None
    faults: bool = False

    @property
    def context(self) -> int:
        """The model length in force. Raises ``ValueError`` when the KV cache cannot hold it."""
        kv = self.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS
        if self.max_model_len and self.max_model_len > kv:
            raise ValueError(f"max_model_len {self.max_model_len} exceeds the KV cache of {kv}")
        return self.max_model_len or min(kv, 32_768)

    def scheduler(self) -> Scheduler:
        """A scheduler with these limits. Raises ``ValueError`` for limits that make no sense."""
        if self.profile not in PROFILES:
            raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {self.profile}")
        return Scheduler(
            PROFILES[self.profile].at_speed(self.speed),
            max_num_seqs=self.max_num_seqs,
            kv_cache_tokens=self.kv_cache_tokens,
            max_num_batched_tokens=max(self.max_num_batched_tokens, self.max_num_seqs),
            policy=self.scheduling_policy,
        )


class Service:
    """The engine as the routes see it. ``load`` counts the requests being answered."""

    def __init__(self, settings: Settings, engine: EngineLoop) -> None:
        self.settings = settings
        self.context = settings.context
        self.started = int(time.time())
        self.load = 0
        self._engine = engine

    def check_model(self, model: str | None) -> None:
        """Raises ``ApiError`` 404 for a model that is not served; none named is fine."""
        if model and model != self.settings.model:
            message = f"The model `{model}` does not exist."
            raise ApiError(404, message, type="NotFoundError", param="model")

    def submit(self, outputs: list[Output], *, stream: bool) -> Generation:
        """Put outputs in the engine's line."""
        return self._engine.submit(outputs, stream=stream)

    def plan(
        self,
        client: Client,
        request: Generate,
        prompt: bytes,
        *,
        limit: int | None,
        n: int | None = 1,
        prompt_tokens: int | None = None,
        call: ToolCall | None = None,
        name: str = "0",
    ) -> list[Output]:
        """The outputs of one prompt; ``limit`` is what the request says it may generate.

        Raises ``ApiError`` 400 when prompt and output exceed the context, and for several outputs
        without sampling.
        """
        if (n or 1) > 1 and request.temperature is not None and request.temperature < GREEDY:
            raise bad_request(f"n must be 1 when using greedy sampling, got {n}.", "n")
        tokens = prompt_tokens or count_tokens(prompt)
        sampling = Sampling(
            cap=self._cap(tokens, limit),
            min_tokens=request.min_tokens or 0,
            ignore_eos=bool(request.ignore_eos),
        )
        return plan_outputs(
            prompt,
            sampling,
            name=f"{client.id}-{name}",
            seed=self.settings.seed,
            n=n or 1,
            priority=self.priority(client, request.priority),
            prompt_tokens=tokens,
            call=call,
            with_logprobs=request.wants_logprobs,
        )

    def priority(self, client: Client, asked: int | None) -> int:
        """The header wins over the body, as in vLLM. Raises ``ApiError`` 400 if it has no use."""
        header = client.headers.get(b"x-vllm-priority", b"")
        value = int(header) if header.removeprefix(b"-").isdigit() else asked or 0
        if value and self.settings.scheduling_policy != "priority":
            message = f"Got priority {value} but priority scheduling is not enabled."
            raise bad_request(message, "priority")
        return value

    def _cap(self, prompt_tokens: int, limit: int | None) -> int:
        room = self.context - prompt_tokens
        if room < 1 or (limit or 0) > room:
            raise bad_request(
                f"This model's maximum context length is {self.context} tokens. However, you "
                f"requested {limit or 1} output tokens and your prompt contains {prompt_tokens} "
                f"input tokens, for a total of {prompt_tokens + (limit or 1)} tokens. Please "
                "reduce the length of the input prompt or the number of requested output tokens.",
                "input_tokens",
            )
        return limit or room


def check_stream_options(request: Generate) -> None:
    """Raises ``ApiError`` 400 for stream options without a stream, as vLLM does."""
    if request.stream_options and not request.stream:
        message = "Stream options can only be defined when `stream=True`."
        raise bad_request(message, "stream_options")


def choose_call(request: Generate, asked: str) -> ToolCall | None:
    """The tool call that answers: one that is named, demanded, or mentioned in what was ``asked``.

    Raises ``ApiError`` 400 for a choice that is not among the tools.
    """
    functions = [f for tool in decode_tools(request.tools) if (f := tool.callee)]
    choice = request.tool_choice
    if choice == "none" or (not functions and choice in (None, "auto")):
        return None
    function = _mentioned(functions, asked)
    if isinstance(choice, Tool):
        named = choice.callee.name if choice.callee else None
        function = next((f for f in functions if f.name == named), None)
    elif choice == "required" and functions:
        function = function or functions[0]
    if function is None and choice not in (None, "auto"):
        raise bad_request("`tool_choice` names no function of `tools`.", "tool_choice")
    return _call(function, request.tools) if function else None


def _mentioned(functions: Iterable[Function], text: str) -> Function | None:
    return next((f for f in functions if f.name in text), None)


def _call(function: Function, tools: Raw) -> ToolCall:
    identity = fingerprint(0, function.name.encode() + bytes(tools))
    arguments = arguments_for(function.parameters or {})
    return ToolCall(f"call_{identity.hex()}", function.name, arguments)
