"""Rows: k completions a prompt, beside Hugging Face's generate and beside a loop that copies the prompt's cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch

from perf.harness import Facts, Row, Side, Timing, Work, make_row, measure
from perf.models import Ends, make_model, make_samples, make_tokenizer
from perf.peers import Settings, cut, expand, find_settings, generate
from toolrefine.chat import Chat
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.transformers import TransformersEngine
from toolrefine.models import eos_token_ids
from toolrefine.rollout import to_prompt
from toolrefine.types import Record, Sample

CPU_SIZES, GPU_SIZES = (1, 2, 4, 8, 16), (8, 16, 32, 64)


class Task(Record):
    """What is sampled."""

    shape: str
    num_prompts: int
    ends: Ends = "never"
    max_new_tokens: int = 40
    min_prompt_tokens: int = 300
    max_prompt_tokens: int = 600
    k: int = 8
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_batch_rows: int = 128

    def samples(self, share: float = 1.0) -> list[Sample]:
        """The prompts' samples; of a share of them every so many, by length, so that the mean length stays."""
        samples = make_samples(self.num_prompts, range(self.min_prompt_tokens, self.max_prompt_tokens + 1))
        chat = Chat(make_tokenizer(), PromptConfig())
        samples.sort(key=lambda sample: len(chat.prompt_ids(sample.messages, sample.tools)))
        stride = round(1 / share)
        return samples[stride // 2 :: stride]


def make_engine(task: Task) -> TransformersEngine:
    """Our engine around the model of a task."""
    model = make_model(task.shape, dtype=task.dtype, device=task.device, ends=task.ends)
    return TransformersEngine(
        model, make_tokenizer(), EngineConfig(device=task.device, max_batch_rows=task.max_batch_rows), PromptConfig()
    )


def our_side(task: Task) -> Work:
    """TransformersEngine.sample."""
    engine = make_engine(task)
    prompts = [to_prompt(sample) for sample in task.samples()]
    params = SamplingParams(max_new_tokens=task.max_new_tokens)

    def work() -> Facts:
        groups = engine.sample(prompts, task.k, params)
        return {
            "completions": sum(map(len, groups)),
            "tokens": sum(completion.num_tokens for group in groups for completion in group),
        }

    engine.sample(prompts[:1], task.k, params)
    return work


def peer_side(
    task: Task,
    kind: Literal["generate", "expand"],
    *,
    share: float = 1.0,
    search_s: float = 20.0,
    candidates: Sequence[Settings] | None = None,
) -> Work:
    """A peer at its best settings, on a share of the prompts where it would take too long on all."""
    model = make_model(task.shape, dtype=task.dtype, device=task.device, ends=task.ends)
    tokenizer = make_tokenizer()
    ends = eos_token_ids(model, tokenizer)
    chat = Chat(tokenizer, PromptConfig())
    samples = task.samples(share)
    sampler = partial(_run, generate if kind == "generate" else expand, model, task)
    settings, tried = find_settings(
        sampler,
        [chat.prompt_ids(sample.messages, sample.tools) for sample in samples],
        candidates or candidate_settings(kind, task.device),
        search_s,
    )

    def work() -> Facts:
        torch.manual_seed(0)
        prompts = [chat.prompt_ids(sample.messages, sample.tools) for sample in samples]
        completions = [cut(ids, ends) for group in sampler(prompts, settings) for ids in group]
        for ids in completions:
            tokenizer.decode(ids)
        return {
            "completions": len(completions),
            "tokens": sum(map(len, completions)),
            "settings": str(settings),
            "tried": len(tried),
        }

    return work


def _run(
    function: Any, model: Any, task: Task, prompts: Sequence[list[int]], settings: Settings
) -> list[list[list[int]]]:
    completions: list[list[list[int]]] = function(model, prompts, task.k, task.max_new_tokens, settings)
    return completions


def candidate_settings(kind: Literal["generate", "expand"], device: str) -> list[Settings]:
    """In the order of the search: what was best in earlier searches comes first."""
    if kind == "expand":
        return [Settings(size) for size in ((4, 8, 2, 16, 1) if device == "cpu" else GPU_SIZES)]
    sizes = CPU_SIZES if device == "cpu" else GPU_SIZES
    return [Settings(size, cache) for size in sizes for cache in ("static", "dynamic")]


def scaled(peer: Timing, ours: Timing) -> Timing:
    """A peer's seconds for as many completions as ours."""
    factor = ours.facts["completions"] / peer.facts["completions"]
    return peer.model_copy(update={"seconds": peer.seconds * factor})


def describe(task: Task, ours: Timing, peer: Timing) -> str:
    """What was done, in words."""
    note = f"{task.num_prompts} prompts; peer: {peer.facts['settings']}, best of {peer.facts['tried']} settings"
    if ours.facts["completions"] != peer.facts["completions"]:
        note += f"; its seconds are those for {peer.facts['completions']} completions, scaled up"
    if task.ends != "never" or task.shape == "nano":
        means = [timing.facts["tokens"] / timing.facts["completions"] for timing in (ours, peer)]
        note += f"; tokens a completion {means[0]:.1f}, peer {means[1]:.1f}"
    return note


def sampling_rows(
    label: str,
    task: Task,
    *,
    share: float = 1.0,
    expand_share: float = 1.0,
    search_s: float = 20.0,
    rounds: int = 3,
    budget_s: float = 0.0,
    candidates: Sequence[Settings] | None = None,
    with_bf16: bool = False,
    with_expand: bool = True,
    targets: tuple[float | None, float | None, float | None] = (None, None, None),
) -> list[Row]:
    """Our engine beside generate, beside the copied cache, and in bfloat16 beside generate, measured together."""
    sides: dict[str, Side] = {
        "ours": partial(our_side, task),
        "generate": partial(peer_side, task, "generate", share=share, search_s=search_s, candidates=candidates),
    }
    if with_expand:
        sides["expand"] = partial(peer_side, task, "expand", share=expand_share, search_s=search_s / 2)
    if with_bf16:
        sides["bf16"] = partial(our_side, task.model_copy(update={"dtype": "bfloat16"}))
    timings = measure(sides, rounds=rounds, budget_s=budget_s, warm_up=False)
    pairs = [
        (f"sampling, {label}: generate", "ours", "generate", targets[0]),
        (f"sampling, {label}: prompt's cache copied", "ours", "expand", targets[1]),
        (f"sampling, {label}: bf16 against generate in fp32", "bf16", "generate", targets[2]),
    ]
    return [
        make_row(
            name,
            timings[ours],
            scaled(timings[peer], timings[ours]),
            at_least=at_least,
            note=describe(task, timings[ours], timings[peer]),
        )
        for name, ours, peer, at_least in pairs
        if ours in timings and peer in timings
    ]
