"""What benchmarks share whose gold is a list of plain calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from toolrefine.errors import RequestError
from toolrefine.formats.json_object import JsonError, read_json
from toolrefine.json_schema import allows
from toolrefine.types import Completion, Outcome, Tool, ToolCall

_WORDS = {"True": "true", "False": "false", "None": "null"}


def choose_categories(asked: Sequence[str], known: Sequence[str], benchmark: str) -> tuple[str, ...]:
    """The categories asked for in the benchmark's order; all where none are.

    Raises:
        RequestError: the benchmark does not have one of them.
    """
    for name in asked:
        if name not in known:
            raise RequestError(f"{benchmark} has no category {name!r}; there are {', '.join(known)}")
    return tuple(name for name in known if not asked or name in asked)


def as_declared(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> tuple[ToolCall, ...]:
    """The calls with arguments of the types that their tools declare, where text and the value say the same.

    "2" becomes 2 for an integer and 2 becomes "2" for a string; a list of strings becomes text with commas. What does
    not fit either way stays as it is.
    """
    declared = {tool.name: tool.parameters.get("properties", {}) for tool in tools}
    return tuple(
        ToolCall.model_construct(
            name=call.name,
            arguments={
                name: _as_declared(value, declared.get(call.name, {}).get(name, {}))
                for name, value in call.arguments.items()
            },
        )
        for call in calls
    )


def _as_declared(value: Any, schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if not isinstance(kind, str):
        return value
    match value:
        case str() if kind != "string":
            with suppress(JsonError):
                read = read_json(_WORDS.get(value, value.replace("'", '"')))
                return read if allows(schema, read) else value
        case int() | float() if kind == "string" and not isinstance(value, bool):
            return json.dumps(value)
        case list() if kind == "string" and all(isinstance(item, str) for item in value):
            return ",".join(value)
    return value


def is_out_of_reach(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> bool:
    """Whether gold calls a tool, or names an argument, that the model is not shown."""
    declared = {tool.name: tool.parameters.get("properties", {}) for tool in tools}
    return any(call.name not in declared or not call.arguments.keys() <= declared[call.name].keys() for call in calls)


def as_completion(calls: Sequence[ToolCall]) -> Completion:
    """Gold as if a model had answered so."""
    return Completion(
        text="",
        calls=tuple(calls),
        outcome=Outcome.CALLS if calls else Outcome.NO_CALL,
        num_tokens=1,
        mean_logprob=None,
    )
