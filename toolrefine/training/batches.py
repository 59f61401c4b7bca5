"""What is trained on in which order, and how the examples of a batch become tensors.

Shapes: B examples, T tokens of the longest, M target tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from random import Random
from typing import Any, Literal

import torch

from toolrefine.training.packing import ATTENTION, Tokens, find_blocks, obstacle, pack

log = logging.getLogger(__name__)

Batch = dict[str, Any]
Collator = Callable[[Sequence[Tokens]], Batch]

IGNORED = -100
"""The label of a token that the loss leaves out."""

MIN_SAVED = 0.1
"""Share of the tokens that packing must save."""


def schedule(
    examples: Sequence[Tokens], batch_size: int, num_steps: int, seed: int, *, gradient_accumulation: int = 1
) -> list[int]:
    """Indices of the examples for every batch of every step, in order.

    Samples are shuffled anew each epoch and come with all of their examples (neighbours with one sample_id). Every
    batch is full. A sample that no longer fits into one waits for the next while a smaller one takes its place; only
    where there is none it is divided. What an epoch leaves short is filled up from the next. Batches of one step, and
    of neighbouring steps, are alike in length. Written down in full beforehand, so that a resumed training sees exactly
    what it would have seen, and without regard to packing, which changes nothing but the time.
    """
    rng = Random(seed)
    by_sample = groupby(range(len(examples)), key=lambda i: examples[i].sample_id)
    samples = [list(group) for _, group in by_sample]
    step = batch_size * gradient_accumulation
    bucket = step * max(1, min(16, len(examples) // step))
    order: list[int] = []
    waiting: list[list[int]] = []
    while len(order) < num_steps * step:
        size = min(bucket, num_steps * step - len(order))
        while sum(map(len, waiting)) < size:
            waiting += rng.sample(samples, len(samples))
        part, waiting = _divide(waiting, size)
        part.sort(key=lambda sample: max(len(examples[i].ids) for i in sample))
        filled = fill(part, batch_size)
        steps = [filled[i : i + step] for i in range(0, size, step)]
        rng.shuffle(steps)
        order += [i for step_indices in steps for i in step_indices]
    return order


def _divide(samples: Sequence[list[int]], size: int) -> tuple[list[list[int]], list[list[int]]]:
    """The first so many examples, and the rest."""
    first: list[list[int]] = []
    for place, sample in enumerate(samples):
        if len(sample) >= size:
            rest = [sample[size:]] if len(sample) > size else []
            return [*first, sample[:size]], [*rest, *samples[place + 1 :]]
        first.append(sample)
        size -= len(sample)
    return first, []


def fill(samples: Sequence[Sequence[int]], batch_size: int) -> list[int]:
    """The examples of samples in batches that divide as few of the samples as taking them in turn allows."""
    waiting = list(samples)
    order: list[int] = []
    room = batch_size
    while waiting:
        place = next((place for place, sample in enumerate(waiting) if len(sample) <= room), 0)
        sample = waiting.pop(place)
        if len(sample) > room:
            waiting.insert(0, sample[room:])
            sample = sample[:room]
        order += sample
        room = room - len(sample) or batch_size
    return order


def pad(examples: Sequence[Tokens], pad_id: int) -> Batch:
    """Rows (B, T) without an attention mask: a causal model never looks at what follows a row's end."""
    longest = max(len(example.ids) for example in examples)
    ids = [example.ids + [pad_id] * (longest - len(example.ids)) for example in examples]
    labels = [
        [IGNORED] * example.start + example.ids[example.start :] + [IGNORED] * (longest - len(example.ids))
        for example in examples
    ]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def pad_for_targets(examples: Sequence[Tokens], pad_id: int) -> Batch:
    """The same rows with logits and labels (M) for the target tokens alone."""
    batch = pad(examples, pad_id)
    next_labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    wanted = next_labels != IGNORED
    labels = next_labels[wanted]
    return {"input_ids": batch["input_ids"], "logits_to_keep": wanted, "labels": labels, "shift_labels": labels}


def pack_for_targets(examples: Sequence[Tokens]) -> Batch:
    """One row of blocks, with logits and labels for the target tokens alone; see pack."""
    return pack([*find_blocks(examples)])


def choose_collator(
    model: Any, batches: Sequence[Sequence[Tokens]], packing: bool | Literal["auto"], pad_id: int
) -> Collator:
    """The fastest way to batch that a model allows; packing switches the attention of the model.

    Args:
        model: to be trained.
        batches: what it will be trained on.
        packing: auto packs where that saves MIN_SAVED of the tokens, padding included.
        pad_id: any token.
    """
    plain = partial(pad, pad_id=pad_id)
    if packing is True or (packing == "auto" and share_saved(batches) >= MIN_SAVED):
        longest = max(len(example.ids) for batch in batches for example in batch)
        reason = switch_to_packing(model, longest, plain)
        if reason is None:
            return pack_for_targets
        log.warning("sft.packing is off for %s: %s", model.config.model_type, reason)
    for_targets = partial(pad_for_targets, pad_id=pad_id)
    if same_loss(loss_of(model, for_targets(PROBE)), loss_of(model, plain(PROBE)), model.dtype):
        return for_targets
    log.warning("%s computes logits for all tokens: it cannot be asked for some of them", model.config.model_type)
    return plain


def share_saved(batches: Sequence[Sequence[Tokens]]) -> float:
    """How much fewer tokens packed rows have than padded ones."""
    padded = sum(len(batch) * max(len(example.ids) for example in batch) for batch in batches)
    return 1.0 - sum(block.num_tokens for batch in batches for block in find_blocks(batch)) / padded


def switch_to_packing(model: Any, longest: int, plain: Collator) -> str | None:
    """Have a model attend within blocks, or say why it cannot; longest is the number of tokens of an example."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason = obstacle(base.config.get_text_config(), longest)
    if reason is not None:
        return reason
    before = base.config._attn_implementation
    if before == ATTENTION:
        return None
    expected = loss_of(model, plain(PROBE))
    base.set_attn_implementation(ATTENTION)
    if same_loss(loss_of(model, pack_for_targets(PROBE)), expected, model.dtype):
        return None
    base.set_attn_implementation(before)
    return "its attention cannot follow the layout of packed rows"


PROBE = (
    Tokens([*range(2, 34), 5, 9, 7], 32, "a"),
    Tokens([*range(2, 34), 11, 6, 4, 8, 3], 34, "a"),
    Tokens([*range(30, 10, -1)], 15, "b"),
)
"""A few tokens that any vocabulary has, of which some can be shared."""


def loss_of(model: Any, batch: Batch) -> float:
    """The loss that a model itself computes, or not a number where it does not take such a batch."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return float(model(**_moved(batch, model.device)).loss)
    except Exception:  # a model may raise whatever it likes
        return float("nan")
    finally:
        model.train(was_training)


def same_loss(loss: float, expected: float, dtype: torch.dtype) -> bool:
    """Whether losses are equal up to rounding."""
    return abs(loss - expected) <= abs(expected) * (1e-4 if dtype == torch.float32 else 2e-2)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value
