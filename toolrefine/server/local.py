"""A model in this process as an upstream: requests that come together are answered in one batch."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

from toolrefine.config import EngineConfig, PromptConfig, describe
from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.openai import read_messages
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.engines import SamplingParams
from toolrefine.errors import RequestError, RowError, ToolrefineError
from toolrefine.server.answers import OWN_FIELDS, call_objects
from toolrefine.server.chat_request import MAX_VALUES, holds_too_much
from toolrefine.server.chunks import deltas_of
from toolrefine.server.errors import RefusalError
from toolrefine.server.sse import DONE, event_of
from toolrefine.types import Checkpoint, Completion, Outcome, Prompt

if TYPE_CHECKING:
    from toolrefine.engines.transformers import TransformersEngine

MAX_CHOICES = 64


class LocalBody(BaseModel):
    """What is understood of a request; the rest is ignored."""

    messages: list[Any] = Field(min_length=1)
    tools: list[Any] | None = None
    tool_choice: Any = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=100.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None
    constrain: bool | None = None
    """Not of the OpenAI API: the answer can only say what fits the tools."""

    def unsupported(self) -> str:
        """The first field that asks for what an engine in process cannot do; empty where none does."""
        asks = {
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
            "response_format": (self.response_format or {}).get("type", "text") != "text",
        }
        return next((name for name, value in asks.items() if value), "")


@dataclass(frozen=True)
class Job:
    """One request that waits for its completions."""

    prompt: Prompt
    n: int
    params: SamplingParams
    stop: tuple[str, ...]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[tuple[list[Completion], int]]
    """The completions, and the number of tokens of the prompt."""


class LocalModel(httpx2.AsyncBaseTransport):
    """Answers /chat/completions and /models."""

    def __init__(self, engine: TransformersEngine, name: str, *, max_new_tokens: int, max_wait_s: float) -> None:
        self.name = name
        self.max_new_tokens = max_new_tokens
        self.max_wait_s = max_wait_s
        self.num_batches = 0
        self._engine = engine
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="toolrefine-model", daemon=True)
        self._worker.start()

    @property
    def call_format(self) -> str:
        """Wire format of its calls."""
        return self._engine.chat.format.name

    @classmethod
    def load(cls, checkpoint: Checkpoint, engine: EngineConfig, prompt: PromptConfig, **settings: Any) -> LocalModel:
        """Load a checkpoint.

        Raises:
            RequestError: the model or its template cannot be used.
        """
        from toolrefine.engines.transformers import TransformersEngine

        name = checkpoint.adapter or checkpoint.model
        return cls(TransformersEngine.load(checkpoint, engine, prompt), name, **settings)

    def check_constraint(self) -> None:
        """Tell before any request whether answers can be constrained.

        Raises:
            ConfigError: they cannot.
        """
        self._engine.constraint  # noqa: B018 - made on first use

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request as a server would."""
        path = request.url.path
        if path.endswith("/models") and request.method == "GET":
            model = {"id": self.name, "object": "model", "created": 0, "owned_by": "toolrefine"}
            return _json({"object": "list", "data": [model]})
        if not path.endswith("/chat/completions") or request.method != "POST":
            return _refusal(RefusalError(404, "not_found", "a model in process has /chat/completions and /models"))
        try:
            raw = await request.aread()
            if holds_too_much(raw):
                message = f"the body has more than {MAX_VALUES} brackets, commas and colons; ask for less at once"
                raise RefusalError(400, "too_many_values", message)
            body = from_json(raw)
            job = self._read_job(body)
            self._jobs.put(job)
            completions, num_prompt_tokens = await job.answer
        except RefusalError as error:
            return _refusal(error)
        except (RowError, RequestError, ValueError, RecursionError) as error:
            return _refusal(RefusalError(400, "invalid_request", str(error)))
        except ToolrefineError as error:
            return _refusal(RefusalError(500, "engine", str(error)))
        if any(completion.had_no_room for completion in completions):
            message = "the prompt leaves no room for an answer in the model's context; shorten it, or lower max_tokens"
            return _refusal(RefusalError(400, "context_length_exceeded", message))
        reply = self._reply(completions, num_prompt_tokens, job)
        if body.get("stream"):
            options = body.get("stream_options")
            wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
            events = _events(reply, wants_usage=wants_usage)
            return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=_pieces(events))
        return _json(reply)

    async def aclose(self) -> None:
        """Let the worker end what it has begun, and free the model."""
        self._jobs.put(None)
        await asyncio.to_thread(self._worker.join)
        self._engine.close()

    def _read_job(self, body: Any) -> Job:
        """What a request asks for.

        Raises:
            RowError: messages or tools do not fit.
            RefusalError: another field does not, or asks for what an engine in process cannot do.
        """
        try:
            asked = LocalBody.model_validate(body)
        except ValidationError as error:
            raise RefusalError(400, "invalid_request", describe(error)) from None
        param = asked.unsupported()
        if param:
            raise RefusalError(400, "unsupported", f"{param}: a model in process does not give it", param=param)
        messages = tuple(read_messages(asked.messages, onto=Conversation(max_turns=None)).messages)
        tools = read_tools(asked.tools) if asked.tool_choice != "none" else ()
        loop = asyncio.get_running_loop()
        return Job(
            # The id seeds the noise, so that requests with other seeds go into one batch.
            prompt=Prompt(
                id=f"{uuid.uuid4()}" if asked.seed is None else f"seed {asked.seed}", messages=messages, tools=tools
            ),
            n=asked.n or 1,
            params=SamplingParams(
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_p=asked.top_p or 1.0,
                max_new_tokens=asked.max_completion_tokens or asked.max_tokens or self.max_new_tokens,
                constrain=bool(asked.constrain),
            ),
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
            loop=loop,
            answer=loop.create_future(),
        )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            until = time.monotonic() + self.max_wait_s
            ends = False
            while len(jobs) < self._engine.config.max_batch_rows:
                try:
                    other = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if other is None:
                    ends = True
                    break
                jobs.append(other)
            self._answer_all(jobs)
            if ends:
                return

    def _answer_all(self, jobs: Sequence[Job]) -> None:
        """Answer jobs, those together that are sampled alike."""
        groups: dict[tuple[int, SamplingParams], list[Job]] = {}
        for job in jobs:
            if not job.answer.cancelled():
                groups.setdefault((job.n, job.params), []).append(job)
        for group in groups.values():
            try:
                self._answer(group)
            except Exception as error:  # one bad prompt must not cost the others
                if len(group) == 1:
                    _set(group[0], error)
                    continue
                for job in group:
                    self._answer_all([job])

    def _answer(self, group: Sequence[Job]) -> None:
        """Answer jobs with equal parameters."""
        prompts = [job.prompt for job in group]
        chat = self._engine.chat
        num_tokens = [len(chat.prompt_ids(prompt.messages, prompt.tools)) for prompt in prompts]
        answers = self._engine.sample(prompts, group[0].n, group[0].params)
        self.num_batches += 1
        for job, completions, number in zip(group, answers, num_tokens, strict=True):
            _set(job, (completions, number))

    def _reply(self, completions: Sequence[Completion], num_prompt_tokens: int, job: Job) -> dict[str, Any]:
        num_tokens = sum(completion.num_tokens for completion in completions)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [_choice(index, completion, job) for index, completion in enumerate(completions)],
            "usage": {
                "prompt_tokens": num_prompt_tokens,
                "completion_tokens": num_tokens,
                "total_tokens": num_prompt_tokens + num_tokens,
            },
        }


