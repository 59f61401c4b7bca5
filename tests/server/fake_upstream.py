"""An upstream that answers whatever a test wants, down to single bytes, and the server of the project before it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import uvicorn

from toolrefine.server.app import build_app
from toolrefine.server.settings import ServerConfig, load_settings
from toolrefine.server.upstream import Upstream

TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
OTHER_TOOL = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
HANG, RESET = "hang", "reset"


class Asked(NamedTuple):
    """A request that the fake upstream got."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


Answer = bytes | str | Sequence[bytes | float | str]
"""Raw bytes of an answer, HANG, RESET, or pieces of these with pauses between them."""


def http(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def call(name: str = "find", arguments: Any = None, number: int = 0) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": text}}


def choice(*calls: dict[str, Any], content: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return {"index": index, "message": message, "finish_reason": "tool_calls" if calls else "stop", **more}


def completion(*choices: dict[str, Any], tokens: int = 10) -> bytes:
    usage = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": list(choices), "usage": usage}).encode()


def answer(*calls: dict[str, Any], **more: Any) -> bytes:
    return http(completion(choice(*calls, **more)))


GOOD = answer(call(arguments={"city": "Rome"}))
BAD = answer(call(arguments={"limit": "many"}))
BROKEN = answer(call(arguments='{"city": '))
TEXT = answer(content="Hello there.")


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0, **more: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": index, "delta": delta, "finish_reason": finish_reason, **more}]
    return b"data: " + json.dumps({**head, "choices": choices}).encode() + b"\n\n"


USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def stream(*events: bytes | float | str, done: bool = True) -> list[bytes | float | str]:
    """A streamed answer, which ends with the connection."""
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return [head, *events, *([DONE] if done else [])]


def call_chunks(arguments: str, name: str = "find") -> list[bytes]:
    start = {"index": 0, "id": "call_0", "type": "function", "function": {"name": name, "arguments": ""}}
    middle = len(arguments) // 2
    return [
        chunk({"role": "assistant", "content": None}),
        chunk({"tool_calls": [start]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments[:middle]}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments[middle:]}}]}),
        chunk({}, "tool_calls"),
    ]


class FakeUpstream:
    """Answers with `behave`, by default with the answers given, the last of them again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.behave: Callable[[Asked], Answer] | None = None
        self.asked: list[Asked] = []
        self.keeps = True
        self.num_asked = self.num_open = self.num_broken_off = 0

    def answer_to(self, asked: Asked) -> Answer:
        self.num_asked += 1
        if self.keeps:
            self.asked.append(asked)
        if self.behave is not None:
            return self.behave(asked)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        try:
            closes = False
            while not closes and (asked := await read_request(reader)) is not None:
                async for piece in self.pieces(self.answer_to(asked), reader):
                    if piece == RESET:
                        writer.transport.abort()
                        return
                    assert isinstance(piece, bytes)
                    writer.write(piece)
                    await writer.drain()
                    closes = closes or b"connection: close" in piece[:2000]
        except (ConnectionError, asyncio.IncompleteReadError):
            self.num_broken_off += 1
        finally:
            self.num_open -= 1
            writer.close()

    async def pieces(self, answer: Answer, reader: asyncio.StreamReader) -> AsyncIterator[bytes | str]:
        for piece in [answer] if isinstance(answer, bytes | str) else answer:
            if isinstance(piece, float) or piece == HANG:
                await self.pause(60.0 if isinstance(piece, str) else piece, reader)
            else:
                yield piece

    async def pause(self, seconds: float, reader: asyncio.StreamReader) -> None:
        """Wait; a client that goes away meanwhile is noticed at once."""
        with suppress(TimeoutError):
            if await asyncio.wait_for(reader.read(1), seconds) == b"":
                raise ConnectionError


async def read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self.loop).result(30)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Served(NamedTuple):
    """A server of the project that runs."""

    url: str
    upstream: FakeUpstream
    config: ServerConfig
    server: uvicorn.Server


@contextmanager
def served(upstream: FakeUpstream, *overrides: str, url: str = "", **values: Any) -> Iterator[Served]:
    """The server before a fake upstream, both in a thread."""
    loop = Loop()
    fake = loop.run(asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**20, backlog=1024))
    base = url or f"http://127.0.0.1:{fake.sockets[0].getsockname()[1]}/v1"
    config = load_settings(None, {"upstream": base, "log_requests": False, **values}, overrides)
    keys = (config.upstream_key.get_secret_value(), not config.api_key.get_secret_value())
    ours = Upstream(base, key=keys[0], keeps_authorization=keys[1], connect_s=config.limits.connect_s)
    settings = uvicorn.Config(
        build_app(config, ours), port=0, access_log=False, log_level="critical", ws="none", server_header=False
    )
    server = uvicorn.Server(settings)
    running = asyncio.run_coroutine_threadsafe(server.serve(), loop.loop)
    while not server.started:
        assert not running.done(), running.result()
        threading.Event().wait(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", upstream, config, server)
    finally:
        server.should_exit = True
        running.result(30)
        loop.run(end(fake))
        loop.stop()


async def end(fake: asyncio.Server) -> None:
    """Stop listening, and let what is under way end."""
    fake.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def ask(**changes: Any) -> dict[str, Any]:
    """A request with tools."""
    messages = [{"role": "user", "content": "Where is it?"}]
    return {"model": "m", "messages": messages, "tools": [TOOL], **changes}
