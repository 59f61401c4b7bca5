"""A request with tools: the draft as the client asked for it, then what refinement makes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from toolrefine.server.answers import add_usage
from toolrefine.server.chat_request import ChatRequest, read_body
from toolrefine.server.client import Client
from toolrefine.server.errors import UpstreamError
from toolrefine.server.logs import Trace, summary
from toolrefine.server.rounds import Rules, Settled, settle
from toolrefine.server.settings import ServerConfig
from toolrefine.server.upstream import Reply, Request, Upstream, with_extra, without

NOT_UNDERSTOOD = {400, 404, 422, 501}
"""What an upstream says that does not give log-probabilities."""


class Task(NamedTuple):
    """A request to be refined."""

    request: ChatRequest
    draft: Request
    """What the upstream is asked first."""
    rules: Rules
    config: ServerConfig
    adds_logprobs: bool
    """Whether log-probabilities are asked for that the client did not ask for."""

    @property
    def max_reply(self) -> int:
        """Bytes."""
        return int(self.config.limits.max_reply_mb * 2**20)


def plan_task(request: ChatRequest, draft: Request, rules: Rules, config: ServerConfig, upstream: Upstream) -> Task:
    """How a request is refined."""
    wanted = rules.policy.when == "uncertain" or rules.policy.accept == "likelier"
    adds_logprobs = (
        wanted and not request.body.get("logprobs") and upstream.may_give_logprobs(request.body.get("model"))
    )
    return Task(request, draft, rules, config, adds_logprobs)


def unencoded(request: Request) -> Request:
    """The same request, for an answer that is not compressed."""
    headers = [*without(request.headers, b"accept-encoding"), (b"accept-encoding", b"identity")]
    return request._replace(headers=headers)


async def open_draft(upstream: Upstream, task: Task) -> tuple[Reply, Task]:
    """Ask for the draft. A model that does not give log-probabilities is asked without, from then on.

    Raises:
        UpstreamError: there is none.
    """
    plain = unencoded(task.draft)
    if not task.adds_logprobs:
        return await upstream.send(plain), task
    reply = await upstream.send(plain._replace(body=write_json({**task.request.body, "logprobs": True})))
    if reply.status not in NOT_UNDERSTOOD:
        return reply, task
    await reply.close()
    reply = await upstream.send(plain)
    if reply.status == 200:
        upstream.expect_no_logprobs(task.request.body.get("model"))
    return reply, task._replace(adds_logprobs=False)


async def answer_refined(client: Client, upstream: Upstream, task: Task, trace: Trace, deadline: float) -> None:
    """Answer a request that is not streamed.

    What is no chat completion, or longer than the limit, is handed on as it is.

    Raises:
        UpstreamError: there is no draft.
    """
    async with asyncio.timeout_at(deadline):
        reply, task = await open_draft(upstream, task)
        found = await read_or_relay(client, reply, "choices", task.max_reply)
    if found is None:
        return
    raw, body = found
    settled = await settle_all(body["choices"], upstream, task, trace, deadline)
    choices = [each.choice for each in settled]
    if task.adds_logprobs:
        choices = [{**choice, "logprobs": None} if "logprobs" in choice else choice for choice in choices]
    headers = with_extra(without(reply.headers, b"content-length"), headers_of(settled))
    if choices != body["choices"] or any(each.num_rounds for each in settled) or task.config.report:
        body = {**body, "choices": choices}
        for each in settled:
            if each.usage is not None:
                body["usage"] = add_usage(body.get("usage"), each.usage)
        if task.config.report:
            body["toolrefine"] = summary(settled)
        raw = write_json(body)
    await client.answer(reply.status, headers, raw)


async def settle_all(
    drafts: Sequence[Any], upstream: Upstream, task: Task, trace: Trace, deadline: float
) -> list[Settled]:
    """Refine the drafts of a request side by side."""
    ask = asker(upstream, task)
    trace.kind = "refined"
    trace.drafts = [draft.get("message") if isinstance(draft, dict) else None for draft in drafts]
    works = [settle(task.request, draft, ask, task.rules, deadline) for draft in drafts]
    settled = [await works[0]] if len(works) == 1 else await asyncio.gather(*works)
    trace.settled = settled
    return settled


def asker(upstream: Upstream, task: Task) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """Asks for the answers of later rounds, with the headers of the first."""

    async def ask(body: dict[str, Any]) -> dict[str, Any]:
        if task.adds_logprobs:
            body = {**body, "logprobs": True}
        headers = [*without(task.draft.headers, b"content-type"), (b"content-type", b"application/json")]
        request = unencoded(task.draft._replace(headers=headers, body=write_json(body)))
        status, _, raw = await upstream.read(request, task.max_reply)
        if status != 200:
            raise UpstreamError(status, f"upstream_{status}", f"the upstream answers {status}")
        reply = read_body(raw)
        if reply is None:
            raise UpstreamError(502, "upstream_malformed", "the upstream's answer is no JSON object")
        return reply

    return ask


def headers_of(settled: Sequence[Settled]) -> list[tuple[str, str]]:
    """What became of the drafts, as headers."""
    return [
        ("X-Toolrefine-Rounds", str(sum(each.num_rounds for each in settled))),
        ("X-Toolrefine-Stop-Reason", ", ".join(each.stop_reason for each in settled)),
        ("X-Toolrefine-Changed", "true" if any(each.changed for each in settled) else "false"),
    ]


def is_json(reply: Reply) -> bool:
    """Whether an answer is one that may be refined."""
    return reply.status == 200 and reply.media_type == "application/json"


def write_json(value: Any) -> bytes:
    """A value as a body.

    Raises:
        UpstreamError: it is nested too deeply.
    """
    try:
        return json.dumps(value).encode()
    except RecursionError:
        raise UpstreamError(400, "too_deep", "the body is nested too deeply") from None


async def read_or_relay(
    client: Client, reply: Reply, field: str, max_bytes: int
) -> tuple[bytes, dict[str, Any]] | None:
    """An answer, as it is and read, that is a JSON object with a list in a field; any other is handed on as it is."""
    try:
        chunks = reply.chunks()
        raw, whole = await _read_up_to(chunks, max_bytes)
        body = read_body(raw) if whole and is_json(reply) else None
        if body is not None and isinstance(body.get(field), list):
            return raw, body
        await client.start(reply.status, reply.headers)
        await client.write(raw)
        async for chunk in chunks:
            await client.write(chunk)
        await client.end()
        return None
    finally:
        await reply.close()


async def _read_up_to(chunks: AsyncIterator[bytes], max_bytes: int) -> tuple[bytes, bool]:
    """A body as far as the limit, and whether that is all of it."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            return bytes(body), False
    return bytes(body), True