def _set(job: Job, answer: tuple[list[Completion], int] | Exception) -> None:
    """Hand an answer, or what went wrong, to the loop that waits for it, if anyone does still."""

    def deliver() -> None:
        if job.answer.done():
            return
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)

    job.loop.call_soon_threadsafe(deliver)


def _choice(index: int, completion: Completion, job: Job) -> dict[str, Any]:
    """A completion as a choice, with OWN_FIELDS. Where there are no tools to call, what looks like calls is text."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text}
    finish_reason = "length" if completion.outcome is Outcome.TRUNCATED else "stop"
    if completion.outcome is Outcome.CALLS and job.prompt.tools:
        message = {"role": "assistant", "content": None, "tool_calls": call_objects(completion.calls)}
        finish_reason = "tool_calls"
    else:
        ends = [place for text in job.stop if text and (place := completion.text.find(text)) >= 0]
        if ends:
            message["content"] = completion.text[: min(ends)]
            finish_reason = "stop"
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
        "num_tokens": completion.num_tokens,
        "mean_logprob": completion.mean_logprob,
    }


def _events(reply: dict[str, Any], *, wants_usage: bool) -> list[bytes]:
    """A whole reply as a stream."""
    head = {**reply, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    events = []
    for choice in reply["choices"]:
        deltas = [{"role": "assistant"}, *deltas_of(choice["message"], with_text=True)]
        parts = [{"index": choice["index"], "delta": delta, "finish_reason": None} for delta in deltas]
        last = {key: choice[key] for key in ("index", "finish_reason", *OWN_FIELDS)}
        events += [event_of({**head, "choices": [part]}) for part in [*parts, {**last, "delta": {}}]]
    if wants_usage:
        events.append(event_of({**head, "choices": [], "usage": usage}))
    return [*events, DONE]


async def _pieces(events: Sequence[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event


def _json(value: Any) -> httpx2.Response:
    return httpx2.Response(200, json=value)


def _refusal(error: RefusalError) -> httpx2.Response:
    return httpx2.Response(error.status, headers={"Content-Type": "application/json"}, content=error.body())
