"""What the readers share: fields of a row, checked and turned into records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolrefine.errors import RowError
from toolrefine.formats.json_object import JsonError, read_json, read_object
from toolrefine.types import Tool, ToolCall

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def parse_row(text: str) -> dict[str, Any]:
    """Read the text of one row, which must be a JSON object and nothing else.

    Raises:
        RowError: it is not, or it has duplicate keys, numbers that are not finite, lone surrogates or absurd nesting.
    """
    text = text.strip()
    if not text.startswith("{"):
        raise RowError("the row is not a JSON object")
    try:
        row, end = read_object(text, 0)
    except JsonError as error:
        raise RowError(f"the row is not readable JSON: {error}") from None
    if end != len(text):
        raise RowError(f"the row goes on after its JSON object, at character {end + 1}")
    return row


def parse_json(text: str, what: str) -> Any:
    """Read JSON that a field holds as text, as strictly as a row.

    Raises:
        RowError: it is not JSON; what names the field.
    """
    try:
        return read_json(text)
    except JsonError as error:
        raise RowError(f"{what}: not readable JSON: {error}") from None


def list_of(value: Any, what: str) -> list[Any]:
    """A list, given as such or as JSON text; nothing at all is an empty list.

    Raises:
        RowError: it is something else.
    """
    if isinstance(value, str):
        value = parse_json(value, what)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowError(f"{what}: must be a list, not {brief(value)}")
    return value


def object_of(value: Any, what: str) -> dict[str, Any]:
    """A JSON object, given as such or as JSON text.

    Raises:
        RowError: it is something else.
    """
    if isinstance(value, str):
        value = parse_json(value, what)
    if not isinstance(value, dict):
        raise RowError(f"{what}: must be an object, not {brief(value)}")
    return value


def text_of(value: Any, what: str) -> str:
    """Text, given as such, as nothing at all, or as a list of text parts.

    Raises:
        RowError: it is something else, such as an image.
    """
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(_text_part(part, what) for part in value)
    if not isinstance(value, str):
        raise RowError(f"{what}: must be text, not {brief(value)}")
    return value


def _text_part(part: Any, what: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise RowError(f"{what}: must hold nothing but text, not {brief(part)}")
    return text


def name_of(spec: dict[str, Any], what: str) -> str:
    """The name of a tool or a call.

    Raises:
        RowError: there is none.
    """
    name = spec.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RowError(f"{what}: has no name")
    return name


def id_of(row: dict[str, Any], where: str) -> str:
    """The id of a row: its own, where it is text or a whole number, else where the row stands."""
    value = row.get("id")
    own = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return own.strip() or where


def read_tools(value: Any, to_schema: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> tuple[Tool, ...]:
    """The tools of a row, each {"type": "function", "function": {...}} or the inner object alone.

    A tool that is listed twice in the same words is kept once. to_schema turns what a tool gives as its parameters
    into JSON Schema.

    Raises:
        RowError: a tool has no name, its parameters are no object, or two tools share a name.
    """
    tools: dict[str, Tool] = {}
    for index, item in enumerate(list_of(value, "tools")):
        what = f"tools[{index}]"
        spec = _inner(item, what)
        parameters = spec.get("parameters")
        schema = NO_PARAMETERS if parameters in (None, {}) else object_of(parameters, f"{what}.parameters")
        tool = Tool(
            name=name_of(spec, what),
            description=text_of(spec.get("description"), f"{what}.description"),
            parameters=to_schema(schema) if to_schema else schema,
        )
        if tools.setdefault(tool.name, tool) != tool:
            raise RowError(f"{what}: another tool has the name {tool.name!r} too")
    return tuple(tools.values())


def read_calls(value: Any, what: str) -> tuple[ToolCall, ...]:
    """The calls of a turn, each {"function": {"name", "arguments"}} or the inner object alone.

    Raises:
        RowError: a call has no name, or its arguments are no object.
    """
    return tuple(_read_call(item, f"{what}[{index}]") for index, item in enumerate(list_of(value, what)))


def _read_call(item: Any, what: str) -> ToolCall:
    spec = _inner(item, what)
    arguments = spec.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    return ToolCall(name=name_of(spec, what), arguments=object_of(arguments, f"{what}.arguments"))


def _inner(item: Any, what: str) -> dict[str, Any]:
    spec = object_of(item, what)
    return object_of(spec["function"], f"{what}.function") if "function" in spec else spec


def brief(value: Any) -> str:
    """A value as it may stand in an error: short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
