from __future__ import annotations

import json
from typing import Any

import pytest

from toolrefine.datasets.conversation import MAX_TURNS
from toolrefine.datasets.openai import read_row
from toolrefine.errors import RowError
from toolrefine.types import Message, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "water_plant",
        "description": "Water a plant.",
        "parameters": {"type": "object", "properties": {"plant": {"type": "string"}}, "required": ["plant"]},
    },
}
USER = {"role": "user", "content": "Water the fern."}


def call(plant: str, call_id: str = "abc") -> dict[str, Any]:
    arguments = json.dumps({"plant": plant})
    return {"id": call_id, "type": "function", "function": {"name": "water_plant", "arguments": arguments}}


def answer(*calls: dict[str, Any], content: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **fields}


def row(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"tools": [TOOL], "messages": list(messages), **fields}


def test_a_call_is_a_sample() -> None:
    [sample] = read_row(row(USER, answer(call("fern")), id="r1"), "file:1")
    assert sample.id == "r1"
    assert sample.messages == (Message(role="user", content="Water the fern."),)
    assert sample.target == Message(
        role="assistant", tool_calls=(ToolCall(name="water_plant", arguments={"plant": "fern"}),)
    )
    assert sample.tools[0].parameters["required"] == ["plant"]


def test_each_turn_that_calls_or_answers_a_user_is_a_sample() -> None:
    samples = list(
        read_row(
            row(
                {"role": "developer", "content": "Be brief."},
                {"role": "assistant", "content": "Hello!"},
                USER,
                answer(call("fern")),
                {"role": "tool", "tool_call_id": "abc", "content": "ok"},
                answer(content="The fern is watered."),
                {"role": "user", "content": "Thanks!"},
                answer(content="You are welcome."),
            ),
            "garden:7",
        )
    )
    assert [sample.id for sample in samples] == ["garden:7/0", "garden:7/1"]
    assert samples[0].target.tool_calls and len(samples[0].messages) == 3
    assert samples[1].target == Message(role="assistant", content="You are welcome.")
    assert samples[1].messages[0] == Message(role="system", content="Be brief.")
    assert len(samples[1].messages) == 7


def test_results_refer_to_the_number_of_their_call() -> None:
    [first, second] = read_row(
        row(
            USER,
            answer(call("fern", "x"), call("ivy", "y")),
            {"role": "tool", "tool_call_id": "y", "content": "ivy done"},
            {"role": "tool", "tool_call_id": "x", "content": "fern done"},
            answer(call("moss", "z")),
        ),
        "w",
    )
    assert len(first.target.tool_calls) == 2
    assert [message.tool_call_id for message in second.messages[2:]] == ["call_1", "call_0"]


def test_consecutive_assistant_turns_are_one() -> None:
    [first, second] = read_row(
        row(
            USER,
            answer(content="Let me do that."),
            answer(call("fern", "x")),
            answer(call("ivy", "y")),
            {"role": "tool", "tool_call_id": "y", "content": "done"},
            {"role": "user", "content": "And the moss."},
            answer(call("moss")),
        ),
        "w",
    )
    assert [c.arguments["plant"] for c in first.target.tool_calls] == ["fern", "ivy"]
    assert first.target.content == ""
    assert second.messages[1].content == "Let me do that."
    assert second.messages[2].tool_call_id == "call_1"


def test_a_turn_of_weight_0_is_context_only() -> None:
    [sample] = read_row(row(USER, answer(call("ivy"), weight=0), USER, answer(call("fern"), weight=1)), "w")
    assert sample.target.tool_calls[0].arguments == {"plant": "fern"}


@pytest.mark.parametrize("arguments", ["", "  ", None, {}, "{}"])
def test_a_call_may_have_no_arguments(arguments: Any) -> None:
    calls = {"function": {"name": "water_plant", "arguments": arguments}}
    [sample] = read_row(row(USER, answer(calls)), "w")
    assert sample.target.tool_calls == (ToolCall(name="water_plant"),)


def test_tools_and_messages_may_be_json_text_and_bare() -> None:
    [sample] = read_row(
        {"tools": json.dumps([TOOL["function"]]), "messages": json.dumps([USER, answer(content="No.")])}, "w"
    )
    assert sample.tools[0].name == "water_plant"


def test_content_may_be_text_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [sample] = read_row(row({"role": "user", "content": parts}, answer(content="No.")), "w")
    assert sample.messages[0].content == "a\nb"


def test_the_same_tool_twice_is_kept_once() -> None:
    [sample] = read_row({"tools": [TOOL, TOOL], "messages": [USER, answer(content="No.")]}, "w")
    assert len(sample.tools) == 1


OTHER_TOOL = {"name": "water_plant", "description": "Another one."}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "no assistant turn"),
        ({"messages": "hello"}, "messages: not readable JSON"),
        ({"messages": {"role": "user"}}, "messages: must be a list"),
        ({"messages": [1]}, r"messages\[0\]: must be an object, not 1"),
        (row({"role": "narrator", "content": "x"}), r"messages\[0\].role: must be .* not 'narrator'"),
        (row({"role": "user", "content": 3}), r"messages\[0\].content: must be text"),
        (row({"role": "user", "content": [{"type": "image_url"}]}), "nothing but text"),
        (row({"role": "user", "content": "x", "tool_calls": [call("fern")]}), "only assistant turns"),
        (row(USER), "no assistant turn"),
        (row(USER, answer()), "neither text nor calls"),
        (row(USER, answer({"function": {"arguments": "{}"}})), "has no name"),
        (row(USER, answer({"function": {"name": "f", "arguments": "[1]"}})), "arguments: must be an object"),
        (row(USER, answer({"function": {"name": "f", "arguments": '{"a": NaN}'}})), "arguments: not readable JSON"),
        (row(USER, answer({"function": {"name": "f", "arguments": '{"a": 1, "a": 2}'}})), "duplicate key"),
        (row(USER, answer({"function": {"name": "f", "arguments": '{}, "b": {}'}})), "more than one JSON value"),
        ({"tools": [{"function": {}}], "messages": [USER]}, r"tools\[0\]: has no name"),
        ({"tools": [TOOL, OTHER_TOOL], "messages": [USER]}, r"tools\[1\]: another tool has the name"),
        (row(*[USER] * (MAX_TURNS + 1)), "more than 512 turns"),
    ],
)
def test_what_does_not_fit_is_a_row_error(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(bad, "w"))
