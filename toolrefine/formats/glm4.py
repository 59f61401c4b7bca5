"""Calls as a name and pairs of `<arg_key>` and `<arg_value>` in `<tool_call>` (GLM-4.5; vLLM: glm45)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolrefine.formats.base import Parsed, UnreadableError, expect, parse_answer, read_blocks, read_until, writable
from toolrefine.formats.json_object import skip_blanks
from toolrefine.formats.typed import argument_schema, read_value, write_value
from toolrefine.types import Outcome, Tool, ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
KEY = "<arg_key>"
KEY_CLOSE = "</arg_key>"
VALUE = "<arg_value>"
VALUE_CLOSE = "</arg_value>"


class Glm4:
    """Blocks of one call each; text outside of them is ignored.

    Values are bare text, so the tools' schemas tell 5 from "5": see toolrefine.formats.typed. MALFORMED is a text
    with a block that cannot be read or is not closed, with a closing tag alone, or that is a JSON call.
    """

    name = "glm4"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write one block a call.

        Raises:
            DataError: a name or a value that cannot be written.
            ValueError: an argument is not JSON.
        """
        return "\n".join(map(self._render_call, calls))

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the blocks of a text; see the class for what is MALFORMED."""

        def read(answer: str, calls: list[ToolCall]) -> Outcome:
            def read_block(text: str, position: int) -> tuple[ToolCall, int]:
                return _read_block(text, position, tools)

            return read_blocks(answer, OPEN, read_block, calls, (CLOSE, KEY, VALUE), json_is_odd=True)

        return parse_answer(text, (OPEN,), read, truncated)

    def _render_call(self, call: ToolCall) -> str:
        name = writable(call.name, ("<", "\n", "{"), "tool name", self.name)
        pairs = "".join(
            f"{KEY}{writable(argument, ('<',), f'argument name of {name}', self.name)}{KEY_CLOSE}\n"
            f"{VALUE}{write_value(value, VALUE_CLOSE, f'{name}.{argument}')}{VALUE_CLOSE}\n"
            for argument, value in call.arguments.items()
        )
        return f"{OPEN}{name}\n{pairs}{CLOSE}"


def _read_block(text: str, position: int, tools: Sequence[Tool]) -> tuple[ToolCall, int]:
    end = text.find("<", position)
    name = text[position:end].strip() if end >= 0 else ""
    if not name or "\n" in name or "{" in name:
        raise UnreadableError("no name")
    arguments: dict[str, Any] = {}
    position = end
    while text.startswith(KEY, position):
        argument, position = read_until(text, position + len(KEY), KEY_CLOSE)
        argument = argument.strip()
        value, position = read_until(text, expect(text, skip_blanks(text, position), VALUE), VALUE_CLOSE)
        if not argument or argument in arguments:
            raise UnreadableError("an argument without a name, or given twice")
        arguments[argument] = read_value(value, argument_schema(tools, name, argument))
        position = skip_blanks(text, position)
    return ToolCall(name=name, arguments=arguments), expect(text, position, CLOSE)
