"""Decoders: how rows of sampled tokens go on behind their prompts, for each kind of architecture.

Shapes: b prompts, R rows, C what the head of the model reads (or the logits themselves).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from toolrefine.engines.attention import ATTENTION, Beginnings, Layers, Prefix, SharedPrefixCache, num_places

SHARED_PREFIX_MODELS = {"llama", "mistral", "qwen2", "qwen3"}
"""model_type of the architectures whose attention is known to pass its keyword arguments on."""

PREFILL_TOKENS = defaultdict(lambda: 65_536, cpu=2_048)
"""Prompt tokens in one forward pass, by type of device: what a CPU's caches hold (128 prompts at once were measured two
to three times slower a token), and what keeps a GPU busy without filling its memory."""

MIN_SHARED_TOKENS = 32
"""Shorter beginnings are not worth looking up."""


class Decoder(Protocol):
    """Keeps prompts in slots, which have numbers, and rows of sampled tokens behind them."""

    can_refill: bool
    """Whether a prompt can be added or removed while others go on, and rows be saved."""

    def reserve(self, num_slots: int, num_tokens: int, max_bytes: float) -> None:
        """Make room for num_slots prompts in all, of num_tokens tokens at most: in max_bytes, but for one always."""
        ...

    def add(self, slots: Sequence[int], prompts: Sequence[list[int]], known: Sequence[Prefix | None]) -> torch.Tensor:
        """Put prompts into new slots, for which there is room; returns the states (b, C) after them.

        known are tokens that they begin with.
        """
        ...

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        ...

    def clear(self) -> None:
        """Empty all slots."""
        ...

    def step(
        self,
        slots: Sequence[int],
        lengths: Sequence[int],
        parents: Sequence[int | Layers | None],
        tokens: Sequence[int],
    ) -> torch.Tensor:
        """Let R rows go on by one token each; returns the states (R, C) after it.

        A row is of a slot, has a length, the number of tokens sampled before this one, and a parent: the row of the
        last step that has them, saved keys and values, or None where there are none yet.
        """
        ...

    def save(self, row: int, length: int) -> Layers:
        """Keys and values of a row's first tokens."""
        ...

    def save_prefix(self, ids: list[int], slot: int, sampled: Layers) -> Prefix:
        """A slot's prompt and the tokens sampled behind it, for prompts that go on from there."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) of states (R, C)."""
        ...

    def slot_bytes(self, num_tokens: int) -> int:
        """Memory that a prompt of some length takes."""
        ...


def make_decoder(model: Any) -> Decoder | None:
    """The fastest decoder that the architecture allows; call once, it may switch the attention implementation.

    None for models whose state is more than keys and values, such as Mamba: only their own generate knows it.
    """
    if getattr(model, "_is_stateful", False):
        return None
    layer_types = getattr(model.config, "layer_types", None) or ["full_attention"]
    sliding = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    if model.config.model_type in SHARED_PREFIX_MODELS and {*layer_types} == {"full_attention"} and not sliding:
        model.set_attn_implementation(ATTENTION)
        return SharedPrefixDecoder(model)
    return ExpandedDecoder(model)


