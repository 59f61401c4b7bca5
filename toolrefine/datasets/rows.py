"""Reading the pieces that rows of many formats share: tools, messages, calls. Every fault is a RowError."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolrefine.errors import RowError
from toolrefine.types import Message, Tool, ToolCall

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Names of roles in the wild -> ours."""


def read_list(row: dict[str, Any], key: str) -> list[Any]:
    """A list, or a JSON string of one; absent is empty.

    Raises:
        RowError: it is neither.
    """
    value = row.get(key)
    if isinstance(value, str):
        value = read_json(value, key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{key}: not a list")
    return value


def read_text(row: dict[str, Any], key: str) -> str:
    """A string; absent is empty.

    Raises:
        RowError: it is something else.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{key}: not a string")
    return value


def read_json(text: str, where: str) -> Any:
    """A JSON value; NaN, Infinity and nesting beyond Python's limit are faults.

    Raises:
        RowError: the text is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{where}: not JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_tools(items: Sequence[Any], where: str = "tools") -> tuple[Tool, ...]:
    """Tools, each bare or wrapped as {"type": "function", "function": {...}}.

    Raises:
        RowError: a tool has no name or no readable schema, or two share a name.
    """
    tools: dict[str, Tool] = {}
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        function = item.get("function", item) if isinstance(item, dict) else item
        if not isinstance(function, dict):
            raise RowError(f"{place}: not an object")
        name, description = function.get("name"), function.get("description") or ""
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(name, str) or not name:
            raise RowError(f"{place}.name: missing")
        if name in tools:
            raise RowError(f"{place}.name: {name!r} is there twice")
        if not isinstance(description, str):
            raise RowError(f"{place}.description: not a string")
        if not isinstance(parameters, dict) or not isinstance(parameters.get("properties", {}), dict):
            raise RowError(f"{place}.parameters: not a JSON Schema of an object")
        if not isinstance(parameters.get("required", []), list):
            raise RowError(f"{place}.parameters.required: not a list")
        tools[name] = Tool(name=name, description=description, parameters=parameters)
    return tuple(tools.values())


def read_calls(items: Sequence[Any], where: str) -> tuple[ToolCall, ...]:
    """Calls, each bare or wrapped as {"function": {...}}; arguments may be a JSON string.

    Raises:
        RowError: a call has no name, or arguments that are no object.
    """
    calls = []
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        function = item.get("function", item) if isinstance(item, dict) else item
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise RowError(f"{place}.name: missing")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = read_json(arguments, f"{place}.arguments") if arguments.strip() else {}
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise RowError(f"{place}.arguments: not an object")
        calls.append(ToolCall(name=function["name"], arguments=arguments))
    return tuple(calls)


def read_messages(items: Sequence[Any]) -> tuple[Message, ...]:
    """Turns of a conversation with OpenAI's keys.

    Raises:
        RowError: a turn has no known role, or content that is not text.
    """
    messages = []
    for number, item in enumerate(items):
        place = f"messages[{number}]"
        if not isinstance(item, dict):
            raise RowError(f"{place}: not an object")
        role = ROLES.get(str(item.get("role")))
        if role is None:
            raise RowError(f"{place}.role: {item.get('role')!r} is none of {', '.join(sorted(ROLES))}")
        calls = item.get("tool_calls") or []
        if not isinstance(calls, list):
            raise RowError(f"{place}.tool_calls: not a list")
        call_id = item.get("tool_call_id")
        messages.append(
            Message.model_validate(
                {
                    "role": role,
                    "content": read_content(item.get("content"), place),
                    "tool_calls": read_calls(calls, f"{place}.tool_calls"),
                    "tool_call_id": call_id if isinstance(call_id, str) else None,
                }
            )
        )
    return tuple(messages)


def read_content(content: Any, where: str) -> str:
    """Text, or a list of text parts; None is empty.

    Raises:
        RowError: it holds something that is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise RowError(f"{where}.content: not text")
