"""What the readers share: fields of a row, checked and turned into records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from toolrefine.errors import RowError
from toolrefine.formats import get_format
from toolrefine.formats.json_object import JsonError, read_json, read_object
from toolrefine.types import ToolCall


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


def parse_value(text: str, what: str) -> Any:
    """Read a value that a field holds as text, written as JSON or as Python writes it.

    Raises:
        RowError: it is neither; what names the field.
    """
    try:
        return read_json(text)
    except JsonError as error:
        # The pythonic format reads Python's literals without running them, as the argument of a call.
        calls = get_format("pythonic").parse(f"[literal(value={text})]").calls
        if len(calls) == 1 and calls[0].arguments.keys() == {"value"}:
            return calls[0].arguments["value"]
        raise RowError(f"{what}: neither JSON nor a Python literal: {error}") from None


def take_objects(text: str, what: str) -> tuple[list[dict[str, Any]], str]:
    """All JSON objects of a text, and what is left of the text without them.

    Raises:
        RowError: an object cannot be read.
    """
    objects: list[dict[str, Any]] = []
    rest, position = [], 0
    while (start := text.find("{", position)) >= 0:
        rest.append(text[position:start])
        try:
            found, position = read_object(text, start)
        except JsonError as error:
            raise RowError(f"{what}: object {len(objects) + 1} is not readable JSON: {error}") from None
        objects.append(found)
    return objects, "".join([*rest, text[position:]])


def split_results(text: str, num_calls: int) -> list[str]:
    """The result of each call, or the whole text where it is not a list with one item a call."""
    try:
        results = read_json(text)
    except JsonError:
        return [text]
    if not isinstance(results, list) or len(results) != num_calls:
        return [text]
    return [result if isinstance(result, str) else json.dumps(result, ensure_ascii=False) for result in results]


def sentences(*texts: str) -> re.Pattern[str]:
    """A pattern that finds any of some sentences, however their words are spaced."""
    return re.compile("|".join(r"\s*+".join(map(re.escape, text.split())) for text in texts))


def filled_lines(text: str) -> str:
    """A text without blank lines and blanks around lines: what is left where parts of a prompt were taken out."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))


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


def share_gpt_turns(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """The turns of ShareGPT's conversations, each {"from", "value"}: where it stands, who speaks, and what.

    Raises:
        RowError: a turn is no object, or there is no list of them.
    """
    for index, item in enumerate(list_of(value, "conversations")):
        what = f"conversations[{index}]"
        turn = object_of(item, what)
        yield what, turn.get("from"), turn.get("value")


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


def read_calls(value: Any, what: str) -> tuple[ToolCall, ...]:
    """The calls of a turn, each {"function": {"name", "arguments"}} or the inner object alone.

    Raises:
        RowError: a call has no name, or its arguments are no object.
    """
    return tuple(_read_call(item, f"{what}[{index}]") for index, item in enumerate(list_of(value, what)))


def _read_call(item: Any, what: str) -> ToolCall:
    spec = unwrap(item, what)
    arguments = spec.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    return ToolCall(name=name_of(spec, what), arguments=object_of(arguments, f"{what}.arguments"))


def unwrap(item: Any, what: str) -> dict[str, Any]:
    """A tool or a call without OpenAI's {"type": "function", "function": ...} around it.

    Raises:
        RowError: it is no object.
    """
    spec = object_of(item, what)
    return object_of(spec["function"], f"{what}.function") if "function" in spec else spec


def brief(value: Any) -> str:
    """A value as it may stand in an error: short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
