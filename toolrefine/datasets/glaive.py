"""Glaive function calling (glaiveai/glaive-function-calling-v2 on the hub): {"system": ..., "chat": ...}, both text.

The system text holds the tools as JSON objects, one after the other, behind a standing instruction. The chat is turns
of USER, ASSISTANT and FUNCTION RESPONSE with blank lines between them. A call is
`<functioncall> {"name": "f", "arguments": '{"a": 1}'} <|endoftext|>`: the arguments are JSON in single quotes that
nothing escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, filled_lines, id_of, read_calls, sentences, take_objects, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.formats.json_object import JsonError, read_object, skip_blanks
from toolrefine.types import Sample, ToolCall

_CALL = "<functioncall>"
_END = "<|endoftext|>"
_TURN = re.compile(r"(?:\A\s*+|(?<=\n\n)[ \t]*+)(USER|ASSISTANT|FUNCTION RESPONSE):")
_QUOTED = re.compile(r'\{\s*+"name"\s*+:\s*+"(?P<name>[^"\\]++)"\s*+,\s*+"arguments"\s*+:\s*+\'\s*+')
_QUOTED_END = re.compile(r"\s*+'\s*+\}\Z")
_INSTRUCTIONS = sentences(
    "You are a helpful assistant with access to the following functions.",
    "You are a helpful assistant, with access to the following functions.",
    "You are a helpful assistant, with no access to external functions.",
    "Use them if required -",
)


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or a tool or a call cannot be read.
    """
    specs, context = take_objects(text_of(row.get("system"), "system").strip().removeprefix("SYSTEM:"), "system")
    conversation = Conversation()
    if context := filled_lines(_INSTRUCTIONS.sub("", context)):
        conversation.add("system", context)
    chat = text_of(row.get("chat"), "chat").replace("\r\n", "\n").replace(_END, f"{_END}\n\n")
    before, *turns = _TURN.split(chat)
    if before.strip():
        raise RowError(f"chat: must begin with USER: or ASSISTANT:, not {brief(before)}")
    for role, raw in zip(turns[::2], turns[1::2], strict=True):
        text = raw.replace(_END, "").strip()
        match role:
            case "USER":
                conversation.add("user", text)
            case "ASSISTANT":
                content, *calls = text.split(_CALL)
                conversation.add_answer(content.strip(), [_read_call(call.strip()) for call in calls])
            case _:
                conversation.add_next_result(text)
    yield from conversation.samples(read_tools(specs), id_of(row, where), {})


def _read_call(text: str) -> ToolCall:
    for candidate in (text, text.replace("\\'", "'")):
        try:
            call = _read_quoted(candidate) or _read_plain(candidate)
        except JsonError:
            continue
        if call:
            return call
    raise RowError(f"chat: the call cannot be read: {brief(text)}")


def _read_quoted(text: str) -> ToolCall | None:
    head = _QUOTED.match(text)
    if head is None:
        return None
    arguments, end = ({}, head.end()) if text.startswith("'", head.end()) else read_object(text, head.end())
    return ToolCall(name=head["name"], arguments=arguments) if _QUOTED_END.match(text, end) else None


def _read_plain(text: str) -> ToolCall | None:
    value, end = read_object(text, 0)
    return read_calls([value], "chat: <functioncall>")[0] if skip_blanks(text, end) == len(text) else None
