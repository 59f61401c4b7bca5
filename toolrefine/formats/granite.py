"""Calls as a JSON list behind a tag: `<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]` (IBM Granite 3)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, parse_answer
from toolrefine.formats.json_object import dump_call, read_call_list, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

TAGS = ("<|tool_call|>", "<tool_call>")


class Granite:
    """A list behind the tag, in either of its spellings, that starts the answer. Text behind the list is MALFORMED."""

    name = "granite"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write the tag and one list."""
        return f"{TAGS[0]}[{', '.join(map(dump_call, calls))}]"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the list; a text with a tag elsewhere than at its start is MALFORMED."""
        return parse_answer(text, TAGS, _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    for tag in TAGS:
        if text.startswith(tag):
            end = read_call_list(text, skip_blanks(text, len(tag)), ("arguments", "parameters"), calls)
            return Outcome.CALLS if skip_blanks(text, end) == len(text) else Outcome.MALFORMED
    return Outcome.MALFORMED if any(tag in text for tag in TAGS) else Outcome.NO_CALL
