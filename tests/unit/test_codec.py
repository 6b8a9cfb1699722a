"""Request bodies: what is read, what is refused, and what reaches the engine."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.codec import OURS, Call, decode, rewrite
from fairgate.errors import BadRequest, NotFound
from fairgate.prompt import MEDIA_BYTES, SYSTEM_SCAN_BYTES

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
HELLO = [{"role": "user", "content": "hello"}]


def read(path: str, body: bytes | dict[str, Any]) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode(path, raw, max_choices=128)


def refused(path: str, body: bytes | dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(path, body)
    return caught.value


def test_chat_fields() -> None:
    call = read(
        CHAT,
        {
            "model": "small",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "developer", "content": [{"type": "text", "text": "no lists"}]},
                {"role": "user", "content": "hé"},
                {"role": "system", "content": "later ones do not lead"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 3,
            "max_tokens": 10,
            "max_completion_tokens": 20,
            "user": "ann",
            "safety_identifier": "s-1",
            "tools": [{"type": "function"}],
        },
    )
    assert (call.route, call.model, call.stream, call.include_usage) == (
        "chat",
        "small",
        True,
        True,
    )
    assert (call.n, call.choices, call.max_output_tokens) == (3, 3, 20)
    assert (call.user, call.safety_identifier, call.has_tools) == ("ann", "s-1", True)
    assert call.system_bytes == len('"be brief"[{"type": "text", "text": "no lists"}]')
    assert call.prompt_bytes == len(bytes(call.prompt)) + len('[{"type": "function"}]')


def test_nulls_and_absent_fields_are_defaults() -> None:
    nulls = dict.fromkeys(("model", "stream", "stream_options", "n", "max_tokens", "user", "tools"))
    for call in (read(CHAT, nulls), read(CHAT, {})):
        assert (call.model, call.stream, call.n, call.max_output_tokens) == (None, False, 1, None)
        assert (call.include_usage, call.has_tools, call.user) == (False, False, None)


def test_responses_fields() -> None:
    call = read(
        RESPONSES,
        {
            "input": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}],
            "instructions": "be kind",
            "max_output_tokens": 7,
            "previous_response_id": "resp_1",
            "stream": True,
        },
    )
    assert (call.max_output_tokens, call.previous_response_id, call.stream) == (7, "resp_1", True)
    assert call.system_bytes == len('"be kind"') + len('"x"')
    assert not call.needs_usage  # its last event always has usage


@pytest.mark.parametrize(
    ("prompt", "prompts", "token_ids"),
    [
        ("one", 1, None),
        (["one"], 1, None),
        (["one", 'two, "[quoted]"', "three"], 3, None),
        ([11, 12, 13], 1, 3),
        ([[11, 12], [13]], 2, 3),
    ],
)
def test_completion_batches_multiply_the_choices(
    prompt: object, prompts: int, token_ids: int | None
) -> None:
    call = read(COMPLETIONS, {"prompt": prompt, "n": 2, "best_of": 4})
    assert (call.n, call.prompts, call.choices) == (4, prompts, 4 * prompts)
    assert call.prompt_token_ids == token_ids


def test_embeddings_write_nothing_and_may_be_large_batches() -> None:
    call = read(EMBEDDINGS, {"model": "e", "input": ["a"] * 2048, "n": "not read here"})
    assert (call.choices, call.prompt_token_ids) == (1, None)
    assert read(EMBEDDINGS, {"input": [[1, 2], [3]]}).prompt_token_ids == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "-1"),
        ("max_tokens", "0"),
        ("max_tokens", "1.5"),
        ("max_tokens", "1e400"),
        ("max_tokens", "NaN"),
        ("max_tokens", "-Infinity"),
        ("max_tokens", "99999999999999999999999"),
        ("max_tokens", '"10"'),
        ("max_completion_tokens", "[]"),
        ("n", "0"),
        ("n", "129"),
        ("n", "1e3"),
        ("n", "true"),
        ("best_of", "100000000000000000000"),
        ("stream", "1"),
        ("model", "3"),
        ("user", "{}"),
        ("stream_options", "[]"),
    ],
)
def test_refusals_name_field_and_value(field: str, value: str) -> None:
    error = refused(CHAT, f'{{"messages":[],"{field}": {value} }}'.encode())
    assert error.param == field
    assert field in error.message
    assert value.lstrip("-") in error.message


def test_too_many_choices_in_a_batch() -> None:
    assert refused(COMPLETIONS, {"prompt": ["x"] * 65, "n": 2}).param == "prompt"
    assert refused(COMPLETIONS, {"prompt": ["x"] * 10_000}).param == "prompt"
    assert refused(COMPLETIONS, {"prompt": [[1]] * 129}).param == "prompt"


def test_background_responses_are_refused() -> None:
    assert refused(RESPONSES, {"input": "x", "background": True}).param == "background"
    assert read(RESPONSES, {"input": "x", "background": False}).route == "responses"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1}x',
        b'{"a":1,}',
        b"\xff",
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"model":"\\ud800"}',
        b'{"a":' + b"[" * 100_000,
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        '{"model":"x"}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    for path in (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES):
        assert refused(path, body).status == 400


def test_a_flood_of_keys_is_refused_before_it_is_built() -> None:
    flood = b"{" + b",".join(b'"%d":0' % i for i in range(1_000_000)) + b"}"
    begin = time.process_time()
    refused(CHAT, flood)
    assert time.process_time() - begin < 0.3  # built, it takes a second; this is some milliseconds
    options = b'{"stream":true,"stream_options":' + flood + b"}"
    call = read(CHAT, options)
    with pytest.raises(BadRequest):
        rewrite(options, call, include_usage=True)


def test_unknown_route() -> None:
    with pytest.raises(NotFound):
        read("/v1/other", {})


def test_inline_images_count_a_fixed_size() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    with_image = read(CHAT, {"messages": [{"role": "user", "content": parts}]}).prompt_bytes
    without = read(CHAT, {"messages": [{"role": "user", "content": parts[:1]}]}).prompt_bytes
    assert MEDIA_BYTES < with_image - without < MEDIA_BYTES + 100
    prose = "about ;base64, as a word " * 1000
    assert read(CHAT, {"messages": prose}).prompt_bytes == len(prose) + 2


def test_a_role_may_be_written_with_escapes() -> None:
    body = rb'{"model":"m","messages":[{"role":"\u0073ystem","content":"be brief"}]}'
    assert read(CHAT, body).system_bytes == len('"be brief"')


def test_system_messages_of_large_bodies_are_not_searched() -> None:
    messages = [{"role": "system", "content": "s" * SYSTEM_SCAN_BYTES}]
    assert read(CHAT, {"messages": messages}).system_bytes == 0


@pytest.mark.parametrize("messages", ["text", [1], [{"role": 3}], [{}], {"role": "system"}])
def test_odd_messages_are_left_for_the_engine(messages: object) -> None:
    assert read(CHAT, {"messages": messages}).system_bytes == 0


def test_rewrite_without_changes_returns_the_very_same_object() -> None:
    body = json.dumps({"model": "m", "messages": HELLO, "stream": True}).encode()
    call = read(CHAT, body)
    assert rewrite(body, call) is body
    assert rewrite(body, call, model="m") is body


def test_rewrite_keeps_what_it_does_not_know_to_the_byte() -> None:
    odd = b'{"big": 123456789012345678901234567890, "f":1.0000, "s":"\\u00e9\\/", "e":1E5}'
    body = b'{"x": %b , "priority" :-5, "model":"lane", "messages":[ {"a" : 1.50} ]}' % odd
    call = read(CHAT, body)
    sent = rewrite(body, call, model="/models/m", priority=7, cache_salt="t")
    assert sent == (
        b'{"x":%b,"model":"/models/m","messages":[ {"a" : 1.50} ],"priority":7,"cache_salt":"t"}'
        % odd
    )


@pytest.mark.parametrize("body", [b"{}", b" { }\n", b'{"x": 1.0 }', b'{"messages":[ ] }\t\n'])
def test_what_is_only_added_leaves_all_bytes_as_they_are(body: bytes) -> None:
    sent = rewrite(body, read(CHAT, body), priority=-3, cache_salt="salt")
    assert sent.startswith(body.rstrip().removesuffix(b"}"))
    assert json.loads(sent) == {**json.loads(body), "priority": -3, "cache_salt": "salt"}


def test_rewrite_always_drops_what_only_we_may_set() -> None:
    body = b'{"model":"m","pri\\u006frity":-9,"messages":[]}'
    assert rewrite(body, read(CHAT, body)) == b'{"model":"m","messages":[]}'
    forged = {"messages": HELLO, **dict.fromkeys(OURS, "forged"), "cache_salt": "of another"}
    raw = json.dumps(forged).encode()
    assert json.loads(rewrite(raw, read(CHAT, raw))) == {"messages": HELLO}
    told = json.loads(rewrite(raw, read(CHAT, raw), priority=1, cache_salt="ours"))
    assert told == {"messages": HELLO, "priority": 1, "cache_salt": "ours"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"include_usage": True}),
        (',"stream_options":null', {"include_usage": True}),
        (
            ',"stream_options":{"continuous_usage_stats":true,"include_usage":false}',
            {"continuous_usage_stats": True, "include_usage": True},
        ),
    ],
)
def test_rewrite_asks_for_usage(options: str, expected: dict[str, bool]) -> None:
    body = f'{{"messages":[],"stream":true{options}}}'.encode()
    call = read(CHAT, body)
    assert call.needs_usage
    assert json.loads(rewrite(body, call, include_usage=True))["stream_options"] == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [], "stream": True, "stream_options": {"include_usage": True}}),
        (RESPONSES, {"input": "x", "stream": True}),
        (EMBEDDINGS, {"input": "x", "stream": True}),
    ],
)
def test_rewrite_asks_for_usage_only_where_it_must(path: str, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    assert rewrite(raw, read(path, raw), include_usage=True) is raw


def test_of_duplicate_keys_the_last_counts_and_only_it_is_sent() -> None:
    body = b'{"max_tokens":5,"model":"a","n":"x","max_tok\\u0065ns":500,"n":2}'
    call = read(CHAT, body)
    assert (call.max_output_tokens, call.n, call.duplicates) == (500, 2, True)
    sent = rewrite(body, call)
    assert json.loads(sent) == json.loads(body)
    assert json.loads(sent, object_pairs_hook=len) == 3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ("model", "messages", "stream", "n", "max_tokens", "priority", "tools", "user")
)


@given(st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=8), st.booleans())
def test_any_object_is_read_or_refused_and_rewritten_faithfully(
    body: dict[str, Any], ensure_ascii: bool
) -> None:
    raw = json.dumps(body, ensure_ascii=ensure_ascii).encode()
    try:
        call = read(CHAT, raw)
    except BadRequest as error:
        assert error.param is not None  # noqa: PT017
        assert error.param.partition(".")[0] in body  # noqa: PT017
        return
    expected = {
        **{k: v for k, v in body.items() if k not in OURS},
        "priority": 3,
        "model": "engine",
    }
    assert json.loads(rewrite(raw, call, model="engine", priority=3)) == expected


@given(st.binary(max_size=60), st.sampled_from((CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)))
def test_any_bytes_are_read_or_refused(noise: bytes, path: str) -> None:
    for body in (noise, b'{"prompt":[' + noise + b'],"messages":[' + noise + b"]}"):
        try:
            read(path, body)
        except BadRequest:
            pass
