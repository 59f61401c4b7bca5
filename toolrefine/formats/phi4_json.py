"""Calls as a JSON list behind a word or in tags: `functools[{"name": "f", "arguments": {"a": 1}}]` (Phi-4-mini)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, expect, parse_answer
from toolrefine.formats.json_object import dump_call, read_call_list, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

WORD = "functools"
OPEN = "<|tool_call|>"
CLOSE = "<|/tool_call|>"


class Phi4Json:
    """`functools[...]`, or `<|tool_call|>[...]<|/tool_call|>`. Text before it is ignored, text behind it MALFORMED."""

    name = "phi4_json"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write the word and one list."""
        return f"{WORD}[{', '.join(map(dump_call, calls))}]"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the list; without `functools[` and without a tag, NO_CALL."""
        return parse_answer(text, (f"{WORD}[", OPEN), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    opened, word = text.find(OPEN), text.find(f"{WORD}[")
    if opened < 0 and word < 0:
        return Outcome.MALFORMED if CLOSE in text else Outcome.NO_CALL
    tagged = word < 0 or 0 <= opened < word
    start = skip_blanks(text, opened + len(OPEN)) if tagged else word + len(WORD)
    end = skip_blanks(text, read_call_list(text, start, ("arguments", "parameters"), calls))
    if tagged:
        end = skip_blanks(text, expect(text, end, CLOSE))
    return Outcome.CALLS if end == len(text) else Outcome.MALFORMED
