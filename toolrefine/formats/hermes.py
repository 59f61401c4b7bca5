"""Calls as JSON objects in tags: `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>` (Hermes, Qwen)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolrefine.formats.base import Parsed, parse_answer
from toolrefine.formats.json_object import JsonError, looks_like_call, read_call, skip_blanks
from toolrefine.types import Outcome, ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


class Hermes:
    """Blocks of one call each, as the chat templates of Hermes, Qwen2.5 and Qwen3 write them.

    Text outside of the blocks is allowed and ignored, as by the servers of such models. MALFORMED is a text with a
    block that cannot be read or is not closed, with a closing tag alone, or that is a JSON call without tags; every
    other text without a block is NO_CALL.
    """

    name = "hermes"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one block a call, on lines of their own."""
        return "\n".join(f"{OPEN}\n{_render(call)}\n{CLOSE}" for call in calls)

    def parse(self, text: str, truncated: bool = False) -> Parsed:
        """Read the blocks of a text; see the class for what is MALFORMED."""
        return parse_answer(text, (OPEN,), _read, truncated)


def _render(call: ToolCall) -> str:
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False, allow_nan=False)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    position = 0
    while (opened := text.find(OPEN, position)) >= 0:
        try:
            call, position = read_call(text, skip_blanks(text, opened + len(OPEN)), ("arguments",))
        except JsonError:
            return Outcome.MALFORMED
        position = skip_blanks(text, position)
        if not text.startswith(CLOSE, position):
            return Outcome.MALFORMED
        position += len(CLOSE)
        calls.append(call)
    if calls:
        return Outcome.CALLS
    return Outcome.MALFORMED if CLOSE in text or looks_like_call(text) else Outcome.NO_CALL
