from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.datasets.tool_schema import parse_tools, read_tools
from toolrefine.errors import RowError
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Tool

SCHEMA = {"type": "object", "properties": {"plant": {"type": "string"}}, "required": ["plant"]}
PLAIN = {"name": "water", "description": "Water it.", "parameters": SCHEMA}
WATER = Tool(name="water", description="Water it.", parameters=SCHEMA)


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN,
        {"type": "function", "function": PLAIN},
        {"type": "function", **PLAIN, "strict": True},
        {"name": "water", "description": "Water it.", "inputSchema": SCHEMA},
        {"name": "water", "description": "Water it.", "input_schema": SCHEMA},
        {"name": "water", "description": "Water it.", "input_parameters": {"plant": {"type": "str"}}},
        PLAIN | {"parameters": SCHEMA | {"type": "dict"}, "response": {"type": "dict"}},
        PLAIN | {"parameters": {"plant": {"type": "str"}}},
        PLAIN | {"parameters": {"plant": "string"}},
        PLAIN | {"parameters": json.dumps(SCHEMA)},
        PLAIN | {"parameters": {"properties": SCHEMA["properties"], "required": ["plant"]}},
        PLAIN | {"parameters": {"type": "object", "properties": {"plant": {"type": "string", "required": True}}}},
    ],
)
def test_one_tool_in_all_its_shapes(spec: dict[str, Any]) -> None:
    assert read_tools([spec]) == (WATER,)
    assert read_tools(json.dumps([spec])) == (WATER,)


@pytest.mark.parametrize("none", [None, "", " \n", [], "[]", "null"])
def test_no_tools(none: Any) -> None:
    assert read_tools(none) == ()


@pytest.mark.parametrize("parameters", [None, {}, "{}", {"type": "object", "properties": {}}])
def test_no_parameters(parameters: Any) -> None:
    [tool] = read_tools([{"name": "f", "parameters": parameters}])
    assert tool.parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ({"name": "f"}, "tools: must be a list"),
        ([{"description": "x"}], r"tools\[0\]: has no name"),
        ([{"name": "f", "parameters": [1]}], r"tools\[0\].parameters: must be an object"),
        ([{"name": "f"}, {"name": "f", "description": "x"}], r"tools\[1\]: another tool has the name 'f' too"),
        ([7], r"tools\[0\]: must be an object"),
    ],
)
def test_what_is_no_tool_is_a_row_error(tools: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read_tools(tools)


@pytest.mark.parametrize("separator", ["\n", "\n\n", " ", ""])
def test_objects_one_after_the_other(separator: str) -> None:
    assert parse_tools(separator.join(json.dumps({"name": name}) for name in "abc"), "x") == [
        {"name": name} for name in "abc"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[{'name': 'a', 'strict': True}, {'name': \"b's {\", 'parameters': None}]",
        "{'name': 'a', 'strict': True}\n {'name': \"b's {\", 'parameters': None}\n",
    ],
)
def test_tools_as_python_writes_them(text: str) -> None:
    assert parse_tools(text, "x") == [{"name": "a", "strict": True}, {"name": "b's {", "parameters": None}]


@pytest.mark.parametrize("text", ["[{'name': __import__('os')}]", "{'name': 'a'", "f(1)", "1), g(x=2", "'a', 'b'='c'"])
def test_other_python_is_a_row_error(text: str) -> None:
    with pytest.raises(RowError, match="x: "):
        parse_tools(text, "x")


def test_json_schema_stays_what_it_is() -> None:
    schema = {
        "type": "object",
        "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
        "properties": {
            "type": {"type": "string", "enum": ["a", None], "default": None},
            "where": {"$ref": "#/$defs/place"},
            "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "deep": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
        },
        "required": ["type"],
        "additionalProperties": False,
    }
    assert arguments_schema(schema) == schema


@pytest.mark.parametrize("schema", [{"$ref": "#/$defs/a"}, {"anyOf": [SCHEMA]}, {"type": "object"}])
def test_schemas_without_properties_are_no_bare_map(schema: dict[str, Any]) -> None:
    assert arguments_schema(schema) == schema


def test_a_bare_map_tells_what_is_required() -> None:
    assert arguments_schema(
        {
            "a": {"type": "list(string)"},
            "b": {"type": "str, optional"},
            "c": {"type": "float", "default": 1},
            "d": {"type": "int", "default": ""},
            "e": {"type": "string (optional)"},
            "f": {"type": "Optional[str]"},
            "g": {"type": "boolean", "required": False},
            "h": {"type": "string", "required": True, "default": "x"},
            "properties": {"type": "dict", "description": "Of the plant."},
            "type": {"type": "any", "enum": ["x"]},
            "note": "What to write.",
            "free": None,
        }
    ) == {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "string"}},
            "b": {"type": "string"},
            "c": {"type": "number", "default": 1},
            "d": {"type": "integer"},
            "e": {"type": "string"},
            "f": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "g": {"type": "boolean"},
            "h": {"type": "string", "default": "x"},
            "properties": {"type": "object", "description": "Of the plant."},
            "type": {"enum": ["x"]},
            "note": {"description": "What to write."},
            "free": {},
        },
        "required": ["a", "f", "h", "properties", "type", "note", "free"],
    }


values = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["string", "dict", "int", "List[int]", "x", "object", "#/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["a", "type", "properties", "required", "items", "anyOf", "$ref", "nullable", "enum", "default"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["a", "type", "properties", "required", "anyOf", "nullable"]), values))
def test_a_normalised_schema_is_normal(parameters: dict[str, Any]) -> None:
    once = arguments_schema(parameters)
    assert arguments_schema(once) == once
