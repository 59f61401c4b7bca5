from __future__ import annotations

import json
from typing import Any

import pytest

from toolrefine.datasets.apibank import read_row
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample, ToolCall

TOOL = json.dumps({"name": "Add", "description": "Adds.", "input_parameters": {"a": {"type": "int"}}})


def read(dialogue: str, output: str = "API-Request: [Add(a=1)]", instruction: str = TOOL) -> Sample:
    [sample] = read_row({"instruction": instruction, "input": dialogue, "output": output}, "w")
    return sample


def test_the_dialogue_so_far_is_context() -> None:
    sample = read(
        'User: Add one.\nand two\nAI: Sure.\nAPI-Request: [Add(a=2)]->{"sum": "]->"}\nAI: Next.\nGenerate API Request: '
    )
    assert sample.messages == (
        Message(role="user", content="Add one.\nand two"),
        Message(role="assistant", content="Sure.", tool_calls=(ToolCall(name="Add", arguments={"a": 2}),)),
        Message(role="tool", content='{"sum": "]->"}', tool_call_id="call_0"),
    )
    assert sample.target == Message(role="assistant", tool_calls=(ToolCall(name="Add", arguments={"a": 1}),))


@pytest.mark.parametrize("output", ["AI: Which numbers?", "Which numbers?"])
def test_a_reply_is_a_target_too(output: str) -> None:
    assert read("User: Add.\nGenerate AI Response:\n", output).target.content == "Which numbers?"


@pytest.mark.parametrize("output", ["API-Request: [Add(a=1), Add(a=2)]", "[Add(a=1), Add(a=2)]"])
def test_parallel_requests(output: str) -> None:
    assert len(read("User: Add.\nGenerate API Request:\n", output).target.tool_calls) == 2


def test_the_date_stays_and_the_instructions_go() -> None:
    instruction = (
        "\nGenerate an API request in the format of [ApiName(key1='value1', key2='value2', ...)] based on the previous "
        "dialogue context.\nThe current time is 2039-03-09 18:56:09 Wednesday.\nInput: \nUser: User's utterence\n"
        "AI: AI's response\n\nExpected output:\nAPI-Request: [ApiName(key1='value1', key2='value2', ...)]\n\n"
        f"API descriptions:\n{TOOL}\n"
    )
    sample = read("User: Add.\nGenerate API Request:\n", instruction=instruction)
    assert sample.messages[0] == Message(role="system", content="The current time is 2039-03-09 18:56:09 Wednesday.")
    assert len(sample.tools) == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"output": None}, "output: missing"),
        ({"output": "API-Request: Add 1"}, "output: its request cannot be read"),
        ({"output": "API-Request: "}, "output: its request cannot be read"),
        ({"input": "User: x\nAPI-Request: Add"}, "input: its request cannot be read"),
        ({"input": ""}, "no assistant turn"),
        ({"input": '{"description": "x"}\nUser: x'}, r"tools\[1\]: has no name"),
        ({"input": "{x}\nUser: x"}, "input: object 1 is not readable JSON"),
        ({"instruction": ["x"]}, "instruction: must hold nothing but text"),
    ],
)
def test_what_does_not_fit_is_a_row_error(fields: dict[str, Any], reason: str) -> None:
    row = {"instruction": TOOL, "input": "User: x", "output": "API-Request: [Add(a=1)]", **fields}
    with pytest.raises(RowError, match=reason):
        list(read_row(row, "w"))
