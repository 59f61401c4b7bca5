"""What a proxy adds to a request: the server, passing through and with a gate that never fires, beside LiteLLM's proxy.

    python -m perf.serving --litellm ENV/bin/litellm

A mock upstream answers every request after 20 ms with one valid call. So many requests at once are kept in flight, side
by side in rounds: the bare upstream, then each proxy. Every proxy is one process with one worker. What is added is the
difference to the bare upstream in the same round; the figures are medians over the rounds. The processor time of a
proxy, user and system, says least about what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, cast

PAUSE_S = 0.02
HELD = (50, 200, 500)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.title()} something that a user may ask for.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of the city."},
                    "limit": {"type": "integer", "description": "How many."},
                    "kind": {"enum": ["short", "long"]},
                },
                "required": ["city"],
            },
        },
    }
    for name in ("find", "book", "cancel", "list")
]
BODY = json.dumps(
    {
        "model": "mock",
        "messages": [
            {"role": "system", "content": "You help. " * 20},
            {"role": "user", "content": "Find me something in Rome. " * 10},
        ],
        "tools": TOOLS,
    }
).encode()
CALL = {"id": "call_0", "type": "function", "function": {"name": "find", "arguments": '{"city": "Rome", "limit": 3}'}}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
).encode()


class Mock(asyncio.Protocol):
    """The upstream: as little work as possible, so that the proxies are what is measured."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        found = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if blank and len(body) >= int(found or 0):
            self.buffer = b""
            asyncio.get_running_loop().call_later(PAUSE_S, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
            self.transport.write(head + ANSWER)


async def serve_mock(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def load(port: int, key: str, num_held: int, num_requests: int) -> list[float]:
    """Seconds of each request, so many of them in flight at once."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    left = num_requests
    seconds: list[float] = []

    async def one() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            start = time.perf_counter()
            writer.write(request)
            answer = await read_answer(reader)
            seconds.append(time.perf_counter() - start)
            assert json.loads(answer)["choices"][0]["message"]["tool_calls"]
        writer.close()

    await asyncio.gather(*(one() for _ in range(num_held)))
    return seconds


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head[:16], head
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    if length:
        return await reader.readexactly(int(length))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


class Side(NamedTuple):
    """Who is asked."""

    port: int
    key: str
    process: int

    def cpu_s(self) -> float:
        """Processor time that it has taken so far; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def process(command: Sequence[str], port: int, cores: set[int], key: str, **environment: str) -> Iterator[Side]:
    """A server in a process of its own that answers on a port."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: S603
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            for _ in range(1200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if child.poll() is not None:
                    output.seek(0)
                    raise RuntimeError(f"{command[0]} ended: {output.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield Side(port, key, child.pid)
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_command(upstream: int, port: int, *overrides: str) -> list[str]:
    start = (
        "import sys; from toolrefine.server.run import run_server; from toolrefine.server.settings import load_settings"
    )
    call = "run_server(load_settings(None, {'upstream': sys.argv[1], 'port': int(sys.argv[2])}, sys.argv[3:]))"
    url = f"http://127.0.0.1:{upstream}/v1"
    return [sys.executable, "-c", f"{start}; {call}", url, str(port), *overrides]


def litellm_command(litellm: str, folder: Path, upstream: int, port: int) -> list[str]:
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: mock\n    litellm_params:\n      model: openai/mock\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n      api_key: sk-mock\n"
    )
    return [litellm, "--config", str(config), "--port", str(port), "--num_workers", "1", "--telemetry", "False"]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(sides: dict[str, Side], num_held: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of each side in milliseconds, what a proxy adds to the bare upstream, and CPU time."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    cpu_us: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in list(sides.items())[:: 1 if number % 2 else -1]:  # nobody always comes after the same
            slow = name == "litellm"
            num_requests = num_held * (2 if slow else 6) + (200 if slow else 1000)
            start_s = side.cpu_s()
            try:
                seconds = asyncio.run(load(side.port, side.key, num_held, num_requests))
            except (AssertionError, ConnectionError, asyncio.IncompleteReadError) as error:
                raise RuntimeError(f"{name}, {num_held} in flight: {error!r}") from error
            if number:  # the first round opens connections and imports what is imported late
                found[name].append((1000 * quantile(seconds, 0.5), 1000 * quantile(seconds, 0.99)))
                cpu_us[name].append(1e6 * (side.cpu_s() - start_s) / num_requests)
    table = {}
    for name, pairs in found.items():
        added = [
            (p50 - base50, p99 - base99) for (p50, p99), (base50, base99) in zip(pairs, found["bare"], strict=True)
        ]
        table[name] = {
            "p50_ms": statistics.median(p50 for p50, _ in pairs),
            "p99_ms": statistics.median(p99 for _, p99 in pairs),
            "added_p50_ms": statistics.median(p50 for p50, _ in added),
            "added_p99_ms": statistics.median(p99 for _, p99 in added),
            "cpu_us": statistics.median(cpu_us[name]),
            "cpu_of_pass_through": statistics.median(
                one / max(other, 1e-9) for one, other in zip(cpu_us[name], cpu_us["pass-through"], strict=True)
            ),
        }
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", help="the command of an environment with litellm[proxy]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--held", type=int, nargs="*", default=HELD, help="requests in flight")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--mock", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.mock:
        asyncio.run(serve_mock(arguments.mock))
    cores = sorted(os.sched_getaffinity(0))
    near, far = {cores[0]}, {cores[-1]}
    os.sched_setaffinity(0, near)
    key = f"sk-{secrets.token_hex(24)}"
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        upstream = stack.enter_context(
            process([sys.executable, "-m", "perf.serving", "--mock", str(port := free_port())], port, near, key)
        )
        sides = {"bare": upstream}
        for name, overrides in (("pass-through", ["refinement.max_rounds=0"]), ("gated", [])):
            port = free_port()
            command = serve_command(upstream.port, port, "log_requests=false", *overrides)
            sides[name] = stack.enter_context(process(command, port, far, key))
        if arguments.litellm:
            port = free_port()
            command = litellm_command(arguments.litellm, Path(folder), upstream.port, port)
            environment = {"LITELLM_MASTER_KEY": key, "LITELLM_LOG": "ERROR"}
            sides["litellm"] = stack.enter_context(process(command, port, far, key, **environment))
        results = {num_held: measure(sides, num_held, arguments.rounds) for num_held in arguments.held}
    print(f"load average {os.getloadavg()[0]:.1f}; load and mock on core {near}, proxies on core {far}")
    heads = ("p50 ms", "p99 ms", "+p50 ms", "+p99 ms", "CPU us", "of pass")
    print(f"{'in flight':>9} {'side':>14} " + " ".join(f"{head:>9}" for head in heads))
    for num_held, table in results.items():
        for name, row in table.items():
            print(f"{num_held:>9} {name:>14} " + " ".join(f"{value:>9.4g}" for value in row.values()))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
