"""The format of xlam-function-calling-60k: query, tools and answers, the latter two as JSON strings.

Parameters are bare maps, {"city": {"type": "str, optional", "description": "...", "default": "..."}}, with types in
Python's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.rows import read_calls, read_list, read_text, read_tools
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample

TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}
"""First word of a type -> JSON Schema type; any other type accepts everything."""


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of a row.

    Raises:
        RowError: says what is wrong with the row.
    """
    query = read_text(row, "query")
    if not query:
        raise RowError("query: missing")
    for key in ("tools", "answers"):
        if key not in row:
            raise RowError(f"{key}: missing")
    tools = [_with_schema(tool, f"tools[{i}]") for i, tool in enumerate(read_list(row, "tools"))]
    yield Sample(
        id=str(row.get("id", where)),
        messages=(Message(role="user", content=query),),
        tools=read_tools(tools),
        target=Message(role="assistant", tool_calls=read_calls(read_list(row, "answers"), "answers")),
        source="xlam",
    )


def _with_schema(tool: Any, where: str) -> Any:
    if not isinstance(tool, dict) or not isinstance(tool.get("parameters") or {}, dict):
        raise RowError(f"{where}.parameters: not an object")
    parameters = tool.get("parameters") or {}
    if parameters.get("type") == "object" and "properties" in parameters:
        return tool
    properties, required = {}, []
    for name, spec in parameters.items():
        if not isinstance(spec, dict):
            raise RowError(f"{where}.parameters.{name}: not an object")
        type_text = str(spec.get("type", ""))
        properties[name] = {**_schema_of(type_text), **{k: v for k, v in spec.items() if k != "type"}}
        if "optional" not in type_text and "default" not in spec:
            required.append(name)
    return {**tool, "parameters": {"type": "object", "properties": properties, "required": required}}


def _schema_of(type_text: str) -> dict[str, Any]:
    """JSON Schema of 'str, optional' or 'List[int]'."""
    words = re.findall(r"[a-z]+", type_text.lower())
    if not words or words[0] not in TYPES:
        return {}
    schema: dict[str, Any] = {"type": TYPES[words[0]]}
    if schema["type"] == "array" and len(words) > 1 and words[1] in TYPES:
        schema["items"] = {"type": TYPES[words[1]]}
    return schema
