"""Sampling with a model's own generate, for architectures whose state is more than keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import LogitsProcessor

from toolrefine.engines import SamplingParams
from toolrefine.engines.batching import Job, Sampled, bends, choose
from toolrefine.engines.constraint import Guide, allowed_tokens


def generate(model: Any, jobs: Sequence[Job], params: SamplingParams, eos_ids: set[int], max_rows: int) -> None:
    """Run jobs to their end. Rows of one batch are prompts of one length: padding could leave its mark in a state."""
    while jobs:
        rows = [(job, number) for job in sorted(jobs, key=lambda job: len(job.ids)) for number in job.next_wave(0)]
        done: dict[Job, list[Sampled]] = {}
        for _, group in groupby(rows, key=lambda row: len(row[0].ids)):
            same = list(group)
            for start in range(0, len(same), max_rows):
                batch = same[start : start + max_rows]
                for (job, _), item in zip(batch, _generate(model, batch, params, eos_ids), strict=True):
                    done.setdefault(job, []).append(item)
        for job, sampled in done.items():
            job.on_wave(sampled)
        jobs = [following for job in done if (following := job.follow())]


def _generate(model: Any, batch: Sequence[tuple[Job, int]], params: SamplingParams, eos_ids: set[int]) -> list[Sampled]:
    ids = torch.tensor([job.ids for job, _ in batch], device=model.device)
    noise_rs = [job.noise(number).tolist() for job, number in batch]
    chooser = _Chooser(noise_rs, [job.guide for job, _ in batch], params)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
        num_beams=1,
        logits_processor=[chooser],
        eos_token_id=sorted(eos_ids) or None,
        pad_token_id=min(eos_ids, default=0),
    )
    answers = []
    for (_, number), tokens, logprobs, bent in zip(batch, chooser.tokens, chooser.logprobs, chooser.bent, strict=True):
        end = next((place + 1 for place, token in enumerate(tokens) if token in eos_ids), len(tokens))
        answers.append(Sampled(number, tuple(tokens[:end]), sum(logprobs[:end]), any(bent[:end])))
    return answers


class _Chooser(LogitsProcessor):
    """Chooses each row's token by its own noise, and leaves generate no other choice."""

    def __init__(self, noise_rs: list[list[float]], guides: list[Guide | None], params: SamplingParams) -> None:
        self.noise_rs, self.guides, self.params = noise_rs, guides, params
        self.tokens: list[list[int]] = [[] for _ in noise_rs]
        self.logprobs: list[list[float]] = [[] for _ in noise_rs]
        self.bent: list[list[bool]] = [[] for _ in noise_rs]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = range(len(scores))
        step = len(self.tokens[0])
        allowed = allowed_tokens(self.guides, scores.shape[1], scores.device) if any(self.guides) else None
        tokens, logprobs = choose(scores, rows, [noise[step] for noise in self.noise_rs], self.params, allowed)
        self.guides = [guide and guide.after(token) for guide, token in zip(self.guides, tokens, strict=True)]
        for row, token, logprob, bent in zip(rows, tokens, logprobs, bends(scores, allowed), strict=True):
            self.tokens[row].append(token)
            self.logprobs[row].append(logprob)
            self.bent[row].append(bent)
        chosen = torch.full_like(scores, -torch.inf)
        chosen[list(rows), tokens] = 0.0
        return chosen
