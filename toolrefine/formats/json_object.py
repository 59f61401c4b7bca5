"""The strict reader of JSON objects that all JSON-based formats share."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from toolrefine.formats.base import MAX_NESTING, SURROGATE, UnreadableError, expect
from toolrefine.types import ToolCall

BLANKS = re.compile(r"\s*+")


class JsonError(UnreadableError):
    """A text is not the JSON object that it should be."""


def read_object(text: str, start: int) -> tuple[dict[str, Any], int]:
    """Read the JSON object at text[start:]; returns it and where it ends.

    Stricter than json.loads: no duplicate keys, no NaN or infinite numbers, no lone surrogates, no nesting beyond
    MAX_NESTING.

    Raises:
        JsonError: there is no such object.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from None
    if not isinstance(value, dict):
        raise JsonError("not an object")
    _check(value, depth=1)
    return value, end


def read_json(text: str) -> Any:
    """Read a text that is one JSON value of any type, as strictly as read_object.

    Raises:
        JsonError: it is not.
    """
    # The strict reader reads objects only, so the value is made the only one of an object.
    wrapped = f'{{"": {text}}}'
    value, end = read_object(wrapped, 0)
    if end != len(wrapped) or len(value) != 1:
        raise JsonError("more than one JSON value")
    return value[""]


def read_call(text: str, start: int, argument_keys: tuple[str, ...]) -> tuple[ToolCall, int]:
    """Read the call that text[start:] holds as a JSON object; returns it and where it ends. Other keys are ignored.

    Raises:
        JsonError: there is no object, or it lacks a name or exactly one object of arguments.
    """
    value, end = read_object(text, start)
    name = value.get("name")
    arguments = [value[key] for key in argument_keys if key in value]
    if not isinstance(name, str) or not name:
        raise JsonError("no name")
    if len(arguments) != 1 or not isinstance(arguments[0], dict):
        raise JsonError("no object of arguments")
    return ToolCall(name=name, arguments=arguments[0]), end


def read_call_list(text: str, start: int, argument_keys: tuple[str, ...], calls: list[ToolCall]) -> int:
    """Read the JSON list of calls at text[start:], adding each to calls; returns where the list ends.

    Raises:
        UnreadableError: there is no such list, or it is empty.
    """
    position = skip_blanks(text, expect(text, start, "["))
    while True:
        call, position = read_call(text, position, argument_keys)
        calls.append(call)
        position = skip_blanks(text, position)
        if text.startswith("]", position):
            return position + 1
        position = skip_blanks(text, expect(text, position, ","))


def dump_call(call: ToolCall, arguments_key: str = "arguments") -> str:
    """A call as a JSON object in one line.

    Raises:
        ValueError: an argument is not JSON.
    """
    return dump({"name": call.name, arguments_key: call.arguments})


def dump(value: Any) -> str:
    """A value as JSON in one line.

    Raises:
        ValueError: it is not JSON.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def skip_blanks(text: str, start: int) -> int:
    """Where the first non-blank character at or after start is."""
    blanks = BLANKS.match(text, start)
    return blanks.end() if blanks else start


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise JsonError("duplicate key")
    return value


def _check(value: Any, depth: int) -> None:
    match value:
        case str() if SURROGATE.search(value):
            raise JsonError("lone surrogate")
        case float() if not math.isfinite(value):
            raise JsonError("number out of range")
        case dict() | list() if depth > MAX_NESTING:
            raise JsonError(f"nested deeper than {MAX_NESTING}")
        case dict():
            for key, item in value.items():
                _check(key, depth + 1)
                _check(item, depth + 1)
        case list():
            for item in value:
                _check(item, depth + 1)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
