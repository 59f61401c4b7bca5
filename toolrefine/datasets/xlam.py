"""xLAM (arXiv 2406.18518, Salesforce/xlam-function-calling-60k on the hub): {"id", "query", "tools", "answers"}.

tools and answers are JSON text. A tool's parameters are a bare map {name: {"description", "type", "default"}} whose
types are Python's, with ", optional" behind them where the parameter is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.fields import id_of, read_calls, read_tools, text_of
from toolrefine.datasets.json_schema import python_type, repair_schema, split_outside_brackets
from toolrefine.errors import RowError
from toolrefine.matching import schema_violation
from toolrefine.types import Message, Sample, Tool, ToolCall


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of one row; where becomes its id if the row has none.

    Raises:
        RowError: the row does not fit the format.
    """
    for key in ("query", "tools", "answers"):
        if row.get(key) is None:
            raise RowError(f"{key}: missing")
    yield Sample(
        id=id_of(row, where),
        messages=(Message(role="user", content=text_of(row["query"], "query")),),
        tools=read_tools(row["tools"], to_schema),
        target=Message(role="assistant", tool_calls=read_calls(row["answers"], "answers")),
    )


def to_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of the arguments object.

    A parameter is required unless it is marked optional or has a default. A default that its type does not allow,
    such as "" for a number, says only that the parameter may be left out.
    """
    # A parameter may be called "type"; only as a keyword is its value text.
    if isinstance(parameters.get("type"), str) and isinstance(parameters.get("properties"), dict):
        return repair_schema(parameters)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, spec in parameters.items():
        schema, is_required = _parameter(spec if isinstance(spec, dict) else {})
        properties[name] = schema
        if is_required:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _parameter(spec: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    text = spec.get("type")
    kind, *marks = split_outside_brackets(text, ",") if isinstance(text, str) else [""]
    schema = python_type(kind) | repair_schema({key: value for key, value in spec.items() if key != "type"})
    optional = "default" in spec or any("optional" in mark for mark in marks)
    if "default" in schema and not _allows(schema, schema["default"]):
        del schema["default"]
    return schema, not optional


def _allows(schema: dict[str, Any], value: Any) -> bool:
    tool = Tool(name="tool", parameters={"type": "object", "properties": {"value": schema}})
    return schema_violation([ToolCall(name="tool", arguments={"value": value})], [tool]) is None
