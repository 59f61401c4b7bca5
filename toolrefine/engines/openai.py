"""The engine for OpenAI-compatible servers: vLLM, SGLang, llama.cpp, `transformers serve`, hosted models.

How a server is asked is found out with the first prompt, richest way first:

- tokens: /v1/completions with the token ids of our own prompt, special tokens kept in the answer (vLLM, SGLang). What
  is sampled from is exactly what is trained on.
- text: /v1/completions with our own prompt as text. The server's tokenizer may add a token at the beginning.
- chat: /v1/chat/completions. The server makes the prompt (`toolrefine doctor --server` compares it) and may parse the
  calls itself.

Unless engine.completions_per_request says more, every completion is a request of its own with a seed of its own: some
servers give one completion whatever n they are asked for, some give n times the same, and a completion must not depend
on how many are asked for together. That the prompt is computed once is the server's prefix cache's part.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, get_args

import httpx2

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import NO_ROOM, Accept, Follow, SamplingParams, wave_sizes
from toolrefine.engines.answers import Answers
from toolrefine.engines.launch import Server, launch
from toolrefine.engines.replies import read_choice, read_score
from toolrefine.engines.scoring import scored_ids
from toolrefine.errors import ConfigError, RequestError, WorkError
from toolrefine.models import generation_eos_ids, load_tokenizer, resolve_model
from toolrefine.seeds import derive_seed
from toolrefine.types import Checkpoint, Completion, Message, Prompt

log = logging.getLogger(__name__)

NO_CONSTRAINT = "answers are constrained in this process only; a server has settings of its own for that"

Way = Literal["tokens", "text", "chat"]
PATHS: dict[Way, str] = {"tokens": "completions", "text": "completions", "chat": "chat/completions"}

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
NOT_UNDERSTOOD = {400, 404, 405, 415, 422, 501}
"""What a server says that does not know this way of asking."""

TOO_LONG_STATUS = {400, 413, 422}
TOO_LONG = re.compile(
    "maximum context length|model's context length|maximum model length"  # OpenAI, vLLM, SGLang
    "|context_length_exceeded|exceed_context_size_error|available context size",  # codes; llama.cpp
    re.IGNORECASE,
)
"""What a server says to a prompt that leaves no room for an answer."""

MAX_WAIT_S = 60.0

NO_SCORES = "to score answers takes a server with token ids and prompt_logprobs, as vLLM's, or this process"


class Wave(NamedTuple):
    """Completions of one prompt to ask for side by side."""

    key: str
    prompt: Prompt
    indices: list[int]


class OpenAIEngine:
    """Samples from a server. Requests run side by side, up to engine.concurrency at once."""

    def __init__(
        self,
        chat: Chat,
        config: EngineConfig,
        base_url: str,
        model: str,
        answers: Answers,
        server: Server | None = None,
    ) -> None:
        """Speak with the server at base_url, which calls the model `model`; a server given is stopped in the end."""
        self.chat = chat
        self.config = config
        self.model = model
        self.answers = answers
        self.server = server
        self.way: Way | None = None
        self.usage = {"requests": 0, "retries": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self.usage |= {"too_long": 0, "refused": 0}
        """Totals since the engine was opened, tokens as the server counts them."""
        self._lock = threading.Lock()
        self._failed = threading.Event()
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
            RequestError: it serves another model, the model's template cannot be used, or engine.constrain is set.
            WorkError: it does not answer, or the started one does not get ready.
        """
        if config.constrain:
            raise ConfigError(NO_CONSTRAINT)
        tokenizer = load_tokenizer(checkpoint, trust_remote_code=config.trust_remote_code)
        chat = Chat(tokenizer, prompt, generation_eos_ids(checkpoint))
        answers = Answers(config.answers, checkpoint, prompt)
        if config.launch:
            server = launch(checkpoint, config)
            return cls(chat, config, f"{server.url}/v1", server.model, answers, server)
        if not config.base_url:
            raise ConfigError("engine.base_url: missing; name a server, or set engine.launch to start one")
        if not config.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"server {config.base_url}: must begin with http:// or https://")
        url = f"{config.base_url.rstrip('/').removesuffix('/v1')}/v1"
        return cls(chat, config, url, served_name(url, checkpoint, config), answers)

    def forget(self) -> None:
        """See Engine."""
        self.answers.clear()

    def close(self) -> None:
        """Close the connections, and stop the server if this engine has started it."""
        self.client.close()
        if self.server is not None:
            self.server.stop()
        if self.usage["requests"]:
            counts = [f"{count} {name.replace('_', ' ')}" for name, count in self.usage.items() if count]
            log.info("server: %s", ", ".join(counts))

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """See Engine. The server's noise is its own: a seed goes with each request, but batches may change answers.

        What a server says is too long for it gives TRUNCATED completions without tokens.

        Raises:
            RequestError: the server refuses a prompt.
            WorkError: the server keeps failing. Requests on their way are waited for, and what has been answered stays
                in engine.answers: the same call asks for the rest.
        """
        groups: list[list[Completion]] = [[] for _ in prompts]

        def waves(place: int) -> Iterator[Wave]:
            key, group = self.answers.key(prompts[place], params), groups[place]
            known = self.answers.known(key)
            for size in wave_sizes(n) if accept else [n]:
                indices = range(len(group), len(group) + size)
                yield Wave(key, prompts[place], [index for index in indices if index not in known])
                group += [known[index] for index in indices]
                solved = [accept(place, index, known[index]) for index in indices if accept]
                if any(solved):
                    break

        self._run([waves(place) for place in range(len(prompts))], params)
        return groups

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """See Engine; see sample."""
        chains: list[list[Completion]] = [[] for _ in prompts]

        def waves(place: int) -> Iterator[Wave]:
            prompt: Prompt | None = prompts[place]
            while prompt is not None:
                key = self.answers.key(prompt, params)
                known = self.answers.known(key)
                yield Wave(key, prompt, [0] if 0 not in known else [])
                chains[place].append(known[0])
                prompt = follow(place, chains[place])

        self._run([waves(place) for place in range(len(prompts))], params)
        return chains

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """See Engine: by vLLM's prompt_logprobs, for which it computes whole prompts; nothing is kept for retries."""
        if self.way not in (None, "tokens"):
            raise RequestError(f"server {self.client.base_url}: takes no token ids; {NO_SCORES}")
        self._failed.clear()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                return list(pool.map(self._score, prompts, answers))
            except BaseException:
                self._failed.set()
                raise

    def _score(self, prompt: Prompt, answer: Completion | Message) -> float:
        ids = scored_ids(self.chat, prompt, answer)
        if ids is None:
            return -math.inf
        head, tail = ids
        body = {"model": self.model, "prompt": head + tail, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1}
        try:
            found = read_score(self._post(PATHS["tokens"], body, prompt.id), len(head), tail)
        except TooLongError:
            return -math.inf
        except RequestError as error:
            raise RequestError(f"{error}; {NO_SCORES}") from None
        if found is None:
            raise RequestError(f"server {self.client.base_url}: tells no log-probabilities of prompts; {NO_SCORES}")
        return found

    def _run(self, waves_of: Sequence[Iterator[Wave]], params: SamplingParams) -> None:
        """Ask for the waves of each place, one after the other; those of different places wait for no other's."""
        if params.constrain:
            raise ConfigError(NO_CONSTRAINT)
        places: dict[Future[None], int] = {}
        num_open = [0] * len(waves_of)
        done: SimpleQueue[Future[None]] = SimpleQueue()
        self._failed.clear()

        def ask(place: int) -> None:
            """Send the requests of the next wave that lacks answers."""
            for wave in waves_of[place]:
                if not wave.indices:
                    continue
                way = self.way or self._find_way(wave, params)
                if not wave.indices:
                    continue
                body = self._body(way, wave.prompt, params)
                for start in range(0, len(wave.indices), size := self.config.completions_per_request):
                    job = pool.submit(self._answer, way, wave, wave.indices[start : start + size], params, body)
                    places[job] = place
                    num_open[place] += 1
                    job.add_done_callback(done.put)
                return

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                for place in range(len(waves_of)):
                    ask(place)
                while places:
                    job = done.get()
                    place = places.pop(job)
                    job.result()
                    num_open[place] -= 1
                    if not num_open[place]:
                        ask(place)
            except BaseException:
                self._failed.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _find_way(self, wave: Wave, params: SamplingParams) -> Way:
        """The first way that the server understands. It has answered the first of the wave then, which is taken off."""
        ways: tuple[Way, ...] = get_args(Way) if self.config.api == "auto" else (self.config.api,)
        refusals = []
        for way in ways:
            try:
                self._answer(way, wave, wave.indices[:1], params, self._body(way, wave.prompt, params))
            except NotUnderstoodError as error:
                refusals.append(f"{way}: {error}")
                continue
            log.info("server %s is asked with %s; calls are written as %s", self.model, way, self.chat.format.name)
            wave.indices.pop(0)
            self.way = way
            return way
        raise RequestError(f"server {self.client.base_url}: answers in no way: {'; '.join(refusals)}")

    def _body(self, way: Way, prompt: Prompt, params: SamplingParams) -> dict[str, Any]:
        """A request without its seed."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        match way:
            case "tokens":
                ids = self.chat.prompt_ids(prompt.messages, prompt.tools)
                return {**body, "prompt": ids, "logprobs": 0, "skip_special_tokens": False}
            case "text":
                return {**body, "prompt": self.chat.prompt_text(prompt.messages, prompt.tools)}
            case "chat":
                return {**body, **self.chat.request(prompt.messages, prompt.tools)}

    def _answer(
        self, way: Way, wave: Wave, indices: Sequence[int], params: SamplingParams, body: dict[str, Any]
    ) -> None:
        """Ask for completions, and keep them. What a server leaves out of n is asked for again."""
        while indices:
            completions = self._ask(way, wave.prompt, indices, params, body)
            for index, completion in zip(indices, completions, strict=False):
                self.answers.add(wave.key, wave.prompt.id, index, completion)
            indices = indices[len(completions) :]

    def _ask(
        self, way: Way, prompt: Prompt, indices: Sequence[int], params: SamplingParams, body: dict[str, Any]
    ) -> list[Completion]:
        """One completion at least, in one request."""
        body = {**body, "seed": derive_seed(params.seed, prompt.id, indices[0]) % 2**31}
        if len(indices) > 1:
            body["n"] = len(indices)
        try:
            reply = self._post(PATHS[way], body, prompt.id)
        except TooLongError as error:
            if not self.usage["too_long"]:
                log.info("server %s: no room for an answer, which counts as truncated: %s", self.model, error)
            self._count(too_long=len(indices))
            return [NO_ROOM] * len(indices)
        except RefusedError as error:
            if self.config.refused == "stop":
                raise RequestError(f"{error}; engine.refused=skip passes over such prompts") from None
            log.info("%s; it counts as not answered", error)
            self._count(refused=len(indices))
            return [NO_ROOM] * len(indices)
        choices = reply.get("choices") or []
        if not choices:
            raise WorkError(f"server {self.client.base_url}: a reply without choices: {str(reply)[:200]}")
        usage = reply.get("usage") or {}
        self._count(requests=1, **{name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")})
        counted = usage if len(choices) == 1 else {}
        return [read_choice(self.chat, prompt, choice, counted) for choice in choices]

    def _post(self, path: str, body: dict[str, Any], prompt_id: str) -> dict[str, Any]:
        """One request, tried again with growing pauses where the server is busy, broken or gone."""
        problem, pause = "", 0.0
        for attempt in range(self.config.max_retries + 1):
            if attempt:
                if self._failed.wait(pause):
                    break
                self._count(retries=1)
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
                raise self._refusal(reply, problem, prompt_id)
            pause = max(pause, min(MAX_WAIT_S, _retry_after(reply)))
        raise WorkError(
            f"server {self.client.base_url}: no answer in {self.config.max_retries + 1} attempts ({problem}); "
            "see whether it runs, and repeat the command: it goes on from here"
        )

    def _refusal(self, reply: httpx2.Response, problem: str, prompt_id: str) -> RequestError:
        if reply.status_code in TOO_LONG_STATUS and TOO_LONG.search(reply.text):
            return TooLongError(problem)
        if self.way is None and reply.status_code in NOT_UNDERSTOOD:
            return NotUnderstoodError(problem)
        kind = RefusedError if reply.status_code in TOO_LONG_STATUS else RequestError
        return kind(f"server {self.client.base_url}: refuses {prompt_id}: {problem}")

    def _count(self, **counts: Any) -> None:
        """Add to the totals; a server may leave its own out."""
        with self._lock:
            for name, count in counts.items():
                self.usage[name] += count if isinstance(count, int) else 0


class NotUnderstoodError(RequestError):
    """A server does not know this way of asking."""


class RefusedError(RequestError):
    """A server refuses a prompt for what it says."""


class TooLongError(RequestError):
    """A prompt leaves no room for an answer in the server's context."""


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
