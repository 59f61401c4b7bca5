"""Calls as nested tags, `<function=f>` with a `<parameter=a>` for each argument, in `<tool_call>` (Qwen3-Coder)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolrefine.formats.base import Parsed, UnreadableError, expect, parse_answer, read_blocks, read_until, writable
from toolrefine.formats.json_object import skip_blanks
from toolrefine.formats.typed import argument_schema, read_value, write_value
from toolrefine.types import Outcome, Tool, ToolCall

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
FUNCTION = "<function="
FUNCTION_CLOSE = "</function>"
PARAMETER = "<parameter="
PARAMETER_CLOSE = "</parameter>"


class Qwen3Xml:
    """Blocks of one call each; text outside of them is ignored.

    Values are bare text, so the tools' schemas tell 5 from "5": see toolrefine.formats.typed. MALFORMED is a text
    with a block that cannot be read or is not closed, with a closing tag alone, or that is a JSON call.
    """

    name = "qwen3_xml"

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

            return read_blocks(answer, OPEN, read_block, calls, (CLOSE, FUNCTION, FUNCTION_CLOSE), json_is_odd=True)

        return parse_answer(text, (OPEN,), read, truncated)

    def _render_call(self, call: ToolCall) -> str:
        name = writable(call.name, (">", "<"), "tool name", self.name)
        parameters = "".join(
            f"{PARAMETER}{writable(argument, ('>', '<'), f'argument name of {name}', self.name)}>\n"
            f"{write_value(value, PARAMETER_CLOSE, f'{name}.{argument}')}\n{PARAMETER_CLOSE}\n"
            for argument, value in call.arguments.items()
        )
        return f"{OPEN}\n{FUNCTION}{name}>\n{parameters}{FUNCTION_CLOSE}\n{CLOSE}"


def _read_block(text: str, position: int, tools: Sequence[Tool]) -> tuple[ToolCall, int]:
    name, position = read_until(text, expect(text, skip_blanks(text, position), FUNCTION), ">")
    name = name.strip()
    if not name or "<" in name:
        raise UnreadableError("no name")
    arguments: dict[str, Any] = {}
    position = skip_blanks(text, position)
    while text.startswith(PARAMETER, position):
        argument, position = read_until(text, position + len(PARAMETER), ">")
        argument = argument.strip()
        value, position = read_until(text, position, PARAMETER_CLOSE)
        if not argument or "<" in argument or argument in arguments:
            raise UnreadableError("a parameter without a name, or given twice")
        value = value.removeprefix("\n").removesuffix("\n")
        arguments[argument] = read_value(value, argument_schema(tools, name, argument))
        position = skip_blanks(text, position)
    position = skip_blanks(text, expect(text, position, FUNCTION_CLOSE))
    return ToolCall(name=name, arguments=arguments), expect(text, position, CLOSE)
