from __future__ import annotations

import json
from typing import Any

import pytest

from toolrefine.datasets.xlam import read_row
from toolrefine.errors import RowError
from toolrefine.types import ToolCall

TOOLS = [
    {
        "name": "seed_prices",
        "description": "Prices of seeds.",
        "parameters": {
            "type": {"description": "Kind of seed.", "type": "str", "default": "grass"},
            "ids": {"description": "Ids.", "type": "List[int]"},
            "limit": {"description": "How many.", "type": "int, optional", "default": ""},
            "ratio": {"description": "Ratio.", "type": "float, optional", "default": 1},
        },
    }
]
ANSWERS = [{"name": "seed_prices", "arguments": {"ids": [1, 2]}}]


def row(**fields: Any) -> dict[str, Any]:
    return {"id": 5, "query": "Prices?", "tools": json.dumps(TOOLS), "answers": json.dumps(ANSWERS), **fields}


def test_a_row_is_a_sample() -> None:
    [sample] = read_row(row(), "w")
    assert sample.id == "5"
    assert sample.messages[0].content == "Prices?"
    assert sample.target.tool_calls == (ToolCall(name="seed_prices", arguments={"ids": [1, 2]}),)


def test_a_bare_map_becomes_json_schema() -> None:
    [sample] = read_row(row(), "w")
    assert sample.tools[0].parameters == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "description": "Kind of seed.", "default": "grass"},
            "ids": {"type": "array", "items": {"type": "integer"}, "description": "Ids."},
            "limit": {"type": "integer", "description": "How many."},
            "ratio": {"type": "number", "description": "Ratio.", "default": 1},
        },
        "required": ["ids"],
    }


def test_no_answers_mean_that_no_tool_applies() -> None:
    [sample] = read_row(row(answers="[]"), "w")
    assert sample.kind == "no_call"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "query: missing"),
        (row(tools=None), "tools: missing"),
        (row(answers="nothing"), "answers: not readable JSON"),
        (row(answers='{"name": "f"}'), "answers: must be a list"),
        (row(answers='[{"arguments": {}}]'), r"answers\[0\]: has no name"),
        (row(tools='[{"name": "f", "parameters": [1]}]'), "parameters: must be an object"),
        (row(query=7), "query: must be text"),
    ],
)
def test_what_does_not_fit_is_a_row_error(bad: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(bad, "w"))
