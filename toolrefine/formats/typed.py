"""Arguments as bare text, for the formats that do not quote strings: a value's type is that of its schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolrefine.errors import DataError
from toolrefine.formats.json_object import JsonError, dump, read_json
from toolrefine.matching import has_type
from toolrefine.types import Tool

_WORDS = {"True": True, "False": False, "None": None}
"""How a chat template that is written in Python's Jinja prints what is no string."""


def write_value(value: Any, closer: str, where: str) -> str:
    """A string as it is, everything else as JSON.

    Raises:
        DataError: the string holds the tag that ends it.
        ValueError: the value is not JSON.
    """
    text = value if isinstance(value, str) else dump(value)
    if closer in text:
        raise DataError(f"the value of {where} holds {closer}, which ends it; choose another prompt.format")
    return text


def read_value(text: str, schema: Any) -> Any:
    """The value that a text stands for.

    Where the schema allows nothing but strings, the text itself. Otherwise JSON or Python's True, False and None, and
    the text itself where it is neither. Without a type in the schema a text is read like one that could be anything.
    """
    types = _types(schema)
    if types == {"string"}:
        return text
    try:
        value = read_json(text)
    except JsonError:
        value = _WORDS.get(text.strip(), text)
    if isinstance(value, str):
        return text
    fits = any(has_type(value, name) for name in types)
    return text if "string" in types and not fits else value


def argument_schema(tools: Sequence[Tool], tool: str, argument: str) -> Any:
    """The schema of a tool's argument, or None."""
    for candidate in tools:
        if candidate.name == tool:
            properties = candidate.parameters.get("properties")
            return properties.get(argument) if isinstance(properties, dict) else None
    return None


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    wanted = schema.get("type")
    names = {name for name in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(name, str)}
    if not names and isinstance(schema.get("enum"), list) and all(isinstance(item, str) for item in schema["enum"]):
        return {"string"}
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if not names and isinstance(branches, list):
            names = {name for branch in branches for name in _types(branch)}
    return names
