"""An OpenAI-compatible server that needs no model, with the faults of real ones; also a command, to be launched."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALL = '[find(city="Zürich")]'

Fault = int | str | tuple[int, str] | None
"""What is answered instead: a status, "drop", a whole body, or a status and a body."""


class FakeServer(ThreadingHTTPServer):
    """Answers every prompt with one call, and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, model: str = "nano", **behaviour: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model = model
        self.ways = ("tokens", "text", "chat")
        self.faults: list[Fault] = []
        """What to answer to the next requests instead."""
        self.fault_of: Callable[[dict[str, Any]], Fault] = lambda body: None
        """What to answer to a request instead."""
        self.text_of: Callable[[dict[str, Any]], str] | None = None
        self.text = CALL
        self.parses_calls = False
        self.finish_reason = "stop"
        self.gives_logprobs = True
        self.max_choices = 128
        for name, value in behaviour.items():
            assert hasattr(self, name)
            setattr(self, name, value)
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.num_open = self.most_open = 0


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.send({"data": [{"id": self.server.model}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.num_open += 1
            server.most_open = max(server.most_open, server.num_open)
            fault = server.faults.pop(0) if server.faults else server.fault_of(body)
            server.bodies.append({**body, "path": self.path, "key": self.headers["Authorization"]})
        try:
            self.answer(body, fault)
        finally:
            with server.lock:
                server.num_open -= 1

    def answer(self, body: dict[str, Any], fault: Fault) -> None:
        server = self.server
        if fault == "drop":
            self.close_connection = True
            return
        if isinstance(fault, str):
            self.send_text(fault)
            return
        if fault is not None:
            status, text = fault if isinstance(fault, tuple) else (fault, '{"error": "no"}')
            self.send_text(text, status)
            return
        chat = self.path.endswith("/chat/completions")
        way = "chat" if chat else "text" if isinstance(body["prompt"], str) else "tokens"
        if way not in server.ways:
            self.send({"error": f"no {way} here"}, 422)
            return
        num_choices = min(body.get("n", 1), server.max_choices)
        texts = [server.text_of(body) if server.text_of else server.text for _ in range(num_choices)]
        choices = [self.chat_choice(text) if chat else self.choice(text) for text in texts]
        self.send({"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 3 * num_choices}})

    def choice(self, text: str) -> dict[str, Any]:
        logprobs = {"token_logprobs": [-0.5, -0.25, 0.0]} if self.server.gives_logprobs else None
        return {"text": text, "finish_reason": self.server.finish_reason, "logprobs": logprobs}

    def chat_choice(self, text: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.server.parses_calls:
            function = {"name": "find", "arguments": json.dumps({"city": "Zürich"})}
            message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "function": function}]}
        return {"message": message, "finish_reason": self.server.finish_reason}

    def send(self, body: Any, status: int = 200) -> None:
        self.send_text(json.dumps(body), status)

    def send_text(self, text: str, status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def fake_server(**behaviour: Any) -> Iterator[tuple[FakeServer, str]]:
    """A server in this process, and its URL."""
    with FakeServer(**behaviour) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--pids")
    arguments = parser.parse_args()
    if arguments.fail:
        sys.exit("no memory left")
    if arguments.pids:
        with open(arguments.pids, "a") as file:  # noqa: PTH123
            file.write(f"{os.getpid()}\n")
    with FakeServer(arguments.port, arguments.model) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
