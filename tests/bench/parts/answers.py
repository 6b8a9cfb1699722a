"""What the engines of the benchmarks say: canned answers of vLLM's shape."""

from __future__ import annotations

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Forty-two."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":110,"completion_tokens":4,"total_tokens":114}}'
)
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","max_model_len":1000000}]}'

_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[%s]%s}\n\n'
)
CHUNK = _EVENT % (
    b'{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}',
    b"",
)
LAST_CHUNK = _EVENT % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b"")
DONE = b"data: [DONE]\n\n"


def usage_chunk(chunks: int) -> bytes:
    """What ends a stream whose client asked for ``include_usage``."""
    usage = b',"usage":{"prompt_tokens":110,"completion_tokens":%d,"total_tokens":%d}'
    return _EVENT % (b"", usage % (chunks, 110 + chunks))
