"""The client of one request, over ASGI: its body in, an answer out, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from toolrefine.server.errors import RefusalError
from toolrefine.server.logs import Trace
from toolrefine.server.upstream import Headers, with_extra

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WRITE_S = 60.0
"""A client that takes nothing for so long is given up."""


class GoneError(Exception):
    """The client went away before its body was whole."""


class Client:
    """Whoever asks."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        self.headers: Headers = scope["headers"]
        self.is_gone = False
        self._is_done = False
        self.has_answer = False
        self.last_write = 0.0
        self._receive = receive
        self._send = send
        self._trace = trace

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            RefusalError: 413, it is too long.
            GoneError: the client went away.
        """
        too_long = RefusalError(
            413, "body_too_large", f"the body is longer than {max_bytes} bytes", {"Connection": "close"}
        )
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        if length.isdigit() and int(length) > max_bytes:
            raise too_long
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            body += message.get("body", b"")
            if len(body) > max_bytes:
                raise too_long
            more = message.get("more_body", False)
        return bytes(body)

    async def watch(self, work: asyncio.Task[Any]) -> None:
        """Cancel the work once the client is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_done:  # the end of an answer is a disconnect too
            self.is_gone = True
            work.cancel()

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.has_answer = True
        self._trace.status = status
        named = with_extra(headers, [("X-Toolrefine-Id", self._trace.id)])
        await self._send({"type": "http.response.start", "status": status, "headers": named})

    async def write(self, data: bytes) -> None:
        """Send a piece of the body.

        Raises:
            TimeoutError: the client does not take it.
        """
        if not data:  # an empty piece would be the last
            return
        async with asyncio.timeout(WRITE_S):
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.last_write = asyncio.get_running_loop().time()

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self._is_done = True
        async with asyncio.timeout(WRITE_S):
            await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.end(body)

    async def refuse(self, error: RefusalError) -> None:
        """Send an error, if nothing has been sent; else break off, which is what an incomplete answer tells."""
        self._trace.error = error.code
        if self.has_answer:
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self.answer(error.status, [(b"content-type", b"application/json"), *headers], error.body())
