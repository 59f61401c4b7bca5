"""The models of the upstream, each followed by the name under which its answers are refined."""

from __future__ import annotations

import asyncio
from typing import Any

from toolrefine.server.client import Client
from toolrefine.server.refined import read_or_relay, unencoded, write_json
from toolrefine.server.settings import SUFFIX
from toolrefine.server.upstream import Request, Upstream, without

MODELS = b"/models"


async def list_models(client: Client, upstream: Upstream, request: Request, max_bytes: int, deadline: float) -> None:
    """Answer with the upstream's list and the names with the suffix. What is no list is handed on as it is.

    Raises:
        UpstreamError: there is no answer.
    """
    async with asyncio.timeout_at(deadline):
        reply = await upstream.send(unencoded(request))
        found = await read_or_relay(client, reply, "data", max_bytes)
    if found is None:
        return
    _, body = found
    listed = [each for model in body["data"] for each in (model, *_refined(model))]
    await client.answer(reply.status, without(reply.headers, b"content-length"), write_json({**body, "data": listed}))


def _refined(model: Any) -> list[dict[str, Any]]:
    """The model under its name with the suffix; nothing where it has no name."""
    name = model.get("id") if isinstance(model, dict) else None
    return [{**model, "id": name + SUFFIX}] if isinstance(name, str) and name else []
