from __future__ import annotations

import json

import pytest

from toolrefine.datasets.glaive import read_row
from toolrefine.errors import RowError
from toolrefine.types import Message, ToolCall

SYSTEM = "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        (
            """{"name": "water", "arguments": '{"plant": "aunt's fern", "litres": 2}'}""",
            {"plant": "aunt's fern", "litres": 2},
        ),
        ("""{"name": "water", "arguments": '{"plant": "aunt\\'s fern"}'}""", {"plant": "aunt's fern"}),
        ("""{"name":"water","arguments":'{\n  "plant": "fern"\n}'}""", {"plant": "fern"}),
        ("""{"name": "water", "arguments": '{"quote": "x'}"}'}""", {"quote": "x'}"}),
        ("""{"name": "water", "arguments": ''}""", {}),
        ("""{"name": "water", "arguments": {"plant": "fern"}}""", {"plant": "fern"}),
        ("""{"name": "water", "arguments": "{\\"plant\\": \\"fern\\"}"}""", {"plant": "fern"}),
        ("""{"name": "water"}""", {}),
    ],
)
def test_arguments_in_single_quotes(written: str, arguments: dict[str, object]) -> None:
    [sample] = read_row(
        {"system": "", "chat": f"USER: x\n\n\nASSISTANT: <functioncall> {written} <|endoftext|>\n"}, "w"
    )
    assert sample.target.tool_calls == (ToolCall(name="water", arguments=arguments),)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{",
        "{}",
        "[]",
        "water(1)",
        """{"name": "water", "arguments": '{"a": 1}'} and more""",
        """{"name": "f", "arguments": '{'}""",
    ],
)
def test_other_calls_are_a_row_error(written: str) -> None:
    with pytest.raises(RowError, match=r"chat: "):
        list(read_row({"system": "", "chat": f"USER: x\n\n\nASSISTANT: <functioncall> {written}"}, "w"))


def test_what_else_the_system_text_says_stays() -> None:
    system = f'{SYSTEM}{{"name": "water"}}\n\n{{"name": "prune"}}\nToday is Monday.'
    [sample] = read_row({"system": system, "chat": "USER: x\n\n\nASSISTANT: y"}, "w")
    assert [tool.name for tool in sample.tools] == ["water", "prune"]
    assert sample.messages == (Message(role="system", content="Today is Monday."), Message(role="user", content="x"))


def test_text_and_call_in_two_turns_are_one_answer() -> None:
    chat = 'USER: x\n\n\nASSISTANT: Sure. <|endoftext|>\n\n\nASSISTANT: <functioncall> {"name": "f"} <|endoftext|>'
    [sample] = read_row({"system": json.dumps({"name": "f"}), "chat": chat}, "w")
    assert sample.target == Message(role="assistant", tool_calls=(ToolCall(name="f"),))
