"""Server-sent events: whole events out of pieces of a stream, and back."""

from __future__ import annotations

import json
import re
from typing import Any

from toolrefine.server.errors import UpstreamError

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventReader:
    """Cuts a stream into events."""

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._max_bytes = max_bytes

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are whole now, each with the blank line that ends it.

        Raises:
            UpstreamError: an event does not end.
        """
        self._buffer += piece
        events = []
        while end := _END.search(self._buffer, self._searched):
            events.append(bytes(self._buffer[: end.end()]))
            del self._buffer[: end.end()]
            self._searched = 0
        self._searched = max(0, len(self._buffer) - 3)
        if len(self._buffer) > self._max_bytes:
            raise UpstreamError(502, "upstream_too_long", "an event of the upstream is too long")
        return events

    def rest(self) -> bytes:
        """What is left at the end of a stream."""
        return bytes(self._buffer)


def data_of(event: bytes) -> bytes:
    """The data of an event, empty for a comment."""
    lines = event.splitlines()
    return b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))


def event_of(value: Any) -> bytes:
    """An event with a JSON value."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"
