"""What people use to sample k completions a prompt, at its best settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from transformers import DynamicCache

TOLERATED_LOSS = 1.1
"""A batch size that is slower by this factor than the best one so far ends the search among larger ones."""


class Settings(NamedTuple):
    """How to batch."""

    batch_size: int
    """Prompts at once."""
    cache: Literal["dynamic", "static"] = "dynamic"

    def __str__(self) -> str:
        return f"batches of {self.batch_size}, {self.cache} cache"


Sampler = Callable[[Sequence[list[int]], Settings], list[list[list[int]]]]
"""Prompts -> k completions of each."""


def generate(
    model: Any, prompts: Sequence[list[int]], k: int, max_new_tokens: int, settings: Settings, *, greedy: bool = False
) -> list[list[list[int]]]:
    """Hugging Face's generate, left-padded batches of prompts that are alike in length."""
    choice: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
    if settings.cache == "static":
        choice |= {"cache_implementation": "static", "disable_compile": True}
    completions: list[list[list[int]]] = [[] for _ in prompts]
    for batch in batches(prompts, settings.batch_size):
        ids, mask = pad_left([prompts[i] for i in batch], model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_return_sequences=k,
                max_new_tokens=max_new_tokens,
                pad_token_id=0,
                **choice,
            )
        rows = out[:, ids.shape[1] :].tolist()
        for place, i in enumerate(batch):
            completions[i] = rows[place * k : (place + 1) * k]
    return completions


@torch.inference_mode()
def expand(
    model: Any, prompts: Sequence[list[int]], k: int, max_new_tokens: int, settings: Settings
) -> list[list[list[int]]]:
    """Each prompt is prefilled once, then its cache is copied k times: a loop as one writes it by hand."""
    ends = model.generation_config.eos_token_id
    ends_e = torch.tensor(ends if isinstance(ends, list) else [ends], device=model.device)
    completions: list[list[list[int]]] = [[] for _ in prompts]
    for batch in batches(prompts, settings.batch_size):
        ids, mask = pad_left([prompts[i] for i in batch], model.device)
        cache = DynamicCache(config=model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(k)
        mask, logits = mask.repeat_interleave(k, 0), out.logits[:, -1].repeat_interleave(k, 0)
        rows = torch.arange(len(logits), device=model.device)
        sampled = torch.zeros((len(logits), max_new_tokens), dtype=torch.long, device=model.device)
        for step in range(max_new_tokens):
            chosen = torch.multinomial(logits.float().softmax(-1), 1)
            sampled[rows, step] = chosen[:, 0]
            going = ~torch.isin(chosen[:, 0], ends_e)
            if step + 1 == max_new_tokens or not going.any():
                break
            if going.sum() <= 0.75 * len(rows):
                rows, chosen, mask = rows[going], chosen[going], mask[going]
                cache.batch_select_indices(going.nonzero()[:, 0])
            positions = mask.sum(1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(positions)], 1)
            logits = model(input_ids=chosen, attention_mask=mask, position_ids=positions, past_key_values=cache).logits[
                :, -1
            ]
        for place, i in enumerate(batch):
            completions[i] = sampled[place * k : (place + 1) * k].tolist()
    return completions


def batches(prompts: Sequence[list[int]], size: int) -> Iterator[list[int]]:
    """Indices of the prompts, shortest first, `size` at a time."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def pad_left(prompts: Sequence[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def cut(ids: Sequence[int], ends: set[int]) -> list[int]:
    """A completion up to its end-of-turn token, which is included."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[: end + 1])


def find_settings(
    sampler: Sampler, prompts: Sequence[list[int]], candidates: Sequence[Settings], search_s: float
) -> tuple[Settings, list[Settings]]:
    """The fastest settings a prompt, and those that were tried within about so many seconds.

    Each is tried on one batch of prompts of middle length. Larger batches are left out once they have become slower.
    """
    by_length = sorted(prompts, key=len)
    sampler(by_length[:1], candidates[0])  # what happens only once in a process
    started = time.monotonic()
    seconds: dict[Settings, float] = {}
    hopeless: set[str] = set()
    for settings in candidates:
        known = [value for tried, value in seconds.items() if tried.cache == settings.cache]
        if settings.batch_size > len(prompts) or settings.cache in hopeless:
            continue
        if seconds and time.monotonic() - started > search_s:
            break
        first = (len(by_length) - settings.batch_size) // 2
        start = time.perf_counter()
        try:
            sampler(by_length[first : first + settings.batch_size], settings)
        except torch.cuda.OutOfMemoryError:
            hopeless.add(settings.cache)
            continue
        seconds[settings] = (time.perf_counter() - start) / settings.batch_size
        if known and seconds[settings] > TOLERATED_LOSS * min(known):
            hopeless.add(settings.cache)
    return min(seconds, key=lambda each: seconds[each]), list(seconds)
