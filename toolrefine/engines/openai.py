"""The engine for OpenAI-compatible servers: vLLM, SGLang, llama.cpp, `transformers serve`, hosted models.

How a server is asked is found out with the first prompt, richest way first:

- tokens: /v1/completions with the token ids of our own prompt, special tokens kept in the answer (vLLM, SGLang). What
  is sampled from is exactly what is trained on.
- text: /v1/completions with our own prompt as text. The server's tokenizer may add a token at the beginning.
- chat: /v1/chat/completions. The server makes the prompt (`toolrefine doctor --server` compares it) and may parse the
  calls itself.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import httpx2

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.launch import Server, launch
from toolrefine.errors import ConfigError, DataError, RequestError, WorkError
from toolrefine.formats import Parsed
from toolrefine.formats.base import UnreadableError
from toolrefine.formats.json_object import read_json
from toolrefine.models import generation_eos_ids, load_tokenizer, resolve_model
from toolrefine.seeds import derive_seed
from toolrefine.types import Checkpoint, Completion, Outcome, Prompt, ToolCall

log = logging.getLogger(__name__)

Way = Literal["tokens", "text", "chat"]
PATHS: dict[Way, str] = {"tokens": "completions", "text": "completions", "chat": "chat/completions"}

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
NOT_UNDERSTOOD = {400, 404, 405, 415, 422, 501}
"""What a server says that does not know this way of asking."""

MAX_WAIT_S = 60.0


class OpenAIEngine:
    """Samples from a server. Requests run side by side, up to engine.concurrency at once."""

    def __init__(
        self, chat: Chat, config: EngineConfig, base_url: str, model: str, server: Server | None = None
    ) -> None:
        """Speak with the server at base_url, which calls the model `model`; a server given is stopped in the end."""
        self.chat = chat
        self.config = config
        self.model = model
        self.server = server
        self.way: Way | None = None
        self.usage = {"requests": 0, "retries": 0, "prompt_tokens": 0, "completion_tokens": 0}
        """Totals since the engine was opened, as the server counts them."""
        self._ends = chat.tokenizer.convert_ids_to_tokens(sorted(chat.eos_ids))
        self._lock = threading.Lock()
        key = os.environ.get(config.api_key_env, "")
        self.client = httpx2.Client(
            base_url=base_url,
            timeout=httpx2.Timeout(config.timeout_s, connect=10.0),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=config.concurrency),
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: EngineConfig, prompt: PromptConfig) -> OpenAIEngine:
        """Find the server of a checkpoint, or start one where engine.launch says how.

        Raises:
            RequestError: it serves another model, or the model's template cannot be used.
            WorkError: it does not answer, or the started one does not get ready.
        """
        tokenizer = load_tokenizer(checkpoint, trust_remote_code=config.trust_remote_code)
        chat = Chat(tokenizer, prompt, generation_eos_ids(checkpoint))
        if config.launch:
            server = launch(checkpoint, config)
            return cls(chat, config, f"{server.url}/v1", server.model, server)
        if not config.base_url:
            raise ConfigError("engine.base_url: missing; name a server, or set engine.launch to start one")
        url = f"{config.base_url.rstrip('/').removesuffix('/v1')}/v1"
        return cls(chat, config, url, served_name(url, checkpoint, config))

    def close(self) -> None:
        """Close the connections, and stop the server if this engine has started it."""
        self.client.close()
        if self.server is not None:
            self.server.stop()
        if self.usage["requests"]:
            log.info("server: %s", ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.usage.items()))

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]:
        """See Engine. The server's noise is its own: a seed goes with each request, but batches may change answers.

        Raises:
            RequestError: the server refuses a prompt.
            WorkError: the server keeps failing. The chunk is sampled again when the run goes on.
        """
        if not prompts:
            return []
        answers, way = [], self.way
        if way is None:
            way, answer = self._find_way(prompts[0], n, params)
            self.way = way
            answers.append(answer)
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            jobs = [pool.submit(self._answer, way, prompt, n, params) for prompt in prompts[len(answers) :]]
            try:
                answers += [job.result() for job in jobs]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return answers

    def _find_way(self, prompt: Prompt, n: int, params: SamplingParams) -> tuple[Way, list[Completion]]:
        """The first way that the server understands, and what it answers to this prompt."""
        ways: tuple[Way, ...] = get_args(Way) if self.config.api == "auto" else (self.config.api,)
        refusals = []
        for way in ways:
            try:
                answer = self._answer(way, prompt, n, params)
            except NotUnderstoodError as error:
                refusals.append(f"{way}: {error}")
                continue
            log.info("server %s is asked with %s; calls are written as %s", self.model, way, self.chat.format.name)
            return way, answer
        raise RequestError(f"server {self.client.base_url}: answers in no way: {'; '.join(refusals)}")

    def _answer(self, way: Way, prompt: Prompt, n: int, params: SamplingParams) -> list[Completion]:
        """Ask until there are n completions: some servers give one, whatever n they are asked for."""
        completions: list[Completion] = []
        while len(completions) < n:
            body = self._body(way, prompt, n - len(completions), params, first=len(completions))
            reply = self._post(PATHS[way], body)
            choices = reply.get("choices") or []
            if not choices:
                raise WorkError(f"server {self.client.base_url}: a reply without choices: {str(reply)[:200]}")
            self._count(reply.get("usage") or {})
            completions += [self._complete(prompt, choice, reply, len(choices)) for choice in choices]
        return completions[:n]

    def _body(self, way: Way, prompt: Prompt, n: int, params: SamplingParams, first: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "n": n,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": derive_seed(params.seed, prompt.id, first) % 2**31,
        }
        match way:
            case "tokens":
                ids = self.chat.prompt_ids(prompt.messages, prompt.tools)
                return {**body, "prompt": ids, "logprobs": 0, "skip_special_tokens": False}
            case "text":
                return {**body, "prompt": self.chat.prompt_text(prompt.messages, prompt.tools)}
            case "chat":
                return {**body, **self.chat.request(prompt.messages, prompt.tools)}

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request, tried again with growing pauses where the server is busy, broken or gone."""
        problem, pause = "", 0.0
        for attempt in range(self.config.max_retries + 1):
            if attempt:
                with self._lock:
                    self.usage["retries"] += 1
                time.sleep(pause)
            pause = min(MAX_WAIT_S, self.config.retry_pause_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                reply = self.client.post(path, json=body)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                if self.server is not None:
                    self.server.check()
                continue
            if reply.is_success:
                return _object(reply)
            problem = f"{reply.status_code}: {reply.text[:300]}"
            if reply.status_code not in RETRIED:
                break
            pause = max(pause, min(MAX_WAIT_S, _retry_after(reply)))
        else:
            raise WorkError(
                f"server {self.client.base_url}: no answer in {self.config.max_retries + 1} attempts ({problem}); "
                "see whether it runs, and repeat the command: it goes on from here"
            )
        if reply.status_code in NOT_UNDERSTOOD:
            raise NotUnderstoodError(problem)
        raise RequestError(f"server {self.client.base_url}: refuses: {problem}")

    def _count(self, usage: dict[str, Any]) -> None:
        with self._lock:
            self.usage["requests"] += 1
            for name in ("prompt_tokens", "completion_tokens"):
                count = usage.get(name)
                self.usage[name] += count if isinstance(count, int) else 0

    def _complete(self, prompt: Prompt, choice: dict[str, Any], reply: dict[str, Any], num_choices: int) -> Completion:
        truncated = choice.get("finish_reason") == "length"
        message = choice.get("message")
        text = str((message or choice).get("content" if message else "text") or "")
        raw_calls = (message or {}).get("tool_calls")
        if raw_calls:
            text, parsed = self._read_calls(raw_calls, truncated)
        else:
            text = self._without_end(text)
            parsed = self.chat.parse(text, truncated, prompt.tools)
        logprobs = _token_logprobs(choice)
        usage = (reply.get("usage") or {}).get("completion_tokens")
        if logprobs:
            num_tokens = len(logprobs)
        elif num_choices == 1 and isinstance(usage, int):
            num_tokens = usage
        else:
            num_tokens = len(self.chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Completion(
            text=text,
            calls=parsed.calls,
            outcome=parsed.outcome,
            num_tokens=num_tokens,
            mean_logprob=round(sum(logprobs) / len(logprobs), 6) if logprobs else None,
        )

    def _without_end(self, text: str) -> str:
        """The text without the end-of-turn token that a server may have left at its end."""
        return next((text.removesuffix(end) for end in self._ends if end and text.endswith(end)), text)

    def _read_calls(self, raw: Any, truncated: bool) -> tuple[str, Parsed]:
        """Calls that the server has parsed, and how this model's format would write them."""
        try:
            calls = tuple(_read_call(item) for item in raw)
            text = self.chat.format.render(calls)
        except (UnreadableError, DataError, AttributeError, TypeError, ValueError):
            return json.dumps(raw), Parsed(outcome=Outcome.TRUNCATED if truncated else Outcome.MALFORMED)
        return text, Parsed(calls=calls, outcome=Outcome.TRUNCATED if truncated else Outcome.CALLS)


class NotUnderstoodError(RequestError):
    """A server does not know this way of asking."""


def served_name(url: str, checkpoint: Checkpoint, config: EngineConfig) -> str:
    """What the server calls the model of a checkpoint.

    Raises:
        RequestError: it serves others only.
        WorkError: it cannot be asked.
    """
    if config.served_model:
        return config.served_model
    own = resolve_model(checkpoint.adapter or checkpoint.model)
    try:
        reply = httpx2.get(f"{url}/models", timeout=30.0)
        listed = [str(entry["id"]) for entry in _object(reply)["data"]] if reply.is_success else []
    except (httpx2.TransportError, httpx2.InvalidURL, KeyError, TypeError) as error:
        raise WorkError(
            f"server {url}: cannot be asked for its models: {error}; start it, or set engine.launch"
        ) from None
    for name in listed:
        if name == checkpoint.model or Path(name).resolve() == Path(own).resolve():
            return name
    if not listed:
        return own
    raise RequestError(
        f"server {url}: serves {', '.join(listed)}, not {own}; set engine.served_model if that is the same model, or "
        "engine.launch to have a server started for each checkpoint"
    )


def _object(reply: httpx2.Response) -> dict[str, Any]:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise WorkError(f"server {reply.url}: its answer is no JSON object: {reply.text[:200]!r}")
    return value


def _retry_after(reply: httpx2.Response) -> float:
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0


def _token_logprobs(choice: dict[str, Any]) -> list[float]:
    """Log-probabilities of the sampled tokens, empty where the server does not give them."""
    given = choice.get("logprobs") or {}
    values = given.get("token_logprobs") or [token.get("logprob") for token in given.get("content") or []]
    return [float(value) for value in values if isinstance(value, int | float)]


def _read_call(item: Any) -> ToolCall:
    function = item["function"]
    arguments = function.get("arguments") or "{}"
    value = read_json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, dict) or not isinstance(function["name"], str) or not function["name"]:
        raise UnreadableError("no name, or no object of arguments")
    return ToolCall(name=function["name"], arguments=value)
