"""Calls between the fullwidth tags of DeepSeek V3 and R1: a type, a name and fenced JSON; V3.1 omits type and fence."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, UnreadableError, expect, parse_answer, read_blocks, read_until, writable
from toolrefine.formats.json_object import dump, read_object, skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

SECTION_OPEN = "<｜tool▁calls▁begin｜>"  # noqa: RUF001
SECTION_CLOSE = "<｜tool▁calls▁end｜>"  # noqa: RUF001
OPEN = "<｜tool▁call▁begin｜>"  # noqa: RUF001
SEPARATOR = "<｜tool▁sep｜>"  # noqa: RUF001
CLOSE = "<｜tool▁call▁end｜>"  # noqa: RUF001
FENCE = "```json\n"


class DeepSeekV3:
    """Blocks of one call each inside a section. Text outside of the blocks is ignored.

    A block that cannot be read or is not closed is MALFORMED, and so is a section without a block.
    """

    name = "deepseek_v3"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one section.

        Raises:
            DataError: a name that cannot be written.
        """
        # A brace behind the separator would be read as the arguments that V3.1 writes there.
        forbidden = (OPEN, SEPARATOR, CLOSE, "\n", "{")
        blocks = (
            f"{OPEN}function{SEPARATOR}{writable(call.name, forbidden, 'tool name', self.name)}\n"
            f"{FENCE}{dump(call.arguments)}\n```{CLOSE}"
            for call in calls
        )
        return f"{SECTION_OPEN}{chr(10).join(blocks)}{SECTION_CLOSE}"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the blocks of a text; see the class for what is MALFORMED."""
        return parse_answer(text, (SECTION_OPEN, OPEN), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    return read_blocks(text, OPEN, _read_block, calls, (SECTION_OPEN, SECTION_CLOSE, SEPARATOR, CLOSE))


def _read_block(text: str, position: int) -> tuple[ToolCall, int]:
    name, position = read_until(text, position, SEPARATOR)
    start = skip_blanks(text, position)
    fenced = not text.startswith("{", start)
    if fenced:
        name, start = read_until(text, start, "\n")
        start = expect(text, start, FENCE)
    if not name.strip():
        raise UnreadableError("no name")
    arguments, position = read_object(text, skip_blanks(text, start))
    if fenced:
        position = expect(text, skip_blanks(text, position), "```")
    return ToolCall(name=name.strip(), arguments=arguments), expect(text, skip_blanks(text, position), CLOSE)
