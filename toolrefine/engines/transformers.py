"""The in-process engine: any Hugging Face causal language model with a chat template."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.decoding import Prefix, make_decoder
from toolrefine.models import eos_token_ids, load_model, load_tokenizer, resolve_device
from toolrefine.seeds import derive_seed
from toolrefine.types import Checkpoint, Completion, Outcome, Prompt

log = logging.getLogger(__name__)


class TransformersEngine:
    """Samples from a model in this process."""

    def __init__(self, model: Any, tokenizer: Any, config: EngineConfig, prompt: PromptConfig) -> None:
        """Take over a model: its attention implementation may be switched.

        Raises:
            TemplateError: the tokenizer's chat template cannot be used.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.eos_ids = eos_token_ids(model, tokenizer)
        self.chat = Chat(tokenizer, prompt, self.eos_ids)
        self.decoder = make_decoder(model)
        self.prefixes: dict[str, Prefix] = {}
        self.max_positions = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        log.info("calls are written as %s; decoding: %s", self.chat.format.name, type(self.decoder).__name__)

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

    def close(self) -> None:
        """Free the model's memory."""
        del self.model, self.decoder, self.prefixes
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]:
        """See Engine. A prompt that leaves no room for an answer gives TRUNCATED completions without tokens.

        What is batched together depends on the prompts of this call alone: prompts are ordered by length and cut
        into batches of at most max_batch_rows rows. The keys and values of a call with n = 1 are kept for prompts of
        the next call that extend its prompts.
        """
        ids = [self.chat.prompt_ids(prompt.messages, prompt.tools) for prompt in prompts]
        fits = [len(tokens) + params.max_new_tokens <= self.max_positions for tokens in ids]
        order = sorted((i for i, fit in enumerate(fits) if fit), key=lambda i: len(ids[i]))
        answers: list[list[Completion]] = [[NO_ROOM] * n for _ in prompts]
        width = min(n, self.config.max_batch_rows)
        size = self.config.max_batch_rows // width
        known, self.prefixes = self.prefixes, {}
        room = self.config.prefix_cache_gb * 2**30 if n == 1 else 0
        for start, first in itertools.product(range(0, len(order), size), range(0, n, width)):
            batch, indices = order[start : start + size], range(first, min(first + width, n))
            noise_rs = torch.from_numpy(np.concatenate([noise(prompts[i].id, indices, params) for i in batch]))
            beginnings = [known.get(prompts[i].extends or "") for i in batch]
            logits = self.decoder.prefill([ids[i] for i in batch], len(indices), beginnings)
            if room > 0:
                prefilled = dict(zip([prompts[i].id for i in batch], self.decoder.prefixes(), strict=False))
                room -= sum(prefix.num_bytes for prefix in prefilled.values())
                self.prefixes |= prefilled if room >= 0 else {}
            rows = self._decode(logits, len(indices), params, noise_rs.to(self.model.device))
            for place, row in enumerate(rows):
                i = batch[place // len(indices)]
                answers[i][indices[place % len(indices)]] = self._complete(prompts[i], *row)
        return answers

    def _decode(
        self, logits_bv: torch.Tensor, n: int, params: SamplingParams, noise_rs: torch.Tensor
    ) -> list[tuple[list[int], float]]:
        """Sampled ids of each row behind its prompt, the end-of-turn token included, and their log-probability."""
        tokens: list[list[int]] = [[] for _ in range(len(logits_bv) * n)]
        logprobs = [0.0] * len(tokens)
        rows_bn = torch.arange(len(tokens)).view(-1, n)
        finished = [False] * len(tokens)
        logits = logits_bv.repeat_interleave(n, dim=0)
        for step in range(params.max_new_tokens):
            rows = rows_bn.flatten().tolist()
            chosen, logprob = choose(logits, noise_rs[rows, step], params)
            for row, token, value in zip(rows, chosen.tolist(), logprob.tolist(), strict=True):
                if not finished[row]:
                    tokens[row].append(token)
                    logprobs[row] += value
                    finished[row] = token in self.eos_ids
            going = [b for b, group in enumerate(rows_bn.tolist()) if not all(finished[row] for row in group)]
            if not going or step + 1 == params.max_new_tokens:
                break
            if len(going) <= 0.8 * len(rows_bn):
                keep = torch.tensor(going)
                self.decoder.keep(keep.to(chosen.device))
                chosen = chosen.view(-1, n)[keep.to(chosen.device)].flatten()
                rows_bn = rows_bn[keep]
            logits = self.decoder.step(chosen)
        return list(zip(tokens, logprobs, strict=True))

    def _complete(self, prompt: Prompt, tokens: list[int], logprob: float) -> Completion:
        ended = tokens[-1] in self.eos_ids
        text = self.tokenizer.decode(
            tokens[:-1] if ended else tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        parsed = self.chat.parse(text, truncated=not ended, tools=prompt.tools)
        return Completion(
            text=text,
            calls=parsed.calls,
            outcome=parsed.outcome,
            num_tokens=len(tokens),
            mean_logprob=round(logprob / len(tokens), 6),
        )


NO_ROOM = Completion(text="", outcome=Outcome.TRUNCATED, num_tokens=0, mean_logprob=0.0)


def noise(prompt_id: str, indices: Sequence[int], params: SamplingParams) -> np.ndarray[Any, Any]:
    """Uniform numbers (indices, max_new_tokens), a pure function of seed, prompt id, completion index and step."""
    keys = [derive_seed(params.seed, prompt_id, index) for index in indices]
    return np.stack([np.random.Generator(np.random.Philox(key)).random(params.max_new_tokens) for key in keys])


def choose(logits_rv: torch.Tensor, noise_r: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row by inverting the distribution function, and its log-probability at temperature 1."""
    logits_rv = logits_rv.float()
    if params.temperature == 0.0:
        chosen = logits_rv.argmax(dim=-1)
    else:
        probabilities = (logits_rv / params.temperature).softmax(dim=-1)
        if params.top_p < 1.0:
            ordered, places = probabilities.sort(dim=-1, descending=True)
            ordered[ordered.cumsum(dim=-1) - ordered >= params.top_p] = 0.0
            probabilities = torch.zeros_like(probabilities).scatter_(-1, places, ordered)
        total = probabilities.double().cumsum(dim=-1)
        chosen = torch.searchsorted(total, noise_r[:, None] * total[:, -1:], right=True)[:, 0]
        chosen = chosen.clamp(max=logits_rv.shape[-1] - 1)
    logprob = logits_rv.gather(-1, chosen[:, None])[:, 0] - logits_rv.logsumexp(dim=-1)
    return chosen, logprob
