"""The in-process engine: any Hugging Face causal language model with a chat template."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import NO_ROOM, Accept, Follow, SamplingParams
from toolrefine.engines.batching import Batch, Job, Sampled
from toolrefine.engines.constraint import Constraint
from toolrefine.engines.decoding import make_decoder
from toolrefine.engines.generation import generate
from toolrefine.engines.prefill import Given, logprobs_of
from toolrefine.engines.scoring import scored_ids
from toolrefine.engines.waves import WavePlanner
from toolrefine.models import check_ids, eos_token_ids, load_model, load_tokenizer, resolve_device
from toolrefine.seeds import derive_seed
from toolrefine.types import Checkpoint, Completion, Message, Prompt

log = logging.getLogger(__name__)


class TransformersEngine:
    """Samples from a model in this process."""

    def __init__(self, model: Any, tokenizer: Any, config: EngineConfig, prompt: PromptConfig) -> None:
        """Take over a model: its attention implementation may be switched.

        Raises:
            TemplateError: the tokenizer's chat template cannot be used.
            ConfigError: answers cannot be constrained.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.eos_ids = eos_token_ids(model, tokenizer)
        self.chat = Chat(tokenizer, prompt, self.eos_ids)
        self.decoder = make_decoder(model)
        text_config = model.config.get_text_config()  # a multi-modal model's own tells nothing of its text
        self.max_positions = getattr(text_config, "max_position_embeddings", None) or 1 << 30
        if config.constrain:
            self.constraint  # noqa: B018 - what cannot be constrained is told before any work
        way = type(self.decoder).__name__ if self.decoder else "the model's own generate"
        log.info("calls are written as %s; decoding: %s", self.chat.format.name, way)

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: EngineConfig, prompt: PromptConfig) -> TransformersEngine:
        """Load a checkpoint.

        Raises:
            RequestError: the model or its template cannot be used.
        """
        device = resolve_device(config.device)
        dtype = ("float32" if device == "cpu" else "bfloat16") if config.dtype == "auto" else config.dtype
        model = load_model(checkpoint, dtype=dtype, device=device, trust_remote_code=config.trust_remote_code)
        tokenizer = load_tokenizer(checkpoint, trust_remote_code=config.trust_remote_code)
        return cls(model, tokenizer, config, prompt)

    @cached_property
    def constraint(self) -> Constraint:
        """Keeps answers to their tools."""
        return Constraint(self.chat, self.model.get_output_embeddings().weight.shape[0])

    def forget(self) -> None:
        """See Engine: nothing is remembered."""

    def close(self) -> None:
        """Free the model's memory."""
        del self.model, self.decoder
        clear_device_cache()

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """See Engine. A prompt that leaves no room for an answer gives TRUNCATED completions without tokens.

        Raises:
            RequestError: a prompt holds a token that the model has no embedding of; chain and score raise it, too.
        """
        answers: list[list[Completion]] = [[] for _ in prompts]
        can_refill = self.decoder is not None and self.decoder.can_refill
        planner = WavePlanner(n, accept) if accept and can_refill else None
        # Without refilling, the rows of a prompt start together.
        width = n if can_refill else self.config.max_batch_rows
        jobs = []
        crowded: set[int] = set()
        for place, prompt in enumerate(prompts):
            for first in range(0, n, width):
                indices = range(first, min(first + width, n))
                job = self._job(prompt, indices, params, answers[place])
                if job is None:
                    answers[place] += [NO_ROOM] * len(indices)
                    crowded.add(place)
                    continue
                if planner is not None:
                    job.next_wave = partial(planner.next_wave, place, answers[place])
                    job.expected_rows = planner.expected_rows
                jobs.append(job)
        self._run(jobs, params)
        self._tell_no_room(len(crowded), params)
        return answers

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """See Engine. What has been computed of a prompt and its completion is not computed again for the next."""
        answers: list[list[Completion]] = [[] for _ in prompts]
        num_crowded = 0

        def job_of(place: int, prompt: Prompt | None) -> Job | None:
            nonlocal num_crowded
            while prompt is not None:
                job = self._job(prompt, range(1), params, answers[place])
                if job is not None:
                    job.follow = lambda: job_of(place, follow(place, answers[place]))
                    return job
                answers[place].append(NO_ROOM)
                num_crowded += 1
                prompt = follow(place, answers[place])
            return None

        jobs = [job_of(place, prompt) for place, prompt in enumerate(prompts)]
        self._run([job for job in jobs if job is not None], params)
        self._tell_no_room(num_crowded, params)
        return answers

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """See Engine."""
        scores = [0.0] * len(prompts)
        given: dict[int, Given] = {}
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = scored_ids(self.chat, prompt, answer)
            if ids is None or sum(map(len, ids)) > self.max_positions:
                scores[place] = -math.inf
            elif ids[1]:
                head, tail = ids
                check_ids(head + tail, self.model, self.tokenizer, prompt.id)
                given[place] = Given(head + tail, len(head))
        found = logprobs_of(self.model, self.decoder, [*given.values()], self._max_bytes)
        for place, score in zip(given, found, strict=True):
            scores[place] = score
        return scores

    def _job(
        self, prompt: Prompt, indices: Sequence[int], params: SamplingParams, answers: list[Completion]
    ) -> Job | None:
        """What a batch has to do for a prompt, all in one wave, or None where it leaves no room for an answer."""
        ids = self.chat.prompt_ids(prompt.messages, prompt.tools)
        if len(ids) + params.max_new_tokens > self.max_positions:
            return None
        check_ids(ids, self.model, self.tokenizer, prompt.id)
        return Job(
            ids,
            n=indices[-1] + 1,
            on_wave=lambda wave: answers.extend(self._complete(prompt, wave)),
            next_wave=lambda num_done: () if num_done else indices,
            noise=lambda index: noise(prompt.id, index, params),
            guide=self.constraint.guide(prompt.tools) if self.config.constrain or params.constrain else None,
        )

    def _tell_no_room(self, num_prompts: int, params: SamplingParams) -> None:
        """Say how many prompts of a call have got no answer."""
        if num_prompts:
            log.info(
                "no room for an answer, which counts as truncated: max_new_tokens=%d do not fit behind the prompt "
                "into the model's context of %d tokens; prompts: %d",
                params.max_new_tokens,
                self.max_positions,
                num_prompts,
            )

    @torch.inference_mode()
    def _run(self, jobs: list[Job], params: SamplingParams) -> None:
        """What is batched together depends on the jobs alone, so that a repeated call gives the same."""
        if self.decoder is None:
            generate(self.model, jobs, params, self.eos_ids, self.config.max_batch_rows)
            return
        batch = Batch(self.decoder, params, self.eos_ids, self.config.max_batch_rows, self._max_bytes)
        batch.run(sorted(jobs, key=lambda job: -len(job.ids)))

    @property
    def _max_bytes(self) -> float:
        return self.config.prefix_cache_gb * 2**30

    def _complete(self, prompt: Prompt, wave: list[Sampled]) -> list[Completion]:
        """Completions with the same tokens are decoded and parsed once."""
        known: dict[tuple[int, ...], Completion] = {}
        completions = []
        for item in wave:
            if item.ids not in known:
                ended = item.ids[-1] in self.eos_ids
                text = self.tokenizer.decode(
                    item.ids[:-1] if ended else item.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                parsed = self.chat.parse(text, truncated=not ended, tools=prompt.tools)
                known[item.ids] = Completion(
                    text=text,
                    calls=parsed.calls,
                    outcome=parsed.outcome,
                    num_tokens=len(item.ids),
                    mean_logprob=round(item.logprob / len(item.ids), 6),
                    bent=item.bent,
                )
            completions.append(known[item.ids])
        return completions


def noise(prompt_id: str, index: int, params: SamplingParams) -> np.ndarray[Any, Any]:
    """Uniform numbers (max_new_tokens,), a pure function of seed, prompt id, completion index and step."""
    key = derive_seed(params.seed, prompt_id, index)
    return np.random.Generator(np.random.Philox(key)).random(params.max_new_tokens)
