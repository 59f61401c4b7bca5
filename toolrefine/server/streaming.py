"""A streamed request with tools: text goes on at once, calls wait until they are settled."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from toolrefine.server.answers import add_usage
from toolrefine.server.chunks import CHUNK_FIELDS, StreamedChoice, deltas_of
from toolrefine.server.client import Client
from toolrefine.server.errors import RefusalError, UpstreamError, out_of_time
from toolrefine.server.logs import Trace, summary
from toolrefine.server.refined import Task, open_draft, settle_all
from toolrefine.server.rounds import Settled
from toolrefine.server.sse import DONE, KEEP_ALIVE, EventReader, data_of, event_of
from toolrefine.server.upstream import Reply, Upstream, without

END_S = 1.0


async def stream_refined(client: Client, upstream: Upstream, task: Task, trace: Trace, deadline: float) -> None:
    """Answer a streamed request. What is no stream of chunks is handed on as it is.

    Raises:
        UpstreamError: there is no draft.
    """
    async with asyncio.timeout_at(deadline):
        reply, task = await open_draft(upstream, task)
    stream = _Stream(client, task)
    pulse = None
    try:
        is_stream = reply.status == 200 and reply.media_type == "text/event-stream"
        await client.start(reply.status, without(reply.headers, b"content-length") if is_stream else reply.headers)
        if is_stream:
            pulse = asyncio.create_task(_keep_alive(client, task.config.limits.keepalive_s))
        await _read(client, reply, stream, task, trace, deadline, is_stream=is_stream)
        await reply.close()
        drafts = stream.drafts()
        if drafts:
            settled = await settle_all(drafts, upstream, task, trace, deadline)
            await stream.finish(settled)
        elif is_stream and not trace.error:
            await stream.release()
        if pulse is not None:
            pulse.cancel()
        await client.end()
    finally:
        if pulse is not None:
            pulse.cancel()
        await reply.close()


async def _read(
    client: Client, reply: Reply, stream: _Stream, task: Task, trace: Trace, deadline: float, *, is_stream: bool
) -> None:
    """Read the draft to its end."""
    events = EventReader(task.max_reply)
    try:
        async with asyncio.timeout_at(deadline) as limit:
            async for piece in reply.chunks():
                if not is_stream:
                    await client.write(piece)
                    continue
                for event in events.feed(piece):
                    await stream.take(event)
                if stream.is_done:  # the end of the body should follow at once; it lets the connection be kept
                    limit.reschedule(min(deadline, asyncio.get_running_loop().time() + END_S))
            if is_stream and events.rest():
                await stream.take(events.rest())
    except (UpstreamError, TimeoutError) as error:
        if not is_stream:
            raise
        if stream.is_done:
            return
        # The status is long sent: an event is how clients of the OpenAI API learn of an error in a stream.
        refusal: RefusalError = error if isinstance(error, UpstreamError) else out_of_time()
        trace.error = refusal.code
        await stream.release()
        await client.write(b"data: " + refusal.body() + b"\n\n")
        stream.is_opaque = True


async def _keep_alive(client: Client, pause_s: float) -> None:
    """Send a comment whenever nothing else has been sent for a while."""
    loop = asyncio.get_running_loop()
    client.last_write = loop.time()
    with suppress(TimeoutError):
        while True:
            await asyncio.sleep(max(0.0, client.last_write + pause_s - loop.time()))
            if loop.time() >= client.last_write + pause_s:
                await client.write(KEEP_ALIVE)


class _Stream:
    """What has come of a streamed draft, and what of it waits."""

    def __init__(self, client: Client, task: Task) -> None:
        self.is_opaque = False
        """An event could not be read: all is handed on as it is from there on."""
        self._client = client
        self._task = task
        self._choices: dict[int, StreamedChoice] = {}
        self._head: dict[str, Any] = {}
        self._usage = b""
        """The event of the usage, which comes last."""
        self.is_done = False
        """The last event is there."""
        self._num_bytes = 0

    async def take(self, event: bytes) -> None:
        """Hand on what need not wait of an event."""
        self._num_bytes += len(event)
        if self.is_opaque:
            await self._client.write(event)
            return
        data = data_of(event)
        if data == b"[DONE]":
            self.is_done = True
            return
        chunk = _read_chunk(data)
        if chunk is None or self._num_bytes > self._task.max_reply:
            if data:
                await self.release()
                self.is_opaque = True
            await self._client.write(event)
            return
        self._head = self._head or {key: chunk[key] for key in CHUNK_FIELDS if key in chunk}
        if not chunk["choices"] and chunk.get("usage"):
            self._usage = event
            return
        choices = [self._take_choice(choice) for choice in chunk["choices"]]
        if choices == chunk["choices"]:
            await self._client.write(event)
        elif any(choices):
            await self._client.write(event_of({**chunk, "choices": [choice for choice in choices if choice]}))

    def drafts(self) -> list[dict[str, Any]]:
        """The choices, if all of them are whole."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        whole = not self.is_opaque and all(choice.finish_reason is not None for choice in choices)
        return [choice.whole() for choice in choices] if whole else []

    async def finish(self, settled: list[Settled]) -> None:
        """Send what stands in the end."""
        usage: Any = None
        for choice, each in zip((self._choices[index] for index in sorted(self._choices)), settled, strict=True):
            usage = add_usage(usage, each.usage) if each.usage is not None else usage
            is_draft = each.choice["message"] == choice.whole()["message"]
            message = each.choice["message"]
            if is_draft:
                await self._send(*choice.held)
            else:
                deltas = deltas_of(message, with_text=not choice.has_sent_text)
                await self._send(*(_part(choice.index, delta) for delta in deltas))
            last = _part(choice.index, {}, each.choice.get("finish_reason"))
            wants_logprobs = bool(self._task.request.body.get("logprobs"))
            if wants_logprobs and not is_draft and each.choice.get("logprobs"):
                last["logprobs"] = each.choice["logprobs"]
            await self._send(last)
        if self._usage and usage is not None:
            chunk = json.loads(data_of(self._usage))
            self._usage = event_of({**chunk, "usage": add_usage(chunk["usage"], usage)})
        await self._client.write(self._usage)
        if self._task.config.report:
            await self._client.write(event_of({**self._head, "choices": [], "toolrefine": summary(settled)}))
        if self.is_done:
            await self._client.write(DONE)

    async def release(self) -> None:
        """Send what waits as it came: it will not be refined."""
        for choice in self._choices.values():
            await self._send(*choice.held)
            choice.held = []
            if choice.finish_reason is not None:
                await self._send(_part(choice.index, {}, choice.finish_reason))
        await self._client.write(self._usage)
        self._usage = b""
        if self.is_done:
            await self._client.write(DONE)

    def _take_choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        """The part of a choice that goes on at once, empty where all of it waits."""
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        state = self._choices.setdefault(index, StreamedChoice(index))
        passed = state.take(choice)
        if not passed:
            return {}
        changes: dict[str, Any] = {"delta": passed}
        if choice.get("finish_reason") is not None:
            changes["finish_reason"] = None
        if self._task.adds_logprobs and "logprobs" in choice:
            changes["logprobs"] = None
        return {**choice, **changes}

    async def _send(self, *parts: dict[str, Any]) -> None:
        for part in parts:
            if self._task.adds_logprobs and part.get("logprobs"):
                part = {**part, "logprobs": None}
            await self._client.write(event_of({**self._head, "choices": [part]}))


def _part(index: int, delta: dict[str, Any], finish_reason: Any = None) -> dict[str, Any]:
    """A choice of a chunk."""
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


def _read_chunk(data: bytes) -> dict[str, Any] | None:
    """The chunk of an event, None where it is something else."""
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        return None
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return None
    return chunk  # type: ignore[no-any-return]
