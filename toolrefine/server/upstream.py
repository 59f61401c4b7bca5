"""The one server behind this one: connections to it, and which headers pass in which direction."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, cast

import httpx2

from toolrefine.server.errors import UpstreamError, unreachable
from toolrefine.server.settings import HEADER

log = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]

CHAT = b"/chat/completions"
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"date"}

MAX_MODELS = 256
"""Names of models that are remembered, at most: clients may name what they like."""

IDLE_S = 2.0
"""An idle connection is closed after this, before servers with five seconds of patience do so mid-request."""


class Request(NamedTuple):
    """What the upstream is asked."""

    method: bytes
    target: bytes
    """Path below the base URL, with the query."""
    headers: Headers
    body: bytes


class Reply:
    """What the upstream answers; its body is read once, and closing gives the connection back."""

    def __init__(self, response: httpx2.Response, release: Callable[[], None]) -> None:
        self.status = response.status_code
        # A 304 may tell the length of a body that does not follow; the server would wait for it.
        dropped = NOT_RETURNED | {b"content-length"} if self.status in (204, 304) else NOT_RETURNED
        self.headers: Headers = [
            (name.lower(), value) for name, value in response.headers.raw if name.lower() not in dropped
        ]
        self._response = response
        self._release = release
        self._is_closed = False

    @property
    def media_type(self) -> str:
        """Content type without parameters; empty for an encoded body, which is nobody's business here."""
        if self.header(b"content-encoding") not in ("", "identity"):
            return ""
        return self.header(b"content-type").partition(";")[0].strip().lower()

    def header(self, name: bytes) -> str:
        """The value of a header, empty where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            UpstreamError: it breaks off.
        """
        stream = cast(httpx2.AsyncByteStream, self._response.stream)
        try:
            async for chunk in stream:
                yield chunk
        except httpx2.TransportError as error:
            raise unreachable(type(error).__name__) from None

    async def close(self) -> None:
        """Give the connection back, or close it where the body has not been read to its end."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(httpx2.TransportError):
            await self._response.aclose()
        self._release()


class Upstream:
    """One base URL, fixed when the server starts.

    Each transport holds one connection and serves one request at a time: a common pool looks through all its
    connections for every request, which costs more than all else at some hundred requests in flight.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        keeps_authorization: bool = True,
        connect_s: float = 5.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Speak with the server at a base URL; a transport given serves all requests at once instead of connections."""
        base = httpx2.URL(url)
        path = base.raw_path.rstrip(b"/") or b"/v1"
        self.base = base.copy_with(raw_path=path)
        self._path = path
        self._chat_url = self.base.copy_with(raw_path=path + CHAT)
        self._authorization = f"Bearer {key}".encode() if key else b""
        self._keeps_authorization = keeps_authorization
        self._extensions = {"timeout": {"connect": connect_s, "pool": connect_s, "read": None, "write": None}}
        self._shared = transport
        self._ssl = ssl.create_default_context() if base.scheme == "https" else False
        self._idle: deque[tuple[float, httpx2.AsyncBaseTransport]] = deque()
        self.gives_logprobs = True
        """Whether it may be asked for log-probabilities at all."""
        self._no_logprobs: deque[str] = deque(maxlen=MAX_MODELS)
        """Models that have refused to give any."""
        self.call_format = "auto"
        """Wire format of the calls that its texts may hold; auto where that is not known."""
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, request: Request) -> Reply:
        """Ask, and return what is answered once its headers are there.

        Raises:
            UpstreamError: it cannot be reached or breaks off.
        """
        transport = self._take()
        message = httpx2.Request(
            request.method.decode("ascii"),
            self._chat_url if request.target == CHAT else self.base.copy_with(raw_path=self._path + request.target),
            headers=self._headers(request.headers),
            content=request.body,
            extensions=self._extensions,
        )
        try:
            response = await transport.handle_async_request(message)
        except httpx2.TransportError as error:
            self._drop(transport)
            raise unreachable(type(error).__name__) from None
        except BaseException:
            self._drop(transport)
            raise
        return Reply(response, lambda: self._give_back(transport))

    async def read(self, request: Request, max_bytes: int) -> tuple[int, str, bytes]:
        """Status, content type and whole body of an answer.

        Raises:
            UpstreamError: it cannot be reached, breaks off, or answers more than that.
        """
        reply = await self.send(request)
        try:
            body = bytearray()
            async for chunk in reply.chunks():
                body += chunk
                if len(body) > max_bytes:
                    raise UpstreamError(502, "upstream_too_long", "the upstream's answer is too long")
            return reply.status, reply.media_type, bytes(body)
        finally:
            await reply.close()

    def may_give_logprobs(self, model: object) -> bool:
        """Whether to ask a model for log-probabilities."""
        return self.gives_logprobs and _brief(model) not in self._no_logprobs

    def expect_no_logprobs(self, model: object) -> None:
        """Remember that a model gives no log-probabilities."""
        name = _brief(model)
        if name not in self._no_logprobs:
            self._no_logprobs.append(name)
            log.warning("the upstream's model %r gives no log-probabilities; it is asked for none from now on", name)

    async def close_idle(self) -> None:
        """Close connections that nobody has used for a while, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(IDLE_S / 2)
            while self._idle and self._idle[0][0] < loop.time() - IDLE_S:
                with suppress(httpx2.TransportError):
                    await self._idle.popleft()[1].aclose()

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop()[1].aclose()
        if self._shared is not None:
            await self._shared.aclose()

    def _headers(self, given: Headers) -> list[tuple[bytes, bytes]]:
        named = {name.strip().lower() for key, value in given if key == b"connection" for name in value.split(b",")}
        kept = [
            (name, value)
            for name, value in given
            if name not in NOT_FORWARDED and name not in named and not name.startswith(HEADER)
        ]
        if self._authorization or not self._keeps_authorization:
            kept = [(name, value) for name, value in kept if name != b"authorization"]
        if self._authorization:
            kept.append((b"authorization", self._authorization))
        return [(b"host", self.base.netloc), *kept]

    def _take(self) -> httpx2.AsyncBaseTransport:
        if self._shared is not None:
            return self._shared
        if self._idle:
            return self._idle.pop()[1]
        limits = httpx2.Limits(max_connections=1, keepalive_expiry=IDLE_S)
        return httpx2.AsyncHTTPTransport(verify=self._ssl, limits=limits, trust_env=False)

    def _give_back(self, transport: httpx2.AsyncBaseTransport) -> None:
        if transport is not self._shared:
            self._idle.append((asyncio.get_running_loop().time(), transport))

    def _drop(self, transport: httpx2.AsyncBaseTransport) -> None:
        """Close a connection in an unknown state, in a task of its own: this one may be at its end."""
        if transport is not self._shared:
            task = asyncio.create_task(transport.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _brief(model: object) -> str:
    """The name of a model as far as it is remembered."""
    return model[:200] if isinstance(model, str) else ""


def without(headers: Headers, *names: bytes) -> list[tuple[bytes, bytes]]:
    """Headers but these."""
    return [(name, value) for name, value in headers if name not in names]


def with_extra(headers: Headers, extra: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers and these, which take the place of those of their names: the upstream may be a server like this one."""
    added = [(name.lower().encode(), value.encode()) for name, value in extra]
    return [*without(headers, *(name for name, _ in added)), *added]
