"""Calls as bare JSON objects: `{"name": "f", "parameters": {"a": 1}}` (Llama 3.1 and later)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, parse_answer
from toolrefine.formats.json_object import dump_call, read_call, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

PYTHON_TAG = "<|python_tag|>"


class Llama3Json:
    """A text that is nothing but calls, separated by semicolons or blanks.

    A text that starts with `{` or the python tag is calls or MALFORMED; every other text is NO_CALL.
    """

    name = "llama3_json"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write the calls in one line, separated by semicolons."""
        return "; ".join(dump_call(call, "parameters") for call in calls)

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read a text; see the class for what is MALFORMED."""
        return parse_answer(text, ("{", PYTHON_TAG), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    if not text.startswith(("{", PYTHON_TAG)):
        return Outcome.NO_CALL
    position = skip_blanks(text, len(PYTHON_TAG) if text.startswith(PYTHON_TAG) else 0)
    while position < len(text) or not calls:
        call, position = read_call(text, position, ("parameters", "arguments"))
        calls.append(call)
        position = skip_blanks(text, position)
        if text.startswith(";", position):
            position = skip_blanks(text, position + 1)
    return Outcome.CALLS
