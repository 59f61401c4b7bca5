"""An upstream with every fault there is: each request is answered as documented, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_upstream import (
    BAD,
    HANG,
    RESET,
    Answer,
    Asked,
    FakeUpstream,
    Loop,
    ask,
    call_chunks,
    end,
    http,
    stream,
)

HELD = 50
CUT = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 5000\r\nconnection: close\r\n\r\n{"
DRAFT = BAD.partition(b"\r\n\r\n")[2]
LONG = http(b'{"choices": "' + b"x" * 50_000_000 + b'"}')
BROKEN_SSE = stream(*call_chunks('{"limit": "x"}')[:3], b"data: {broken\n\n", b"dat", done=False)
STREAM = stream(*call_chunks('{"limit": "x"}'))


class Fault(NamedTuple):
    """What goes wrong, and what the client must see."""

    answer: Answer
    status: int
    body: bytes | None = None
    """None: an error of the OpenAI API."""
    is_later: bool = False
    """It goes wrong in the round after the draft."""
    streams: bool = False
    share: float = 1.0
    """Of the requests: what moves 50 MB each is tried less often."""


FAULTS = {
    "hangs": Fault(HANG, 504),
    "resets": Fault(RESET, 502),
    "500": Fault(http(b"{}", 500), 500, b"{}"),
    "429": Fault(http(b"{}", 429, retry_after="3"), 429, b"{}"),
    "cut body": Fault(CUT, 502),
    "truncated JSON": Fault(http(DRAFT[:100]), 200, DRAFT[:100]),
    "wrong type": Fault(http(b"<p>", 200, "text/html"), 200, b"<p>"),
    "50 MB": Fault(LONG, 200, LONG.partition(b"\r\n\r\n")[2], share=0.02),
    "broken events": Fault(BROKEN_SSE, 200, b"".join(BROKEN_SSE[1:]), streams=True),
    "later hangs": Fault(HANG, 200, DRAFT, is_later=True),
    "later resets": Fault(RESET, 200, DRAFT, is_later=True),
    "later 500": Fault(http(b"{}", 500), 200, DRAFT, is_later=True),
    "later 429": Fault(http(b"{}", 429, retry_after="3"), 200, DRAFT, is_later=True),
    "later cut body": Fault(CUT, 200, DRAFT, is_later=True),
    "later truncated JSON": Fault(http(DRAFT[:100]), 200, DRAFT, is_later=True),
    "later wrong type": Fault(http(b"<p>", 200, "text/html"), 200, DRAFT, is_later=True),
    "later 50 MB": Fault(LONG, 200, DRAFT, is_later=True, share=0.1),
    "later dies in a stream": Fault(RESET, 200, b"".join(STREAM[1:]), is_later=True, streams=True),
}

START = """
import sys
from toolrefine.server.run import run_server
from toolrefine.server.settings import load_settings
run_server(load_settings(None, {"upstream": sys.argv[1], "port": int(sys.argv[2])}, sys.argv[3:]))
"""


@contextmanager
def running(upstream: FakeUpstream, *overrides: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and its process."""
    loop = Loop()
    fake = loop.run(asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=2**20, backlog=1024))
    url = f"http://127.0.0.1:{fake.sockets[0].getsockname()[1]}/v1"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-c", START, url, str(port), "log_requests=false", *overrides])
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, child.pid
        assert child.poll() is None, "the server has died"
    finally:
        child.terminate()
        child.wait(30)
        loop.run(end(fake))
        loop.stop()


async def post(port: int, body: bytes) -> tuple[int, bytes]:
    """Ask on a connection of its own; the status and the whole body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    if b"transfer-encoding: chunked" in answer.lower():
        pieces, rest = [rest], b""
        text, position = pieces[0], 0
        while size := int(text[position : (line := text.index(b"\r\n", position))], 16):
            rest += text[line + 2 : line + 2 + size]
            position = line + 4 + size
    return int(answer[9:12]), rest


async def post_many(port: int, fault: Fault, number: int, held: int) -> list[tuple[int, bool]]:
    """Ask so often; for each request the status, and whether its body is the documented one."""
    body = json.dumps(ask(stream=fault.streams)).encode()
    left, found = number, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            status, text = await post(port, body)
            right = text == fault.body if fault.body is not None else "message" in json.loads(text)["error"]
            found.append((status, right or _same_answer(text, fault)))

    await asyncio.gather(*(work() for _ in range(held)))
    return found


def _same_answer(text: bytes, fault: Fault) -> bool:
    """Whether it is the draft but for the counts of a round that was answered, if uselessly."""
    if not fault.is_later or fault.streams:
        return False
    return json.loads(text).get("choices") == json.loads(fault.body or b"")["choices"]


def usage_of(process: int) -> tuple[float, int]:
    """Resident MB, and open file descriptors."""
    status = Path(f"/proc/{process}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1024, len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208


def upstream_of(fault: Fault) -> FakeUpstream:
    upstream = FakeUpstream()
    upstream.keeps = False
    draft: Any = STREAM if fault.streams else BAD

    def behave(asked: Asked) -> Answer:
        is_draft = len(asked.body["messages"]) == 1
        return draft if is_draft and fault.is_later else fault.answer

    upstream.behave = behave
    return upstream


def endure(fault: Fault, number: int) -> dict[str, float]:
    """So many requests under a fault, and what they leave behind."""
    number = max(4, round(number * fault.share))
    held = HELD if fault.share == 1.0 else 4
    deadline_s = 1.0 if fault.answer == HANG else 60.0
    with running(upstream_of(fault), f"limits.deadline_s={deadline_s}", "limits.max_reply_mb=1") as (port, process):
        asyncio.run(post_many(port, fault, max(number // 10, held), held))
        time.sleep(0.1)
        before = usage_of(process)
        found = asyncio.run(post_many(port, fault, number, held))
        until = time.monotonic() + 10
        while usage_of(process)[1] > before[1] and time.monotonic() < until:
            time.sleep(0.1)
        after = usage_of(process)
    assert len(found) == number
    assert set(found) == {(fault.status, True)}
    assert after[1] <= before[1], "file descriptors are left open"
    assert after[0] - before[0] < 30, "memory grows"
    return {"requests": number, "mb_before": before[0], "mb_after": after[0], "fds": after[1]}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and descriptors are read from /proc")
@pytest.mark.parametrize("name", ["hangs", "resets", "50 MB", "later 50 MB", "later dies in a stream"])
def test_a_fault_is_answered_as_documented(name: str) -> None:
    endure(FAULTS[name], 100)


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and descriptors are read from /proc")
@pytest.mark.parametrize("name", FAULTS)
def test_ten_thousand_requests_under_a_fault(name: str) -> None:
    print(name, endure(FAULTS[name], 10_000))