class SharedPrefixDecoder:
    """For architectures on the attention interface: each prompt is prefilled once and stored once."""

    can_refill = True

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        num_layers, num_heads = config.num_hidden_layers, config.num_key_value_heads
        self.cache = SharedPrefixCache(num_layers, num_heads, head_dim, model.dtype, model.device)
        self.token_bytes: int = 2 * num_layers * num_heads * head_dim * model.dtype.itemsize
        """Keys and values of a token."""
        self.prefill_tokens: int
        """In one forward pass, as reserve has found."""

    def reserve(self, num_slots: int, num_tokens: int, max_bytes: float) -> None:
        """See Decoder."""
        self.cache.reserve(num_slots, num_tokens, int(max_bytes // self.slot_bytes(num_tokens)))
        # What is prefilled stands beside the slots until it is copied into them.
        self.prefill_tokens = min(PREFILL_TOKENS[self.model.device.type], int(max_bytes / 4 // self.token_bytes))

    def add(self, slots: Sequence[int], prompts: Sequence[list[int]], known: Sequence[Prefix | None]) -> torch.Tensor:
        """Right padding and causal attention: no mask is needed, what follows a prompt's end is never looked at.

        Where every prompt has a known beginning, only the rest is computed.
        """
        device = self.model.device
        prefixes = [prefix for prefix in known if prefix is not None]
        shared = [prefix.num_shared(ids) for prefix, ids in zip(prefixes, prompts, strict=False)]
        if len(prefixes) < len(prompts) or min(shared) < MIN_SHARED_TOKENS:
            prefixes, shared = [], [0] * len(prompts)
        rests = [ids[num:] for ids, num in zip(prompts, shared, strict=True)]
        states = []
        start = 0
        for part in parts(rests, self.prefill_tokens):
            places = slice(start, start + len(part))
            start += len(part)
            lengths = torch.tensor([len(ids) for ids in part])
            ids_bp = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in part], batch_first=True)
            positions = torch.tensor(shared[places])[:, None] + torch.arange(ids_bp.shape[1])
            prefilled = DynamicCache()
            hidden = self.model.model(
                input_ids=ids_bp.to(device),
                position_ids=positions.to(device),
                past_key_values=prefilled,
                use_cache=True,
                **({"beginnings": Beginnings(prefixes[places], shared[places])} if prefixes else {}),
            ).last_hidden_state
            states.append(hidden[torch.arange(len(part), device=device), lengths.to(device) - 1])
            self.cache.add(slots[places], prefilled, prefixes[places], shared[places], lengths.tolist())
        return torch.cat(states)

    def remove(self, slot: int) -> None:
        """See Decoder."""
        self.cache.remove(slot)

    def clear(self) -> None:
        """See Decoder."""
        self.cache.clear()

    def step(
        self,
        slots: Sequence[int],
        lengths: Sequence[int],
        parents: Sequence[int | Layers | None],
        tokens: Sequence[int],
    ) -> torch.Tensor:
        """See Decoder."""
        self.cache.arrange(slots, lengths, parents)
        hidden: torch.Tensor = self.model.model(
            input_ids=torch.tensor(tokens, device=self.model.device)[:, None],
            position_ids=self.cache.rows.positions[:, None],
            past_key_values=self.cache,
            shared_prefix=self.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, 0]

    def save(self, row: int, length: int) -> Layers:
        """See Decoder."""
        return self.cache.save(row, length)

    def save_prefix(self, ids: list[int], slot: int, sampled: Layers) -> Prefix:
        """See Decoder."""
        return self.cache.save_prefix(ids, slot, sampled)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """See Decoder."""
        logits: torch.Tensor = self.model.lm_head(states)
        return logits

    def slot_bytes(self, num_tokens: int) -> int:
        """See Decoder."""
        return num_places(num_tokens) * self.token_bytes


class ExpandedDecoder:
    """For any other architecture with a cache of keys and values: prompts are prefilled once, then copied by row."""

    can_refill = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: DynamicCache
        self.mask: torch.Tensor
        """(R, tokens so far): which of them are padding."""
        self.row_slots: list[int] = []
        """Slot of each row of the last step; at first every slot has one."""

    def reserve(self, num_slots: int, num_tokens: int, max_bytes: float) -> None:
        """See Decoder: prompts take what they need."""

    def add(self, slots: Sequence[int], prompts: Sequence[list[int]], known: Sequence[Prefix | None]) -> torch.Tensor:
        """Left padding, so that every row goes on at the same place. Takes the place of all earlier prompts."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=self.model.device)
        self.mask = torch.tensor(
            [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=self.model.device
        )
        self.row_slots = list(slots)
        self.cache = DynamicCache(config=self.model.config)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._forward(ids, positions, logits_to_keep=1)

    def remove(self, slot: int) -> None:
        """See Decoder; its rows do not come in the next step."""

    def clear(self) -> None:
        """See Decoder; the next prompts take the place of all earlier ones."""

    def step(
        self,
        slots: Sequence[int],
        lengths: Sequence[int],
        parents: Sequence[int | Layers | None],
        tokens: Sequence[int],
    ) -> torch.Tensor:
        """See Decoder."""
        rows = [
            parent if isinstance(parent, int) else self.row_slots.index(slot)
            for slot, parent in zip(slots, parents, strict=True)
        ]
        if rows != list(range(len(self.row_slots))):
            indices = torch.tensor(rows, device=self.model.device)
            self.cache.batch_select_indices(indices)
            self.mask = self.mask[indices]
        self.row_slots = list(slots)
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=1)
        return self._forward(torch.tensor(tokens, device=self.model.device)[:, None], positions)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, **options: Any) -> torch.Tensor:
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **options,
        ).logits
        return logits[:, -1]

    def save(self, row: int, length: int) -> Layers:
        """See Decoder: not asked where can_refill is false."""
        raise NotImplementedError

    def save_prefix(self, ids: list[int], slot: int, sampled: Layers) -> Prefix:
        """See Decoder: not asked where can_refill is false."""
        raise NotImplementedError

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """The states are the logits: what a model does to them after its head is its own affair."""
        return states

    def slot_bytes(self, num_tokens: int) -> int:
        """See Decoder: not known for all architectures."""
        return 0


def parts(prompts: Sequence[list[int]], max_tokens: int) -> Iterator[Sequence[list[int]]]:
    """Runs of neighbouring prompts that, padded, have at most max_tokens tokens; a longer prompt comes alone."""
    start = longest = 0
    for end, ids in enumerate(prompts):
        longest = max(longest, len(ids))
        if end > start and longest * (end + 1 - start) > max_tokens:
            yield prompts[start:end]
            start, longest = end, len(ids)
    yield prompts[start:]
