"""Tools as data sets list them, with the parameters of each as JSON Schema (2020-12).

A tool may stand in OpenAI's wrapper. Its parameters may be JSON Schema with JSON's or Python's names of types (OpenAI,
ToolACE, BFCL), under MCP's name inputSchema, or a bare map {name: {"type", "description", "default"}} (xLAM, API-Bank).
"""

from __future__ import annotations

import re
from typing import Any

from toolrefine.datasets.fields import list_of, name_of, object_of, parse_value, text_of, unwrap
from toolrefine.datasets.json_schema import python_type, repair_schema, split_outside_brackets
from toolrefine.errors import RowError
from toolrefine.formats.json_object import JsonError, read_object, skip_blanks
from toolrefine.matching import schema_violation
from toolrefine.types import Tool, ToolCall

_PARAMETERS = ("parameters", "inputSchema", "input_schema", "input_parameters")
_SCHEMA_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "$ref": str,
    "allOf": list,
    "anyOf": list,
    "oneOf": list,
    "additionalProperties": bool,
}
"""Keywords that mark a schema, with what they hold there. A parameter may have the name of a keyword."""

_OPTIONAL = re.compile(r"\boptional\b(?!\s*\[)", re.IGNORECASE)
# A line break between two literals stands outside of all strings, since strings in one have none.
_NEXT_LITERAL = re.compile(r"\}[ \t\r]*+\n\s*+\{")


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The tools of a row: a list, given as such or as JSON text; nothing at all is no tools.

    A tool that is listed twice in the same words is kept once.

    Raises:
        RowError: a tool has no name, its parameters are no object, or two tools share a name.
    """
    tools: dict[str, Tool] = {}
    blank = isinstance(value, str) and not value.strip()
    for index, item in enumerate([] if blank else list_of(value, "tools")):
        what = f"tools[{index}]"
        spec = unwrap(item, what)
        parameters: Any = next((spec[key] for key in _PARAMETERS if spec.get(key)), {})
        tool = Tool(
            name=name_of(spec, what),
            description=text_of(spec.get("description"), f"{what}.description"),
            parameters=arguments_schema(object_of(parameters, f"{what}.parameters")),
        )
        if tools.setdefault(tool.name, tool) != tool:
            raise RowError(f"{what}: another tool has the name {tool.name!r} too")
    return tuple(tools.values())


def parse_tools(text: str, what: str) -> list[Any]:
    """The tools that a prompt lists: one list, or one object after the other, as JSON or as Python writes them.

    Raises:
        RowError: the text is something else.
    """
    text = text.strip()
    items: list[Any] = []
    position = 0
    try:
        while position < len(text):
            item, position = read_object(text, position)
            items.append(item)
            position = skip_blanks(text, position)
    except JsonError:
        listed = text if text.startswith("[") else f"[{_NEXT_LITERAL.sub('}, {', text)}]"
        return list_of(parse_value(listed, what), what)
    return items


def arguments_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of the arguments object, from a schema or a bare map of parameters.

    A parameter of a bare map is required unless it is marked optional or has a default. A default that its type does
    not allow, such as "" for a number, says only that the parameter may be left out.
    """
    if not parameters:
        return {"type": "object", "properties": {}}
    if _is_schema(parameters):
        schema = repair_schema(parameters)
        return schema if "type" in schema or _SCHEMA_KEYWORDS.keys() & schema else {"type": "object", **schema}
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, spec in parameters.items():
        properties[name], is_required = _parameter(spec)
        if is_required:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def allows(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value fits the schema of a parameter."""
    tool = Tool(name="tool", parameters={"type": "object", "properties": {"value": schema}})
    return schema_violation([ToolCall(name="tool", arguments={"value": value})], [tool]) is None


def _is_schema(parameters: dict[str, Any]) -> bool:
    kind, properties = parameters.get("type"), parameters.get("properties")
    if isinstance(kind, str) and (isinstance(properties, dict) or python_type(kind).get("type") == "object"):
        return True
    if isinstance(properties, dict) and not any(isinstance(value, str) for value in properties.values()):
        return True
    return any(isinstance(parameters.get(key), kinds) for key, kinds in _SCHEMA_KEYWORDS.items())


def _parameter(spec: Any) -> tuple[dict[str, Any], bool]:
    """The schema of one parameter of a bare map, and whether it is required."""
    if isinstance(spec, str):
        return python_type(spec) or {"description": spec}, not _OPTIONAL.search(spec)
    if not isinstance(spec, dict):
        return {}, True
    text = spec.get("type")
    if not isinstance(text, str):
        return repair_schema(spec), _is_required(spec, "")
    schema = python_type(split_outside_brackets(text, ",")[0])
    schema |= repair_schema({key: value for key, value in spec.items() if key != "type"})
    if "default" in schema and not allows(schema, schema["default"]):
        del schema["default"]
    return schema, _is_required(spec, text)


def _is_required(spec: dict[str, Any], kind: str) -> bool:
    if isinstance(spec.get("required"), bool):
        return bool(spec["required"])
    return "default" not in spec and not _OPTIONAL.search(kind)
