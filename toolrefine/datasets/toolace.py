"""ToolACE's own format: {"system", "conversations": [{"from", "value"}]}, tools as JSON inside the system prompt,
calls as [name(argument=value)].

Each assistant turn that calls a tool or answers a user is a sample, as in the OpenAI format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.openai import split_turns
from toolrefine.datasets.rows import ROLES, read_list, read_text, read_tools
from toolrefine.errors import RowError
from toolrefine.formats import get_format
from toolrefine.types import Message, Outcome, Sample, Tool

JSON_TYPES = {
    "dict": "object",
    "float": "number",
    "int": "integer",
    "str": "string",
    "list": "array",
    "bool": "boolean",
}
"""Python's names of types in ToolACE's schemas -> JSON Schema's."""


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """A sample for each assistant turn that decides about tools.

    Raises:
        RowError: says what is wrong with the row.
    """
    tools = find_tools(read_text(row, "system"))
    messages = [_read_turn(turn, f"conversations[{i}]") for i, turn in enumerate(read_list(row, "conversations"))]
    yield from split_turns(str(row.get("id") or where), messages, tools, source="toolace")


def find_tools(system: str) -> tuple[Tool, ...]:
    """The tools that a system prompt lists: its first JSON array of objects with a name.

    Raises:
        RowError: there is none, or one of them is broken.
    """
    decoder = json.JSONDecoder()
    start = system.find("[{")
    start = system.find("[") if start < 0 else start
    while start >= 0:
        try:
            items, _ = decoder.raw_decode(system, start)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list) and all(isinstance(item, dict) and "name" in item for item in items):
            return read_tools([{**item, "parameters": normalise(item.get("parameters"))} for item in items])
        start = system.find("[{", start + 1)
    raise RowError("system: no JSON list of tools in it")


def normalise(schema: Any, depth: int = 0) -> Any:
    """A schema with JSON Schema's names of types."""
    if not isinstance(schema, dict) or depth > 32:
        return schema
    changed = {
        key: {name: normalise(part, depth + 1) for name, part in value.items()}
        if key == "properties" and isinstance(value, dict)
        else normalise(value, depth + 1)
        if key == "items"
        else value
        for key, value in schema.items()
    }
    if isinstance(changed.get("type"), str):
        changed["type"] = JSON_TYPES.get(changed["type"], changed["type"])
    if changed.get("required") is None:
        changed.pop("required", None)
    return changed


def _read_turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or ROLES.get(str(turn.get("from"))) is None:
        raise RowError(f"{where}.from: missing or unknown")
    role, text = ROLES[str(turn["from"])], read_text(turn, "value")
    if role == "assistant":
        parsed = get_format("pythonic").parse(text)
        if parsed.outcome is Outcome.MALFORMED:
            raise RowError(f"{where}.value: calls that cannot be read: {text[:80]!r}")
        if parsed.calls:
            return Message(role="assistant", tool_calls=parsed.calls)
    return Message.model_validate({"role": role, "content": text})
