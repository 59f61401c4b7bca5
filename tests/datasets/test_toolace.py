from __future__ import annotations

import json
import time
from typing import Any

import pytest

from toolrefine.datasets.toolace import read_row, split_system
from toolrefine.errors import RowError
from toolrefine.types import Message, ToolCall

TOOLS = [
    {
        "name": "Garden Weather API",
        "description": "Weather in the garden.",
        "parameters": {
            "type": "dict",
            "properties": {
                "day": {"type": "string", "description": "When."},
                "hours": {"type": "int", "default": 24},
                "sensors": {"type": "array", "items": {"type": "float"}},
            },
            "required": ["day"],
        },
        "required": None,
    },
    {"name": "listPlants", "description": "All plants.", "parameters": {"type": "dict", "properties": {}}},
]
SYSTEM = (
    "You are an expert in composing functions. You are given a question and a set of possible functions. \n"
    "Here is a list of functions in JSON format that you can invoke:\n"
    f"{json.dumps(TOOLS)}. \n"
    "Should you decide to return the function call(s). \n"
    "Put it in the format of [func1(params_name=params_value, params_name2=params_value2...), func2(params)]\n\n"
    "NO other text MUST be included. \n"
)


def row(*turns: tuple[str, str], system: str = SYSTEM) -> dict[str, Any]:
    return {"system": system, "conversations": [{"from": role, "value": value} for role, value in turns]}


def test_a_conversation_yields_a_sample_a_decision() -> None:
    samples = list(
        read_row(
            row(
                ("user", "Weather today, and which plants?"),
                ("assistant", '[Garden Weather API(day="today", hours=2), listPlants()]'),
                ("tool", '[{"name": "Garden Weather API", "results": {"sun": true}}, {"name": "listPlants"}]'),
                ("assistant", "Sunny."),
                ("user", "And tomorrow?"),
                ("assistant", "[Garden Weather API(day='tomorrow')]"),
            ),
            "toolace:3",
        )
    )
    assert [sample.id for sample in samples] == ["toolace:3/0", "toolace:3/1"]
    assert samples[0].target.tool_calls == (
        ToolCall(name="Garden Weather API", arguments={"day": "today", "hours": 2}),
        ToolCall(name="listPlants"),
    )
    results = samples[1].messages[2:4]
    assert [message.tool_call_id for message in results] == ["call_0", "call_1"]
    assert json.loads(results[0].content) == {"name": "Garden Weather API", "results": {"sun": True}}
    assert samples[1].messages[0] == Message(role="user", content="Weather today, and which plants?")


def test_schemas_become_json_schema() -> None:
    [sample] = read_row(row(("user", "x"), ("assistant", "[listPlants()]")), "w")
    assert sample.tools[0].parameters == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "description": "When."},
            "hours": {"type": "integer", "default": 24},
            "sensors": {"type": "array", "items": {"type": "number"}},
        },
        "required": ["day"],
    }


def test_what_else_the_system_prompt_says_stays() -> None:
    tools, context = split_system(f"The current time is 2024-03-01 12:00. {SYSTEM} Answer like a gardener.")
    assert len(tools) == 2
    assert context == "The current time is 2024-03-01 12:00. Answer like a gardener."


def test_an_example_list_before_the_tools_is_passed_over() -> None:
    tools, _ = split_system(f'Write calls as [{{"name": call}}] or [f(a=1)]. Tools: {json.dumps(TOOLS)}')
    assert [tool.name for tool in tools] == ["Garden Weather API", "listPlants"]


def test_there_may_be_no_tools() -> None:
    [sample] = read_row(row(("user", "x"), ("assistant", "I cannot."), system="Functions:\n[]. \nDecide."), "w")
    assert sample.tools == ()
    assert sample.target.content == "I cannot."


@pytest.mark.parametrize(
    "results", ["all fine", '[{"name": "a"}, {"name": "b"}]', '{"name": "listPlants"}', "[{'name': 'listPlants'}]"]
)
def test_results_that_are_not_one_a_call_stay_one_text(results: str) -> None:
    turns = [("user", "x"), ("assistant", "[listPlants()]"), ("tool", results), ("assistant", "[listPlants()]")]
    *_, sample = read_row(row(*turns), "w")
    assert sample.messages[-1] == Message(role="tool", content=results, tool_call_id="call_0")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "no JSON list of tools"),
        (row(("user", "x"), system="<tool_name>a</tool_name>"), "no JSON list of tools"),
        (row(("user", "x"), system=f"{json.dumps(TOOLS)[:-1]}"), "no JSON list of tools"),
        (row(("user", "x"), system='[{"a": 1}]'), r"tools\[0\]: has no name"),
        (row(("user", "x"), ("assistant", "[listPlants(]")), r"conversations\[1\]: its calls cannot be read"),
        (row(("user", "x"), ("assistant", '{"listPlants": {}}')), "its calls cannot be read"),
        (row(("user", "x"), ("assistant", "<call>listPlants</call>")), "its calls cannot be read"),
        (row(("user", "x"), ("robot", "y")), r"conversations\[1\].from"),
        (row(("user", "x")), "no assistant turn"),
        ({"system": SYSTEM, "conversations": 1}, "conversations: must be a list"),
        ({"system": SYSTEM, "conversations": [{"from": "user", "value": 1}]}, "value: must be text"),
    ],
)
def test_what_does_not_fit_is_a_row_error(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(bad, "w"))


@pytest.mark.parametrize("unit", ['[{"a":', '[{"a": "', "[ ", "[[{", '[{"a":1},'])
def test_a_hostile_system_prompt_takes_linear_time(unit: str) -> None:
    started = time.perf_counter()
    with pytest.raises(RowError):
        split_system(unit * 200_000)
    assert time.perf_counter() - started < 5
