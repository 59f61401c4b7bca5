"""JSON Schema out of what data sets give instead: Python's names of types, nulls for what is absent, bare maps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from toolrefine.matching import MAX_CHECKS, schema_violation
from toolrefine.types import Tool, ToolCall

_MAX_DEPTH = 64
_MAX_DEFAULT_CHECKS = 20
"""Of one default: a tool may have thousands."""
_MAX_TYPE_LENGTH = 300
_SQUARE = str.maketrans("(<)>", "[[]]")
_TYPES = {
    "any": "",
    "array": "array",
    "bool": "boolean",
    "boolean": "boolean",
    "dict": "object",
    "dictionary": "object",
    "double": "number",
    "float": "number",
    "int": "integer",
    "integer": "integer",
    "iterable": "array",
    "list": "array",
    "long": "integer",
    "mapping": "object",
    "none": "null",
    "nonetype": "null",
    "null": "null",
    "number": "number",
    "object": "object",
    "sequence": "array",
    "set": "array",
    "str": "string",
    "string": "string",
    "tuple": "array",
}
_SCHEMA_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "$ref": str,
    "allOf": list,
    "anyOf": list,
    "oneOf": list,
    "additionalProperties": bool,
}
"""Keywords that mark a schema, with what they hold there. A parameter may have the name of a keyword."""

_OPTIONAL = re.compile(r"\boptional\b(?!\s*\[)", re.IGNORECASE)


def repair_schema(schema: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """A schema with JSON's names of types instead of Python's, and without keywords that are null or misplaced.

    A type that nobody knows is left out: it then allows everything. What older drafts and OpenAPI write in another way
    is written as 2020-12 has it: "required": true inside a property, "nullable": true, and a list of items.
    """
    if depth > _MAX_DEPTH:
        return {}
    repaired: dict[str, Any] = {}
    for keyword, value in schema.items():
        match keyword, value:
            case "type", str():
                repaired |= python_type(value)
            case "type", list():
                names = [_TYPES.get(name.lower()) for name in value if isinstance(name, str)]
                if names and all(names):
                    repaired[keyword] = names
            case (("properties" | "patternProperties" | "$defs" | "definitions"), dict()):
                repaired[keyword] = {
                    name: repair_schema(item, depth + 1) if isinstance(item, dict) else {}
                    for name, item in value.items()
                    if item is not None
                }
            case (("items" | "additionalProperties" | "not"), dict()):
                repaired[keyword] = repair_schema(value, depth + 1)
            case "items", str():
                repaired[keyword] = python_type(value)
            case (("anyOf" | "oneOf" | "allOf" | "prefixItems"), list()):
                repaired[keyword] = [repair_schema(item, depth + 1) for item in value if isinstance(item, dict)]
            case "items", list():
                repaired["prefixItems"] = [repair_schema(item, depth + 1) for item in value if isinstance(item, dict)]
            case "required", list():
                repaired[keyword] = [name for name in value if isinstance(name, str)]
            case "enum", list():
                repaired[keyword] = value
            case (("type" | "properties" | "required" | "enum" | "nullable"), _):
                continue
            case (("anyOf" | "oneOf" | "allOf" | "prefixItems"), _):
                continue
            case "default" | "const", _:
                repaired[keyword] = value
            case _ if value is not None:
                repaired[keyword] = value
    if schema.get("nullable") is True:
        _allow_null(repaired)
    if "properties" in repaired and "required" not in repaired:
        marked = [name for name, item in schema["properties"].items() if _says_required(item)]
        repaired |= {"required": marked} if marked else {}
    return repaired


def _says_required(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("required") is True


def _allow_null(schema: dict[str, Any]) -> None:
    kind = schema.get("type")
    if isinstance(kind, str | list):
        kinds = [kind] if isinstance(kind, str) else kind
        schema["type"] = kind if "null" in kinds else [*kinds, "null"]
    if "const" in schema:
        schema.setdefault("enum", [schema.pop("const")])
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            schema[keyword] = [*schema[keyword], {"type": "null"}]


def python_type(text: str, depth: int = 0) -> dict[str, Any]:
    """The schema of a type as Python writes it, such as List[int], Optional[str] or Union[int, str].

    Round and angle brackets stand for square ones: list(string), array<string>. What it does not know, it allows: {}.
    Tuples and sets are lists.
    """
    text = text.translate(_SQUARE)
    if depth > _MAX_DEPTH or len(text) > _MAX_TYPE_LENGTH:
        return {}
    alternatives = split_outside_brackets(text, "|")
    if len(alternatives) > 1:
        return _union(alternatives, depth)
    head, bracket, rest = text.strip().partition("[")
    name = head.strip().lower().removeprefix("typing.")
    inside = split_outside_brackets(rest.rstrip().removesuffix("]"), ",") if bracket else []
    if name in ("union", "optional") and inside:
        return _union([*inside, *(["None"] if name == "optional" else [])], depth)
    kind = _TYPES.get(name, "")
    if not kind:
        return {}
    schema: dict[str, Any] = {"type": kind}
    if kind == "array" and inside:
        items = [python_type(item, depth + 1) for item in inside if item.strip() != "..."]
        if items and items[0] and all(item == items[0] for item in items):
            schema["items"] = items[0]
    return schema


def _union(alternatives: list[str], depth: int) -> dict[str, Any]:
    members = [python_type(alternative, depth + 1) for alternative in alternatives]
    if not all(members):
        return {}
    unique = [member for index, member in enumerate(members) if member not in members[:index]]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split at the separators that stand outside of all brackets."""
    parts, start, depth = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "[(<") - (char in "])>")
        if char == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


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


def allows(schema: dict[str, Any], value: Any, max_checks: int = MAX_CHECKS) -> bool:
    """Whether a value fits the schema of a parameter."""
    tool = Tool(name="tool", parameters={"type": "object", "properties": {"value": schema}})
    return schema_violation([ToolCall(name="tool", arguments={"value": value})], [tool], max_checks) is None


def reorder_properties(
    schema: dict[str, Any], order: Callable[[list[tuple[str, Any]]], Iterable[tuple[str, Any]]]
) -> dict[str, Any]:
    """A schema that allows the same, with its properties, pairs of name and schema, in another order."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    return {**schema, "properties": dict(order([*properties.items()]))}


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
    if "default" in schema and not allows(schema, schema["default"], _MAX_DEFAULT_CHECKS):
        del schema["default"]
    return schema, _is_required(spec, text)


def _is_required(spec: dict[str, Any], kind: str) -> bool:
    if isinstance(spec.get("required"), bool):
        return bool(spec["required"])
    return "default" not in spec and not _OPTIONAL.search(kind)
