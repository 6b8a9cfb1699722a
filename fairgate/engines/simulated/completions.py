"""The routes ``/v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

from fairgate.engines.simulated.client import Client
from fairgate.engines.simulated.loop import Generation
from fairgate.engines.simulated.outputs import Output
from fairgate.engines.simulated.protocol import (
    ChatRequest,
    CompletionRequest,
    Generate,
    Tool,
    as_prompts,
    decode,
    last_question,
)
from fairgate.engines.simulated.render import (
    DONE,
    ChatRenderer,
    CompletionRenderer,
    Renderer,
    usage,
)
from fairgate.engines.simulated.service import Service, check_stream_options, choose_call

# vLLM's default for text completions, as in OpenAI's legacy API.
_COMPLETION_MAX_TOKENS = 16


async def chat(service: Service, client: Client) -> None:
    """``POST /v1/chat/completions``."""
    request = decode(await client.body(), ChatRequest)
    service.check_model(request.model)
    check_stream_options(request)
    prompt = bytes(request.tools) + b"".join(m.rendered for m in request.messages)
    outputs = service.plan(
        client,
        request,
        prompt,
        limit=request.max_completion_tokens or request.max_tokens,
        n=request.n,
        call=choose_call(request, last_question(request.messages)),
    )
    renderer = ChatRenderer(
        client.id,
        service.settings.model,
        outputs,
        named=isinstance(request.tool_choice, Tool),
        continuous_usage=_continuous(request),
    )
    await _answer(service, client, request, outputs, renderer, outputs[0].sequence.prompt_tokens)


async def completions(service: Service, client: Client) -> None:
    """``POST /v1/completions``."""
    request = decode(await client.body(), CompletionRequest)
    service.check_model(request.model)
    check_stream_options(request)
    outputs: list[Output] = []
    prompt_tokens = 0
    for index, (prompt, tokens) in enumerate(as_prompts(request.prompt, "prompt")):
        limit = request.max_tokens or _COMPLETION_MAX_TOKENS
        choices = service.plan(
            client,
            request,
            prompt,
            limit=limit,
            n=request.n,
            prompt_tokens=tokens,
            name=str(index),
        )
        outputs += choices
        prompt_tokens += choices[0].sequence.prompt_tokens
    renderer = CompletionRenderer(
        client.id, service.settings.model, continuous_usage=_continuous(request)
    )
    await _answer(service, client, request, outputs, renderer, prompt_tokens)


async def _answer(
    service: Service,
    client: Client,
    request: Generate,
    outputs: list[Output],
    renderer: Renderer,
    prompt_tokens: int,
) -> None:
    """Generate and send. The sequences end with the call, also when it is cancelled."""
    generation = service.submit(outputs, stream=bool(request.stream))
    total = usage(prompt_tokens, sum(o.sequence.output_tokens for o in outputs))
    try:
        with client.watched(generation.abort):
            if request.stream:
                options = request.stream_options
                wanted = bool(options and options.include_usage)
                tail = (renderer.last(total) if wanted else b"") + DONE
                await _stream(client, generation, renderer, tail)
            else:
                await generation.next()
                await client.send_json(renderer.whole(outputs, total))
    finally:
        generation.abort()


async def _stream(client: Client, generation: Generation, renderer: Renderer, tail: bytes) -> None:
    await client.start_stream()
    outputs = generation.outputs
    head = renderer.first()  # goes out with the first token, as in vLLM
    while not generation.done:
        deltas = await generation.next()
        chunks = [renderer.chunk(outputs[delta.index], delta) for delta in deltas]
        await client.write(head + b"".join(chunks))
        head = b""
    await client.write(tail, last=True)


def _continuous(request: Generate) -> bool:
    """Usage in every chunk; vLLM gives it only together with ``include_usage``."""
    options = request.stream_options
    return bool(options and options.include_usage and options.continuous_usage_stats)
