"""Reading an answer while it is being written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolrefine.formats.base import Parsed, WireFormat
from toolrefine.types import Tool, ToolCall

_ENDS_A_CALL = re.compile(r"[)}\]>`]")
_GROWTH = 1.125
"""How much longer a text must be than when it was last read: so all readings together take linear time."""
_SMALL = 8192
"""Characters below which a text is read whenever a call could be complete."""


class AnswerStream:
    """Calls out of a text that comes in pieces.

    What it gives before close is provisional: a text that goes on may turn out to be malformed, or a thought.
    """

    def __init__(self, wire_format: WireFormat, tools: Sequence[Tool] = ()) -> None:
        """Read a format; tools are those of the prompt."""
        self._format = wire_format
        self._tools = tools
        self._pieces: list[str] = []
        self._length = 0
        self._length_read = 0
        self._calls: tuple[ToolCall, ...] = ()

    def feed(self, piece: str) -> tuple[ToolCall, ...]:
        """Take the next piece; returns the calls that are complete and were not returned before.

        In a long text a call may be returned some pieces late.
        """
        self._pieces.append(piece)
        self._length += len(piece)
        if not _ENDS_A_CALL.search(piece) or _SMALL < self._length < _GROWTH * self._length_read:
            return ()
        self._length_read = self._length
        calls = self._format.parse(self._text(), truncated=True, tools=self._tools).calls
        new, self._calls = calls[len(self._calls) :], max(calls, self._calls, key=len)
        return new

    def close(self, truncated: bool = False) -> Parsed:
        """End the text: exactly what WireFormat.parse makes of the whole."""
        return self._format.parse(self._text(), truncated, self._tools)

    def _text(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]
