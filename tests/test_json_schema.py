from __future__ import annotations

import time
from typing import Any

import pytest

from toolrefine.json_schema import python_type, repair_schema


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("str", {"type": "string"}),
        (" Int ", {"type": "integer"}),
        ("List[float]", {"type": "array", "items": {"type": "number"}}),
        ("typing.List[List[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("Tuple[int, int]", {"type": "array", "items": {"type": "integer"}}),
        ("Tuple[int, str]", {"type": "array"}),
        ("tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        ("List[Union[int, float]]", {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}]}}),
        ("Optional[str]", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Union[str, str]", {"type": "string"}),
        ("Union[str, Any]", {}),
        ("Dict[str, List[int]]", {"type": "object"}),
        ("list", {"type": "array"}),
        ("list(string)", {"type": "array", "items": {"type": "string"}}),
        ("array<array<int>>", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("dict<string, int>", {"type": "object"}),
        ("string (optional)", {"type": "string"}),
        ("tuple", {"type": "array"}),
        ("any", {}),
        ("Callable[[float], float]", {}),
        ("np.ndarray", {}),
        ("", {}),
        ("List[", {"type": "array"}),
        ("]]][[[,|", {}),
    ],
)
def test_python_types(text: str, schema: dict[str, Any]) -> None:
    assert python_type(text) == schema


@pytest.mark.parametrize("text", ["List[" * 100_000, "int|" * 100_000, "," * 100_000, "Union[int|" * 20])
def test_absurd_types_are_quick(text: str) -> None:
    started = time.perf_counter()
    python_type(text)
    assert time.perf_counter() - started < 1


def test_keywords_that_are_null_or_misplaced_go() -> None:
    broken = {
        "type": "dict",
        "title": None,
        "properties": {
            "required": {"type": "str", "required": True, "default": None},
            "type": {"type": ["str", "null"], "enum": ["a", None]},
            "absent": None,
            "odd": "string",
            "deep": {"anyOf": [{"type": "dict", "properties": {"x": {"type": "bool"}}}, 1]},
            "unknown": {"type": "date", "items": {"type": "tuple"}},
        },
        "required": ["type", 3],
        "items": None,
    }
    assert repair_schema(broken) == {
        "type": "object",
        "properties": {
            "required": {"type": "string", "default": None},
            "type": {"type": ["string", "null"], "enum": ["a", None]},
            "odd": {},
            "deep": {"anyOf": [{"type": "object", "properties": {"x": {"type": "boolean"}}}]},
            "unknown": {"items": {"type": "array"}},
        },
        "required": ["type"],
    }


def test_good_schemas_stay() -> None:
    good = {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"], "description": "x", "default": None}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert repair_schema(good) == good


@pytest.mark.parametrize(
    ("older", "schema"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "str", "required": True}, "b": {"required": False}}},
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]},
        ),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"nullable": True, "enum": ["a"], "type": "string"}, {"enum": ["a", None], "type": ["string", "null"]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"type": ["string", "integer"], "nullable": True}, {"type": ["string", "integer", "null"]}),
        ({"const": "a", "nullable": True}, {"enum": ["a", None]}),
        ({"anyOf": True, "oneOf": "string", "nullable": True, "type": "string"}, {"type": ["string", "null"]}),
        ({"anyOf": [{"type": "str"}], "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "array", "items": [{"type": "int"}]}, {"type": "array", "prefixItems": [{"type": "integer"}]}),
        ({"type": "array", "items": "str"}, {"type": "array", "items": {"type": "string"}}),
        (
            {"$defs": {"a": {"type": "dict"}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
            {"$defs": {"a": {"type": "object"}}, "properties": {"a": {"$ref": "#/$defs/a"}}},
        ),
    ],
)
def test_what_others_write_in_another_way(older: dict[str, Any], schema: dict[str, Any]) -> None:
    assert repair_schema(older) == schema
