"""One request to /v1 from its beginning to its end: limits, the choice of the way, and the plain way."""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from contextlib import suppress
from typing import Any, NamedTuple

from toolrefine.errors import ConfigError
from toolrefine.server.admission import Admission
from toolrefine.server.chat_request import MARKS, ChatRequest, read_body, without_suffix
from toolrefine.server.client import Client, GoneError, Receive, Scope, Send
from toolrefine.server.errors import RefusalError, out_of_time
from toolrefine.server.logs import Trace, log_request
from toolrefine.server.metrics import Metrics
from toolrefine.server.models import MODELS, list_models
from toolrefine.server.refined import Task, answer_refined, plan_task
from toolrefine.server.rounds import Rules
from toolrefine.server.settings import REQUEST_HEADERS, ServerConfig, policy_of
from toolrefine.server.streaming import stream_refined
from toolrefine.server.upstream import CHAT, Reply, Request, Upstream

PREFIX = b"/v1"
GONE = 499
"""Status in logs and metrics of a request whose client went away."""


class Plan(NamedTuple):
    """How a request is answered."""

    request: Request
    task: Task | None
    """None: it passes through."""


class Exchange:
    """The ASGI application behind /v1."""

    def __init__(self, config: ServerConfig, upstream: Upstream) -> None:
        self.config = config
        self.upstream = upstream
        self.limits = config.limits
        self.admission = Admission(config.limits.max_concurrency, config.limits.max_queue)
        self.metrics = Metrics(self.admission)
        self.prompt = config.prompt
        if self.prompt.format == "auto":
            self.prompt = self.prompt.model_copy(update={"format": upstream.call_format})
        self._key = config.api_key.get_secret_value().encode()
        self._max_body = int(config.limits.max_body_mb * 2**20)
        self._max_reply = int(config.limits.max_reply_mb * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        trace = Trace(id=uuid.uuid4().hex[:16], path=scope["path"][:200])
        client = Client(scope, receive, send, trace)
        try:
            await self._answer(scope, client, trace)
        except RefusalError as error:
            if not trace.error:
                trace.kind = "refused" if not client.has_answer else trace.kind
            await client.refuse(error)
        except TimeoutError:
            await client.refuse(out_of_time())
        except GoneError:
            trace.status = GONE
        finally:
            if client.is_gone:
                trace.status = GONE
            if trace.status == GONE:
                self.metrics.disconnects.inc()
            self.metrics.requests.labels(trace.kind, trace.status).inc()
            self.metrics.seconds.labels(trace.kind).observe(trace.seconds)
            for settled in trace.settled:
                self.metrics.count_answer(settled)
            if self.config.log_requests:
                log_request(trace, contents=self.config.log_contents)

    async def _answer(self, scope: Scope, client: Client, trace: Trace) -> None:
        self._check_key(client)
        deadline = asyncio.get_running_loop().time() + self.limits.deadline_s
        target = target_of(scope)
        try:
            async with asyncio.timeout_at(deadline):
                body = await client.read_body(self._max_body)
        except TimeoutError:
            raise RefusalError(408, "slow_body", "the body did not arrive before the deadline") from None
        plan = self._plan(Request(scope["method"].encode("ascii"), target, client.headers, body))
        work = asyncio.current_task()
        assert work is not None  # noqa: S101 (mypy: an application always runs in a task)
        watch = asyncio.create_task(client.watch(work))
        try:
            async with asyncio.timeout_at(deadline) as waiting, self.admission.place():
                waiting.reschedule(None)
                if self._lists_models(plan.request):
                    await list_models(client, self.upstream, plan.request, self._max_reply, deadline)
                elif plan.task is None:
                    await self._pass(client, plan.request, deadline)
                elif plan.task.request.streams:
                    await stream_refined(client, self.upstream, plan.task, trace, deadline)
                else:
                    await answer_refined(client, self.upstream, plan.task, trace, deadline)
        except asyncio.CancelledError:
            if not client.is_gone:
                raise
            work.uncancel()
        finally:
            watch.cancel()

    def _check_key(self, client: Client) -> None:
        if not self._key:
            return
        shown = next((value for name, value in client.headers if name == b"authorization"), b"")
        if not hmac.compare_digest(shown.removeprefix(b"Bearer ").strip(), self._key):
            wanted = {"WWW-Authenticate": "Bearer"}
            raise RefusalError(401, "invalid_api_key", "the API key is missing or wrong", wanted)

    def _plan(self, request: Request) -> Plan:
        """Whether a request is refined, and how.

        Raises:
            RefusalError: 400, it sets for itself what does not fit.
        """
        if request.target.partition(b"?")[0] != CHAT or request.method != b"POST":
            return Plan(request, None)
        says_how = any(name in REQUEST_HEADERS for name, _ in request.headers)
        if not says_how and not any(mark in request.body for mark in MARKS):
            return Plan(request, None)
        body = read_body(request.body)
        name = without_suffix(body) if body else None
        try:
            policy = policy_of(request.headers, self.config, has_suffix=name is not None)
        except ConfigError as error:
            raise RefusalError(400, "invalid_header", str(error)) from None
        if body is None:
            return Plan(request, None)
        if policy is not None and not ChatRequest.can_refine(body):
            policy = None
        changes: dict[str, Any] = {} if name is None else {"model": name}
        if policy is not None and policy.constrain:
            changes["constrain"] = True
        if changes:
            body |= changes
            with suppress(RecursionError):
                request = request._replace(body=json.dumps(body).encode())
        if policy is None:
            return Plan(request, None)
        rules = Rules(policy, self.prompt, convert=self.config.convert_text_calls)
        return Plan(request, plan_task(ChatRequest(body), request, rules, self.config, self.upstream))

    def _lists_models(self, request: Request) -> bool:
        """Whether names with the suffix are to be listed, that is where they do what those without do not."""
        has_names = self.config.opt_in and self.config.refinement.acts
        return has_names and request.method == b"GET" and request.target.partition(b"?")[0] == MODELS

    async def _pass(self, client: Client, request: Request, deadline: float) -> None:
        """Hand everything on as it is and as it comes."""
        async with asyncio.timeout_at(deadline):
            reply = await self.upstream.send(request)
            await relay(client, reply)


async def relay(client: Client, reply: Reply) -> None:
    """Hand an answer on as it comes."""
    try:
        await client.start(reply.status, reply.headers)
        async for chunk in reply.chunks():
            await client.write(chunk)
        await client.end()
    finally:
        await reply.close()


def target_of(scope: Scope) -> bytes:
    """The path below /v1, with the query, as the client wrote it.

    Raises:
        RefusalError: 404, it leaves /v1.
    """
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    path = path.partition(b"?")[0]
    # Decoded once more, because the upstream may do so too.
    parts = scope["path"].replace("\\", "/").replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").split("/")
    if not path.startswith(PREFIX + b"/") or ".." in parts or "." in parts:
        raise RefusalError(404, "not_found", "no such path")
    query: bytes = scope.get("query_string") or b""
    return path.removeprefix(PREFIX) + (b"?" + query if query else b"")
