"""Running a server until it is told to stop."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

import uvicorn

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


def run_server(config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM, then let the requests at work end.

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
    uvicorn.Server(settings).run()
