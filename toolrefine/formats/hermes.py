"""Calls as JSON objects in tags: `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>` (Hermes, Qwen)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, expect, parse_answer, read_blocks
from toolrefine.formats.json_object import dump_call, read_call, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

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
        return "\n".join(f"{OPEN}\n{dump_call(call)}\n{CLOSE}" for call in calls)

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the blocks of a text; see the class for what is MALFORMED."""
        return parse_answer(text, (OPEN,), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    return read_blocks(text, OPEN, _read_block, calls, (CLOSE,), json_is_odd=True)


def _read_block(text: str, position: int) -> tuple[ToolCall, int]:
    call, position = read_call(text, skip_blanks(text, position), ("arguments",))
    return call, expect(text, skip_blanks(text, position), CLOSE)
