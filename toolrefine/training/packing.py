"""Examples that begin alike share one row: what they have in common is computed once.

Shapes: N tokens in a row, G H query heads, H key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "toolrefine_packed"

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that see earlier tokens through attention alone."""


class Tokens(NamedTuple):
    """One tokenized example."""

    ids: list[int]
    start: int
    """Index at which its target starts."""
    sample_id: str = ""


class Block(NamedTuple):
    """Neighbouring examples and the number of tokens that all of them begin with."""

    examples: list[Tokens]
    num_shared: int

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return self.num_shared + sum(len(example.ids) - self.num_shared for example in self.examples)


def find_blocks(examples: Sequence[Tokens]) -> Iterator[Block]:
    """Neighbours of one sample as one block, where sharing their beginning saves a third of their tokens or more."""
    for _, same in groupby(examples, key=lambda example: example.sample_id):
        group = list(same)
        num_shared = count_shared(group)
        block = Block(group, num_shared)
        if len(group) > 1 and 3 * block.num_tokens <= 2 * sum(len(example.ids) for example in group):
            yield block
        else:
            yield from (Block([example], len(example.ids)) for example in group)


def count_shared(examples: Sequence[Tokens]) -> int:
    """Tokens that all examples begin with. The one that predicts the first of a target counts as the example's own."""
    ids = [example.ids for example in examples]
    differ = (place for place, tokens in enumerate(zip(*ids, strict=False)) if len({*tokens}) > 1)
    return min(next(differ, min(map(len, ids))), min(example.start for example in examples) - 1)


def pack(blocks: Sequence[Block]) -> dict[str, Any]:
    """One row of blocks: each block's shared tokens, then what each of its examples has of its own.

    The labels (1, M) are those of the positions (M) for which logits are wanted.
    """
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    labels: list[int] = []
    layout: list[tuple[int, torch.Tensor | None]] = []
    for examples, shared in blocks:
        ids += examples[0].ids[:shared]
        positions += range(shared)
        if len(examples) == 1:
            places = [range(len(ids) - shared, len(ids))]
            layout.append((shared, None))
        else:
            places = []
            for example in examples:
                ids += example.ids[shared:]
                positions += range(shared, len(example.ids))
                places.append(range(len(ids) - len(example.ids), len(ids)))
            layout.append((shared, visible(shared, [len(example.ids) - shared for example in examples])))
        for example, place in zip(examples, places, strict=True):
            predicting += place[example.start - 1 : -1]
            labels += example.ids[example.start :]
    wanted = torch.tensor([labels])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "logits_to_keep": torch.tensor(predicting),
        "labels": wanted,
        "shift_labels": wanted,
        "packed_layout": tuple(layout),
    }


def visible(num_shared: int, nums_own: Sequence[int]) -> torch.Tensor:
    """What the examples' own tokens see of their block: the shared tokens, and causally their own example."""
    owners = torch.repeat_interleave(torch.arange(len(nums_own)), torch.tensor(nums_own))
    mine = (owners[:, None] == owners).tril()
    return torch.cat([mine.new_ones((len(owners), num_shared)), mine], dim=1)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_layout: Sequence[tuple[int, torch.Tensor | None]],
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each block of a row: query (1, G H, N, D), key and value (1, H, N, D).

    packed_layout has for each block the number of its shared tokens, and what the others see of it.

    Raises:
        NotImplementedError: the model modifies its scores in a way that is not known here.
    """
    unknown = [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {unknown[0]}")
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    nums_own = [0 if mask is None else len(mask) for _, mask in packed_layout]
    nums_tokens = [shared + own for (shared, _), own in zip(packed_layout, nums_own, strict=True)]
    # Split at once: the gradient of a slice is as large as the row, that of a split is written in one go.
    queries, keys, values = (tensor.split_with_sizes(nums_tokens, dim=2) for tensor in (query, key, value))
    outs = []
    for (shared, mask), own, q, k, v in zip(packed_layout, nums_own, queries, keys, values, strict=True):
        if mask is None:
            outs.append(scaled_dot_product_attention(q, k, v, is_causal=True, **options))
            continue
        (q_shared, q_own), (k_shared, _), (v_shared, _) = (
            tensor.split_with_sizes([shared, own], dim=2) for tensor in (q, k, v)
        )
        outs.append(scaled_dot_product_attention(q_shared, k_shared, v_shared, is_causal=True, **options))
        outs.append(scaled_dot_product_attention(q_own, k, v, attn_mask=mask, **options))
    return torch.cat(outs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)


def obstacle(config: Any, longest: int) -> str | None:
    """Why a model of this configuration cannot attend as packed_attention does, with examples of up to this length."""
    kinds = {*(getattr(config, "layer_types", None) or ["full_attention"])}
    if kinds - PLAIN_LAYERS:
        return f"it has layers of the kind {min(kinds - PLAIN_LAYERS)}"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window and window < longest:
        return f"its attention window of {window} tokens is shorter than the longest example"
    return None
