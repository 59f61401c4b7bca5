"""Calls behind Mistral's tag: `[TOOL_CALLS][{"name": "f", "arguments": {}}]`, or `[TOOL_CALLS]f[ARGS]{}` for each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolrefine.formats.base import Parsed, UnreadableError, parse_answer
from toolrefine.formats.json_object import dump_call, read_call_list, read_object, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

TAG = "[TOOL_CALLS]"

_NAME = re.compile(r"\s*+([^\s\[\]{}\"]++)(?:\[CALL_ID\][^\[\]{}]*+)?(?:\[ARGS\])?\s*+")


class Mistral:
    """A list of JSON objects behind one tag, or, as later models write it, a tag, a name and an object for each call.

    Text before the first tag is ignored, as by the servers of such models; text behind a call is MALFORMED.
    """

    name = "mistral"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one tag and one list."""
        return f"{TAG}[{', '.join(map(dump_call, calls))}]"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the calls behind the tags; without a tag, NO_CALL."""
        return parse_answer(text, (TAG,), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    position = text.find(TAG)
    if position < 0:
        return Outcome.NO_CALL
    while text.startswith(TAG, position):
        start = skip_blanks(text, position + len(TAG))
        if text.startswith("[", start):
            position = read_call_list(text, start, ("arguments", "parameters"), calls)
        else:
            name = _NAME.match(text, start)
            if name is None:
                raise UnreadableError("no name")
            arguments, position = read_object(text, name.end())
            calls.append(ToolCall(name=name[1], arguments=arguments))
        position = skip_blanks(text, position)
    return Outcome.CALLS if position == len(text) else Outcome.MALFORMED
