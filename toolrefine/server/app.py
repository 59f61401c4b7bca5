"""The application: /v1 with its document, /health and /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.routing import Route

from toolrefine.server.client import Receive, Scope, Send
from toolrefine.server.exchange import Exchange
from toolrefine.server.metrics import CONTENT_TYPE
from toolrefine.server.schemas import CHAT_BODY, CHAT_RESPONSES, MODELS_RESPONSES, POLICY_HEADERS
from toolrefine.server.settings import ServerConfig
from toolrefine.server.upstream import Upstream

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Exchanged(Response):
    """The answer of an exchange, which sends it itself."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.exchange(scope, receive, send)


def build_app(config: ServerConfig, upstream: Upstream) -> FastAPI:
    """The application of a server that asks this upstream."""
    exchange = Exchange(config, upstream)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        idle = asyncio.create_task(upstream.close_idle())
        try:
            yield
        finally:
            idle.cancel()
            await upstream.close()

    app = FastAPI(
        title="toolrefine",
        version=version("toolrefine"),
        description="Adaptive refinement of tool calls behind the OpenAI API.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.post(
        "/v1/chat/completions",
        responses=CHAT_RESPONSES,
        openapi_extra={"requestBody": CHAT_BODY, "parameters": POLICY_HEADERS},
        response_class=Response,
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation; calls of tools are refined where the policy sees a fault in them."""
        return Exchanged(exchange)

    @app.get("/v1/models", responses=MODELS_RESPONSES, response_class=Response)
    async def models(request: Request) -> Response:
        """The models of the upstream, with --opt-in also under the names that ask for refinement."""
        return Exchanged(exchange)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether this server is up; it says nothing about the upstream."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(exchange.metrics.page(), media_type=CONTENT_TYPE)

    app.router.routes.append(Route("/v1/{path:path}", exchange, methods=METHODS, include_in_schema=False))
    return app
