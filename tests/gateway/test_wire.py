"""Bodies as bytes: only the model changes, for any JSON object that JSON can spell."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import InputError
from metarouter.gateway.wire import read_body, read_usage

_SPACE = st.text(alphabet=" \t\n\r", max_size=3)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name not in ("model", "metarouter")
)


@st.composite
def _spelled(draw: st.DrawFn, value: object) -> bytes:
    """One of the ways to write a value down."""
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (" , ", " : ")])),
    )
    return text.encode()


@st.composite
def _objects(draw: st.DrawFn) -> tuple[list[tuple[bytes, bytes, bytes]], str]:
    """Fields as (space, name, value) in bytes, the model among them, and the space at the end."""
    fields: dict[str, object] = draw(st.dictionaries(_NAMES, _VALUES, max_size=8))
    names = draw(st.permutations([*fields, "model"]))
    fields["model"] = "metarouter"
    spelled = [
        (
            draw(_SPACE).encode(),
            draw(_spelled(name)) + draw(_SPACE).encode(),
            draw(_SPACE).encode() + draw(_spelled(fields[name])) + draw(_SPACE).encode(),
        )
        for name in names
    ]
    return spelled, draw(_SPACE)


def _joined(fields: list[tuple[bytes, bytes, bytes]], end: str) -> bytes:
    return (
        b"{" + b",".join(s + name + b":" + value for s, name, value in fields) + end.encode() + b"}"
    )


@settings(max_examples=200)
@given(made=_objects(), model=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_only_the_model_changes(
    made: tuple[list[tuple[bytes, bytes, bytes]], str], model: str
) -> None:
    """Every byte before and after the model's value is the same, however the rest is spelled."""
    fields, end = made
    content = _joined(fields, end)
    found = read_body(content).with_model(model)
    place = content.rindex(b'"metarouter"')
    before, after = content[:place], content[place + len(b'"metarouter"') :]
    assert found.startswith(before)
    assert found.endswith(after)
    assert json.loads(found[len(before) : len(found) - len(after)]) == model


@settings(max_examples=100)
@given(made=_objects(), place=st.integers(0, 9), value=_VALUES)
def test_the_gateways_options_are_cut_out(
    made: tuple[list[tuple[bytes, bytes, bytes]], str], place: int, value: object
) -> None:
    """Without the field metarouter the object is what it is without that field, and valid."""
    fields, end = made
    more = [*fields[:place], (b" ", b'"metarouter"', json.dumps(value).encode()), *fields[place:]]
    found = read_body(_joined(more, end)).with_model("metarouter")
    assert json.loads(found) == json.loads(_joined(fields, end))


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "a": 12}',
        b'{"a": 12, "a": 1}',
        b'{"model": "x", "\\u006dodel": "y"}',
    ],
)
def test_a_field_given_twice_is_refused(content: bytes) -> None:
    """Which of the two the upstream reads is unknown, so a key's limits could be walked around."""
    with pytest.raises(InputError, match="twice"):
        read_body(content)


@pytest.mark.parametrize("content", [b"", b"3", b"[]", b'{"a":}', b"{} {}", b'{"a": NaN}', b"\xff"])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="body"):
        read_body(content)


@settings(max_examples=200)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Bytes from anywhere end in an object or in an InputError, never in another error."""
    with suppress(InputError):
        assert read_body(b"{" + content + b"}").content == b"{" + content + b"}"


def test_tokens_are_counted_from_both_protocols() -> None:
    """OpenAI counts in the last event, Anthropic the prompt in the first one."""
    openai = b'data: {"usage":null}\n\ndata: {"usage": {"prompt_tokens":7,"completion_tokens":2}}'
    assert read_usage(b"", openai).prompt_tokens == 7
    head = b'{"message":{"usage":{"input_tokens":9,"output_tokens":1,"x":{"y":1}}}}'
    tail = b'{"type":"message_delta","usage":{"output_tokens":40}}'
    usage = read_usage(head, tail)
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 40)
    assert read_usage(b'"usage": {"prompt_tokens": ', b"").prompt_tokens is None


@pytest.mark.parametrize(
    ("own", "counted"),
    [
        ({"input_tokens": 9, "output_tokens": 4}, (9, 4)),
        ({"prompt_tokens": 9}, (9, 6)),
        ({"cost": 0.1}, (5, 6)),
        (None, (5, 6)),
    ],
)
def test_of_a_whole_answer_its_own_counts_come_first(
    own: dict[str, Any] | None, counted: tuple[int, int]
) -> None:
    """What lies deeper, as arguments of a tool may, counts where they are not all there."""
    deeper = {"input": {"usage": {"input_tokens": 5, "output_tokens": 6}}}
    usage = read_usage(json.dumps({"content": [deeper], "usage": own}).encode(), b"")
    assert (usage.prompt_tokens, usage.completion_tokens) == counted


@pytest.mark.parametrize("name", ["Model", "MODEL", "mOdel", "Metarouter"])
def test_our_fields_have_one_spelling(name: str) -> None:
    """Some upstreams read names whatever their case, and would take the other one."""
    with pytest.raises(InputError, match=f"field '{name}'; allowed: {name.lower()}"):
        read_body(json.dumps({"model": "cheap", name: "premium"}).encode())


def test_a_body_has_no_more_fields_than_a_protocol_could_want() -> None:
    """Each costs time, before anything is known of the request."""
    body = json.dumps({"model": "m", **{f"x{i}": 0 for i in range(1000)}}).encode()
    with pytest.raises(InputError, match="1001 fields; allowed: at most 1000"):
        read_body(body)
