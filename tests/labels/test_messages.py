"""Chat histories as one text."""

from __future__ import annotations

from typing import Any

import pytest

from metarouter.labels.messages import message_problem, render_messages


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_one_user_turn_is_its_own_text() -> None:
    assert render_messages([turn("user", " What is 2+2? ")]) == "What is 2+2?"


def test_turns_keep_their_order_and_others_than_users_are_named() -> None:
    chat = [turn("system", "S"), turn("user", "U1"), turn("assistant", "A"), turn("user", "U2")]
    assert render_messages(chat) == "system: S\n\nU1\n\nassistant: A\n\nU2"


def test_the_last_user_turn_comes_last() -> None:
    chat = [turn("user", "U"), turn("assistant", "A"), turn("tool", "T")]
    assert render_messages(chat) == "assistant: A\n\ntool: T\n\nU"


def test_text_parts_are_joined_and_other_parts_left_out() -> None:
    parts = ["one", {"type": "text", "text": "two"}, {"type": "image_url", "image_url": "x"}]
    assert render_messages([turn("user", parts)]) == "one\ntwo"


@pytest.mark.parametrize("content", [None, "", "  ", [], [{"type": "image_url"}]])
def test_turns_without_text_leave_no_trace(content: Any) -> None:
    chat = [turn("assistant", content), turn("user", "Hi")]
    assert render_messages(chat) == "Hi"


def test_rendering_leaves_the_messages_as_they_were() -> None:
    chat = [turn("user", "U"), turn("assistant", "A")]
    render_messages(chat)
    assert [message["role"] for message in chat] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("Hi", "not a list"),
        (["Hi"], "not an object"),
        ([{"content": "Hi"}], "without a role"),
        ([{"role": " ", "content": "Hi"}], "without a role"),
        ([{"role": 3, "content": "Hi"}], "without a role"),
        ([{"role": "user", "content": 3}], "content"),
        ([{"role": "user", "content": [3]}], "content"),
    ],
)
def test_what_is_not_a_chat_is_told_apart(value: Any, problem: str) -> None:
    assert problem in (message_problem(value) or "")


def test_a_chat_without_content_is_still_a_chat() -> None:
    assert message_problem([{"role": "assistant"}, turn("user", "Hi")]) is None
