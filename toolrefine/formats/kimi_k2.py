"""Calls in the sections of Kimi K2: each an id, `functions.NAME:INDEX`, and a JSON object."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, UnreadableError, expect, parse_answer, read_blocks, read_until, writable
from toolrefine.formats.json_object import dump, read_object, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

SECTION_OPEN = "<|tool_calls_section_begin|>"
SECTION_CLOSE = "<|tool_calls_section_end|>"
OPEN = "<|tool_call_begin|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
CLOSE = "<|tool_call_end|>"


class KimiK2:
    """Blocks of one call each inside a section. Text outside of the blocks is ignored.

    A block that cannot be read or is not closed is MALFORMED, and so is a section without a block.
    """

    name = "kimi_k2"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one section; calls are numbered from 0.

        Raises:
            DataError: a name that cannot be written.
        """
        blocks = (
            f"{OPEN}functions.{writable(call.name, (OPEN, ARGUMENTS, CLOSE), 'tool name', self.name)}:{index}"
            f"{ARGUMENTS}{dump(call.arguments)}{CLOSE}"
            for index, call in enumerate(calls)
        )
        return f"{SECTION_OPEN}{''.join(blocks)}{SECTION_CLOSE}"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the blocks of a text; see the class for what is MALFORMED."""
        return parse_answer(text, (SECTION_OPEN, OPEN), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    return read_blocks(text, OPEN, _read_block, calls, (SECTION_OPEN, SECTION_CLOSE, ARGUMENTS, CLOSE))


def _read_block(text: str, position: int) -> tuple[ToolCall, int]:
    call_id, position = read_until(text, position, ARGUMENTS)
    name, colon, index = call_id.strip().rpartition(":")
    name = name.removeprefix("functions.")
    if not colon or not index.isdecimal() or not name:
        raise UnreadableError("no functions.NAME:INDEX")
    arguments, position = read_object(text, skip_blanks(text, position))
    return ToolCall(name=name, arguments=arguments), expect(text, skip_blanks(text, position), CLOSE)
