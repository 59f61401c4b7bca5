"""Running a server until it is told to stop."""

from __future__ import annotations

import errno
import gc
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from toolrefine.errors import RequestError
from toolrefine.server.app import build_app
from toolrefine.server.logs import set_up_logs
from toolrefine.server.settings import ServerConfig
from toolrefine.server.upstream import Upstream
from toolrefine.types import Checkpoint

if TYPE_CHECKING:
    from toolrefine.server.local import LocalModel

GC_THRESHOLD = 10_000
"""New objects between two collections of garbage. Python's 700 are what a handful of requests hold."""

LOCAL_URL = "http://model.in-process/v1"


def open_upstream(config: ServerConfig) -> Upstream:
    """The server behind this one, or the model in this process.

    Raises:
        RequestError: the model or its template cannot be used.
        ConfigError: the policy constrains answers, and this model's cannot be.
    """
    if config.upstream:
        return Upstream(
            config.upstream,
            key=config.upstream_key.get_secret_value(),
            keeps_authorization=not config.api_key.get_secret_value(),
            connect_s=config.limits.connect_s,
        )
    from toolrefine.server.local import LocalModel

    checkpoint = Checkpoint(model=config.model, adapter=config.adapter)
    settings = {"max_new_tokens": config.max_new_tokens, "max_wait_s": config.max_wait_s}
    model = LocalModel.load(checkpoint, config.engine, config.prompt, **settings)
    if config.refinement.needs_constraint:
        model.check_constraint()
    return upstream_of(model)


def upstream_of(model: LocalModel) -> Upstream:
    """The model in this process as a server behind this one."""
    upstream = Upstream(LOCAL_URL, transport=model)
    upstream.gives_logprobs = False
    upstream.call_format = model.call_format
    return upstream


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets at an address, which do not listen yet: that it can be had is known before a model is loaded.

    Raises:
        RequestError: it cannot.
    """
    failure: OSError | None = None
    sockets: list[socket.socket] = []
    with ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            found, failure = [], error
        for family, kind, protocol, _, address in found:
            try:
                sock = opened.enter_context(socket.socket(family, kind, protocol))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise RequestError(f"port {port} is in use; choose another with --port") from None
                failure = error  # of several addresses, such as localhost's, one may not exist
            else:
                sockets.append(sock)
        if not sockets:
            problem = failure.strerror if failure else "no such address"
            raise RequestError(f"{host}:{port}: cannot be bound: {problem}; choose others with --host and --port")
        yield sockets


def run_server(config: ServerConfig, sockets: list[socket.socket] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then let the requests at work end; sockets stand for the config's host and port.

    Raises:
        RequestError: the model or its template cannot be used.
        ConfigError: the policy constrains answers, and this model's cannot be.
    """
    if config.log_requests:
        set_up_logs()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    app = build_app(config, open_upstream(config))
    gc.freeze()  # what is loaded now stays: collections need not go through it
    gc.set_threshold(GC_THRESHOLD)
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        loop="asyncio",  # uvloop takes one new connection a turn: under load some wait until the others are done
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=int(config.limits.drain_s),
    )
    uvicorn.Server(settings).run(sockets)
