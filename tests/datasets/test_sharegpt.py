from __future__ import annotations

import json
from typing import Any

import pytest

from toolrefine.datasets.sharegpt import read_row
from toolrefine.errors import RowError
from toolrefine.types import Message

CALLS = [{"name": "water", "arguments": {"plant": plant}} for plant in ("fern", "ivy")]


def row(*turns: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **fields}


@pytest.mark.parametrize("calls", [CALLS, json.dumps(CALLS)])
@pytest.mark.parametrize(
    ("observations", "contents"),
    [
        (['["a", {"b": 1}]'], ["a", '{"b": 1}']),
        (["a", '{"b": 1}'], ["a", '{"b": 1}']),
        (["all fine"], ["all fine"]),
    ],
)
def test_parallel_calls_get_their_results(calls: Any, observations: list[str], contents: list[str]) -> None:
    turns = [("human", "x"), ("function_call", calls), *(("observation", text) for text in observations)]
    first, second = read_row(row(*turns, ("gpt", "Done."), ("human", "x"), ("gpt", "y"), tools=""), "w")
    assert [call.arguments["plant"] for call in first.target.tool_calls] == ["fern", "ivy"]
    assert second.messages[2 : 2 + len(contents)] == tuple(
        Message(role="tool", content=text, tool_call_id=f"call_{number}") for number, text in enumerate(contents)
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(("human", "x"), ("function_call", "[]")), r"conversations\[1\].value: holds no call"),
        (row(("human", "x"), ("function_call", None)), r"conversations\[1\].value\[0\]: must be an object"),
        (row(("human", "x"), ("function_call", '{"arguments": {}}')), "has no name"),
        (row(("human", "x"), ("observation", 7)), "must be text"),
        (row(("human", "x"), ("gpt", "y"), tools="{}"), "tools: must be a list"),
        (row(("human", "x"), ("gpt", "y"), system=7), "system: must be text"),
        ({"conversations": {}}, "conversations: must be a list"),
    ],
)
def test_what_does_not_fit_is_a_row_error(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(bad, "w"))
