"""The pythonic list between the tags of Llama 4: `<|python_start|>[f(a=1)]<|python_end|>`."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.formats.base import Parsed, parse_answer
from toolrefine.formats.pythonic import read_list, render_list
from toolrefine.types import Outcome, Tool, ToolCall

OPEN = "<|python_start|>"
CLOSE = "<|python_end|>"


class Llama4Pythonic:
    """As Pythonic, with the tags around the list or without them."""

    name = "llama4_pythonic"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write the calls as one list in tags.

        Raises:
            DataError: a tool or an argument has a name that cannot be written.
            ValueError: an argument is not JSON.
        """
        return f"{OPEN}{render_list(calls)}{CLOSE}"

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read a text; see Pythonic for what is MALFORMED."""
        return parse_answer(text, (OPEN, "["), _read, truncated)


def _read(text: str, calls: list[ToolCall]) -> Outcome:
    if text.startswith(OPEN):
        text = text.removeprefix(OPEN).removesuffix(CLOSE).strip()
    return read_list(text, calls)
