"""Attention over prompts that are stored once, however many rows go on from them.

Shapes: R rows, each of one slot, P prompt tokens, S sampled tokens, H key-value heads, G query heads for each of them,
D head size, M the most rows that one of some slots has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface, Cache, DynamicCache

ATTENTION = "toolrefine_shared_prefix"

CPU_SCORES = 2**20
"""Scores computed at once on a CPU. From twice as many on, glibc gives the freed memory back to the kernel, which
clears every page for the next step anew; smaller parts cost more calls."""

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer."""


def num_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    differ = (place for place, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    return next(differ, min(len(a), len(b)))


class Prefix(NamedTuple):
    """Tokens whose keys and values are known."""

    ids: list[int]
    layers: Layers
    """Keys (H, D, P) and values (H, P, D)."""

    def num_shared(self, ids: Sequence[int]) -> int:
        """How many tokens at the beginning of a prompt need no prefill; one at least is left to compute."""
        return min(num_common(self.ids, ids), len(ids) - 1)


def _smallest(layers: Layers) -> tuple[int, int]:
    """Slots or rows, and places of tokens, that all layers have room for: memory may have run out while they grew."""
    slots, places = zip(*(values.shape[::2] for _, values in layers), strict=True)
    return min(slots), min(places)


def _moved(old: torch.Tensor, shape: tuple[int, ...], used: tuple[slice, ...]) -> torch.Tensor:
    """Room of another shape with what is used of the old one; the rest holds zeros: what is masked must be finite."""
    new = old.new_zeros(shape)
    new[used] = old[used]
    return new


def num_places(num_tokens: int) -> int:
    """Tokens that there is room for in a slot of a cache that holds num_tokens."""
    return -(-num_tokens // 64) * 64


class SharedPrefixCache(Cache):
    """Keys and values of prompts in slots, and of what rows 0 to R - 1 have sampled behind them.

    Keys of prompts are kept transposed: small products with a transposed view are several times slower on a CPU.
    """

    def __init__(
        self, num_layers: int, num_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """num_heads is H, head_dim D."""
        super().__init__(layers=[])
        self.device = device
        self.slots: list[int] = []
        """Which slot is at each place of the first dimension of `prefix`."""
        self.lengths: dict[int, int] = {}
        """Slot -> tokens of its prompt."""
        nothing = torch.empty((0, num_heads, 0, head_dim), dtype=dtype, device=device)
        self.prefix: Layers = [(nothing.transpose(2, 3), nothing)] * num_layers
        """Keys (places, H, D, P) and values (places, H, P, D), with room for more slots and tokens."""
        self.suffix: Layers = [(nothing, nothing)] * num_layers
        """Keys and values (rows, H, S, D), with room for more rows and tokens."""
        self.rows: Rows

    def reserve(self, num_slots: int, num_tokens: int, max_slots: int) -> None:
        """Make room for num_slots slots in all, of num_tokens tokens; for more of them only up to max_slots."""
        slots, places = _smallest(self.prefix)
        if slots >= num_slots and places >= num_tokens:
            return
        slots = max(num_slots, min(slots if slots >= num_slots else slots * 3 // 2, max_slots))
        used, longest = len(self.slots), max(self.lengths.values(), default=0)
        places = num_places(num_tokens)
        # Layer by layer, so that no more than one is in memory twice.
        for layer, (keys, values) in enumerate(self.prefix):
            _, h, d, _ = keys.shape
            self.prefix[layer] = (
                _moved(keys, (slots, h, d, places), np.s_[:used, :, :, :longest]),
                _moved(values, (slots, h, places, d), np.s_[:used, :, :longest]),
            )

    def add(
        self,
        slots: Sequence[int],
        prompts: DynamicCache,
        known: Sequence[Prefix],
        nums_shared: Sequence[int],
        nums_new: Sequence[int],
    ) -> None:
        """Put prompts into reserved slots: the first tokens of known ones, then what is prefilled (b, H, p, D)."""
        start, b = len(self.slots), len(slots)
        self.slots += slots
        self.lengths |= {slot: shared + new for slot, shared, new in zip(slots, nums_shared, nums_new, strict=True)}
        for layer, ((keys, values), new) in enumerate(zip(self.prefix, prompts.layers, strict=True)):
            if not known:
                p = new.keys.shape[2]
                keys[start : start + b, :, :, :p] = new.keys.transpose(2, 3)
                values[start : start + b, :, :p] = new.values
                continue
            for row, (prefix, shared, num) in enumerate(zip(known, nums_shared, nums_new, strict=True)):
                old_keys, old_values = prefix.layers[layer]
                keys[start + row, :, :, :shared] = old_keys[:, :, :shared]
                values[start + row, :, :shared] = old_values[:, :shared]
                keys[start + row, :, :, shared : shared + num] = new.keys[row, :, :num].transpose(1, 2)
                values[start + row, :, shared : shared + num] = new.values[row, :, :num]

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        place, last = self.slots.index(slot), self.slots.pop()
        if last != slot:
            self._move([place], [len(self.slots)])
            self.slots[place] = last
        del self.lengths[slot]

    def _move(self, to: list[int], origin: list[int]) -> None:
        for keys, values in self.prefix:
            keys[to], values[to] = keys[origin], values[origin]

    def clear(self) -> None:
        """Empty all slots; the room stays."""
        self.slots, self.lengths = [], {}

    def save(self, row: int, length: int) -> Layers:
        """A copy of a row's first keys and values (H, S, D)."""
        return [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in self.suffix]

    def save_prefix(self, ids: list[int], slot: int, sampled: Layers) -> Prefix:
        """A copy of a slot with what was sampled behind it."""
        place, p = self.slots.index(slot), self.lengths[slot]
        layers = [
            (torch.cat([keys[place, :, :, :p], k.transpose(1, 2)], 2), torch.cat([values[place, :, :p], v], 1))
            for (keys, values), (k, v) in zip(self.prefix, sampled, strict=True)
        ]
        return Prefix(ids, layers)

    def arrange(self, slots: Sequence[int], lengths: Sequence[int], parents: Sequence[int | Layers | None]) -> None:
        """Say which rows the next step has: their slots, sampled tokens so far, and where those come from.

        parents are the row of the last step that a row goes on or branches off from, saved keys and values, or None for
        a row that starts behind its prompt.
        """
        moves = [(row, parent) for row, parent in enumerate(parents) if isinstance(parent, int) and parent != row]
        self._make_rows(len(slots), max(lengths) + 1)
        if moves:
            to, origin = torch.tensor(moves, device=self.device).T
            most = max(lengths[row] for row, _ in moves)
            for keys, values in self.suffix:
                keys[to, :, :most], values[to, :, :most] = keys[origin, :, :most], values[origin, :, :most]
        for row, parent in enumerate(parents):
            if isinstance(parent, list):
                for (keys, values), (saved_keys, saved_values) in zip(self.suffix, parent, strict=True):
                    keys[row, :, : lengths[row]] = saved_keys[:, : lengths[row]]
                    values[row, :, : lengths[row]] = saved_values[:, : lengths[row]]
        counts = Counter(slots)
        self._sort([_size_class(counts[slot], self.device) for slot in self.slots])
        self.rows = Rows(self.slots, self.lengths, slots, lengths, self.device)

    def _sort(self, classes: list[int]) -> None:
        """Move slots so that those with about as many rows stand side by side, those with most first."""
        wanted = sorted(classes, reverse=True)
        to = [place for place, (have, want) in enumerate(zip(classes, wanted, strict=True)) if have != want]
        if to:
            places: dict[int, list[int]] = {}
            for place in to:
                places.setdefault(classes[place], []).append(place)
            origin = [places[wanted[place]].pop() for place in to]
            self._move(to, origin)
            moved = [self.slots[place] for place in origin]
            for place, slot in zip(to, moved, strict=True):
                self.slots[place] = slot

    def _make_rows(self, rows: int, places: int) -> None:
        have_rows, have_places = _smallest(self.suffix)
        if have_rows >= rows and have_places >= places:
            return
        rows = max(have_rows, rows if rows <= 32 else -(-rows // 64) * 64)
        places = have_places if have_places >= places else max(32, 2 * have_places, places)
        used = np.s_[:have_rows, :, :have_places]
        for layer, (keys, values) in enumerate(self.suffix):
            _, h, _, d = keys.shape
            self.suffix[layer] = _moved(keys, (rows, h, places, d), used), _moved(values, (rows, h, places, d), used)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (R, H, 1, D) to a layer; returns all sampled so far, (R, H, S, D)."""
        keys, values = self.suffix[layer_idx]
        rows = self.rows
        keys[rows.all, :, rows.at] = key_states[:, :, 0]
        values[rows.all, :, rows.at] = value_states[:, :, 0]
        return keys[: rows.num, :, : rows.num_sampled], values[: rows.num, :, : rows.num_sampled]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Length of the longest row."""
        return max(self.lengths) + self.rows.num_sampled - 1


def _size_class(num_rows: int, device: torch.device) -> int:
    """Slots of one class share a product, padded to the most rows of one of them; a GPU prefers one large product."""
    return 0 if not num_rows else 1 if device.type != "cpu" else num_rows.bit_length() + (num_rows & (num_rows - 1) > 0)


class Rows:
    """Which slot each row of a step belongs to, and how far it is."""

    def __init__(
        self,
        order: Sequence[int],
        prompt_lengths: Mapping[int, int],
        slots: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        counts = Counter(slots)
        self.num = len(slots)
        self.num_sampled = max(lengths) + 1
        """S of this step."""
        self.at, starts = torch.tensor([lengths, [prompt_lengths[slot] for slot in slots]], device=device)
        """Tokens that each row has sampled before."""
        self.all = torch.arange(self.num, device=device)
        self.positions = starts + self.at
        self.suffix_bias = _bias(self.at + 1, self.num_sampled)
        self.stacks = []
        rows_of: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            rows_of.setdefault(slot, []).append(row)
        start = 0
        for _, group in groupby(order, lambda slot: _size_class(counts[slot], device)):
            members = list(group)
            if counts[members[0]]:
                self.stacks.append(Stack(start, [rows_of[slot] for slot in members], members, prompt_lengths, device))
            start += len(members)


class Stack:
    """Neighbouring slots with about as many rows each."""

    def __init__(
        self,
        start: int,
        rows: Sequence[Sequence[int]],
        slots: Sequence[int],
        prompt_lengths: Mapping[int, int],
        device: torch.device,
    ) -> None:
        self.places = slice(start, start + len(slots))
        lengths = [prompt_lengths[slot] for slot in slots]
        self.num_tokens = max(lengths)
        """P of these slots."""
        self.most = max(map(len, rows))
        """M of these slots."""
        self.bias = _bias(torch.tensor(lengths, device=device), self.num_tokens)
        triples = [(row, slot, place) for slot, own in enumerate(rows) for place, row in enumerate(own)]
        self.rows, self.slots, self.inner = torch.tensor(triples, device=device).T
        """Of each row here: its number, its slot counted from `start`, and its place among the slot's rows."""


def _bias(lengths: torch.Tensor, most: int) -> torch.Tensor:
    """0 where there is something, -inf behind: (number of lengths, 1, 1, most)."""
    behind = torch.arange(most, device=lengths.device) >= lengths[:, None]
    return torch.zeros(behind.shape, device=lengths.device).masked_fill_(behind, -torch.inf)[:, None, None]


class Beginnings:
    """Known beginnings of some prompts, padded to one length C."""

    def __init__(self, known: Sequence[Prefix], nums_shared: Sequence[int]) -> None:
        longest, layers = max(nums_shared), range(len(known[0].layers))
        first_keys, first_values = known[0].layers[0]
        self.bias = _bias(torch.tensor(nums_shared, device=first_keys.device), longest)
        h, d, _ = first_keys.shape
        self.layers = [
            (first_keys.new_zeros((len(known), h, d, longest)), first_values.new_zeros((len(known), h, longest, d)))
            for _ in layers
        ]
        for row, (prefix, shared) in enumerate(zip(known, nums_shared, strict=True)):
            for (keys, values), (old_keys, old_values) in zip(self.layers, prefix.layers, strict=True):
                keys[row, :, :, :shared] = old_keys[:, :, :shared]
                values[row, :, :shared] = old_values[:, :shared]


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefixCache | None = None,
    beginnings: Beginnings | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of rows over their prompts' one copy of keys and values, and over what each row sampled.

    With beginnings it is the prefill of what follows them; with neither, that of whole prompts: plain causal attention.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if shared_prefix is not None:
        prefix_keys, prefix_values = shared_prefix.prefix[module.layer_idx]
        return _attend_rows(shared_prefix.rows, prefix_keys, prefix_values, query * scale, key, value), None
    if beginnings is not None:
        known_keys, known_values = beginnings.layers[module.layer_idx]
        return _attend_behind(beginnings.bias, known_keys, known_values, query * scale, key, value), None
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=query.shape[2] > 1, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.transpose(1, 2), None


def _attend_rows(
    rows: Rows,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Attention (R, 1, H G, D) of one token a row.

    query (R, H G, 1, D), key and value (R, H, S, D). The queries of a slot's rows are stacked, so that its prompt takes
    one product a head; its softmax and that over the sampled tokens are joined at the end.
    """
    r, h, _, d = key.shape
    query = query.view(r, h, -1, d)
    g = query.shape[2]
    prefix_out, prefix_total = query.new_empty((r, h, g, d)), query.new_empty((r, h, g, 1), dtype=torch.float)
    for stack in rows.stacks:
        m, p = stack.most, stack.num_tokens
        stacked = query.new_zeros((stack.places.stop - stack.places.start, h, m, g, d))
        stacked.transpose(1, 2)[stack.slots, stack.inner] = query[stack.rows]
        parts = _attend(
            stacked.flatten(2, 3), prefix_keys[stack.places, ..., :p], prefix_values[stack.places, :, :p], stack.bias
        )
        for whole, part in zip((prefix_out, prefix_total), parts, strict=True):
            whole[stack.rows] = part.view(-1, h, m, g, part.shape[-1]).transpose(1, 2)[stack.slots, stack.inner]
    suffix_out, suffix_total = _attend(query, key.transpose(2, 3), value, rows.suffix_bias)
    prefix_share = (prefix_total - suffix_total).sigmoid()
    out = suffix_out + (prefix_out - suffix_out) * prefix_share
    return out.to(value.dtype).view(r, 1, h * g, d)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to a part of the keys, and the logarithm of the sum of its weights, by which parts can be joined."""
    num_scores = query.shape[:-1].numel() * keys.shape[-1]
    if query.device.type == "cpu" and num_scores > CPU_SCORES and len(query) > 1:
        num_parts = min(-(-num_scores // CPU_SCORES), len(query))
        parts = zip(*(whole.tensor_split(num_parts) for whole in (query, keys, values, bias)), strict=True)
        found = [_attend(*part) for part in parts]
        return torch.cat([out for out, _ in found]), torch.cat([total for _, total in found])
    scores = (query @ keys).float() + bias
    weights = scores.softmax(-1)
    # The highest score has the weight exp(0) / sum.
    total = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    return weights.to(values.dtype) @ values, total


def _attend_behind(
    bias: torch.Tensor,
    known_keys: torch.Tensor,
    known_values: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Causal attention (b, T, H G, D) of T tokens a prompt over the prompt's known beginning and each other.

    query (b, H G, T, D), key and value (b, H, T, D).
    """
    b, h, t, d = key.shape
    g = query.shape[1] // h
    query = query.reshape(b, h, g * t, d)
    later = torch.ones((t, t), dtype=torch.bool, device=query.device).triu_(1).repeat(g, 1)
    scores = torch.cat(
        [
            (query @ known_keys).float() + bias,
            (query @ key.transpose(2, 3)).float().masked_fill_(later, -torch.inf),
        ],
        dim=-1,
    )
    weights = scores.softmax(dim=-1).to(value.dtype)
    c = known_keys.shape[-1]
    out = weights[..., :c] @ known_values + weights[..., c:] @ value
    return out.view(b, h * g, t, d).transpose(1, 2)


AttentionInterface.register(ATTENTION, shared_prefix_attention)
