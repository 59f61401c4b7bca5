from __future__ import annotations

import json
from typing import Any

import pytest

from toolrefine.datasets.hermes import read_row, split_system
from toolrefine.errors import RowError
from toolrefine.types import Message, ToolCall

TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"It's {name}."}} for name in ("water", "prune")
]
STANDARD = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Don't make assumptions about what values to "
    "plug into functions. Here are the available tools: <tools> %s </tools> Use the following pydantic model json "
    "schema for each tool call you will make: {'title': 'FunctionCall', 'type': 'object', 'properties': {'arguments': "
    "{'title': 'Arguments', 'type': 'object'}, 'name': {'title': 'Name', 'type': 'string'}}, 'required': ['arguments', "
    "'name']} For each function call return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags as follows:\n<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}\n"
    "</tool_call>\n"
)
QWEN = (
    "You garden.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with function signatures within <tools></tools> XML tags:\n<tools>\n%s\n</tools>\n\nFor each function call, "
    "return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def row(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **fields}


@pytest.mark.parametrize(
    "listed", [json.dumps(TOOLS), repr(TOOLS), "\n".join(map(json.dumps, TOOLS)), "\n".join(map(repr, TOOLS))]
)
@pytest.mark.parametrize(("prompt", "context"), [(STANDARD, ""), (QWEN, "You garden.")])
def test_the_system_prompt_holds_tools_and_instructions(prompt: str, context: str, listed: str) -> None:
    assert split_system(prompt % listed, "x") == (TOOLS, context)


def test_what_else_the_system_prompt_says_stays() -> None:
    tools, context = split_system(f"Today is Monday.\n{STANDARD % json.dumps(TOOLS)}Speak like a gardener.", "x")
    assert (len(tools), context) == (2, "Today is Monday.\nSpeak like a gardener.")


def test_tools_of_the_prompt_and_of_the_field_are_one_list() -> None:
    other = [TOOLS[1], {"name": "sow"}]
    turns = [("system", STANDARD % repr(TOOLS)), ("human", "x"), ("gpt", "y")]
    [sample] = read_row(row(*turns, tools=json.dumps(other)), "w")
    assert [tool.name for tool in sample.tools] == ["prune", "sow", "water"]


def test_closing_tags_in_texts_close_nothing() -> None:
    tools = [{"name": "say", "description": "Says </tools>.", "parameters": {"type": "object", "properties": {}}}]
    call = json.dumps({"name": "say", "arguments": {"text": 'a "</tool_call>" <tool_call>'}})
    turns = [
        ("system", f"Speak.\n<tools>\n{json.dumps(tools)}\n</tools>"),
        ("human", "x"),
        ("gpt", f"So.<tool_call>\n{call}\n</tool_call><tool_call>{call}</tool_call>"),
        ("tool", '<tool_response>{"size": "5""}</tool_response><tool_response>{"size": "6"}</tool_response>'),
        ("human", "y"),
        ("gpt", f"<tool_call>{call}</tool_call>"),
    ]
    _, sample = read_row(row(*turns), "w")
    assert [tool.description for tool in sample.tools] == ["Says </tools>."]
    said = ToolCall(name="say", arguments={"text": 'a "</tool_call>" <tool_call>'})
    assert [message.content for message in sample.messages] == [
        *("Speak.", "x", "So.", '{"size": "5""}', '{"size": "6"}', "y")
    ]
    assert (sample.messages[2].tool_calls, sample.target.tool_calls) == ((said, said), (said,))


def test_calls_and_results_of_a_turn_stay_together() -> None:
    answer = (
        "<think>Both.</think>\n<tool_call>\n{'arguments': {'plant': \"aunt's\", 'wet': True}, 'name': 'water'}\n"
        '</tool_call><tool_call>[{"name": "prune", "arguments": {}}, {"name": "prune"}]</tool_call>'
    )
    results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    turns = [
        ("human", "x"),
        ("gpt", answer),
        ("tool", results),
        ("tool", "3"),
        ("tool", "4"),
        ("gpt", "a"),
        ("human", "b"),
    ]
    first, last = read_row(row(*turns, ("gpt", "c"), tools=TOOLS), "w")
    assert first.target.tool_calls == (
        ToolCall(name="water", arguments={"plant": "aunt's", "wet": True}),
        ToolCall(name="prune"),
        ToolCall(name="prune"),
    )
    assert last.messages[2:6] == tuple(
        Message(role="tool", content=str(number), tool_call_id=f"call_{number - 1}" if number < 4 else None)
        for number in range(1, 5)
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "no assistant turn"),
        (row(("system", "<tools>[{]</tools>")), r"conversations\[0\].value: <tools>: neither JSON nor"),
        (row(("system", "<tools>[]")), "<tools> is not closed"),
        (row(("human", "x"), ("gpt", "</tool_call>")), "its calls cannot be read"),
        (row(("human", "x"), ("gpt", "<tool_call></tool_call>")), "neither JSON nor"),
        (row(("human", "x"), ("gpt", "<tool_call>[]</tool_call>")), "holds no call"),
        (row(("human", "x"), ("gpt", "<tool_call>{'name': f()}</tool_call>")), "neither JSON nor"),
        (row(("human", "x"), ("gpt", "y"), tools="{"), "tools: neither JSON nor"),
        (row(("robot", "x")), r"conversations\[0\].from: must be system, human, gpt or tool"),
    ],
)
def test_what_does_not_fit_is_a_row_error(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(bad, "w"))
