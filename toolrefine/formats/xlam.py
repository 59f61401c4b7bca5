"""Calls as a bare JSON list: `[{"name": "f", "arguments": {"a": 1}}]` (Salesforce xLAM)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, looks_like_call, parse_answer
from toolrefine.formats.json_object import dump_call, read_call, read_call_list, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

FENCES = ("```json", "```")


class Xlam:
    """A list, or one object, and nothing else but a code fence around it. `[]` is NO_CALL."""

    name = "xlam"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one list."""
        return f"[{', '.join(map(dump_call, calls))}]"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the list; a text that starts like one and cannot be read is MALFORMED."""
        return parse_answer(text, ("[", "{", *FENCES), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    for fence in FENCES:
        if text.startswith(fence):
            text = text.removeprefix(fence).removesuffix("```").strip()
            break
    if not looks_like_call(text):
        return Outcome.NO_CALL
    if text.startswith("["):
        end = read_call_list(text, 0, ("arguments", "parameters"), calls)
    else:
        call, end = read_call(text, 0, ("arguments", "parameters"))
        calls.append(call)
    return Outcome.CALLS if skip_blanks(text, end) == len(text) else Outcome.MALFORMED
