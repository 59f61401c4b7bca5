"""Decoding n completions a prompt without computing or storing the prompt n times.

Shapes: B prompts, n completions each, R = B n rows (row b n + i is completion i of prompt b), P prompt tokens, S
sampled tokens, H key-value heads, G query heads for each of them, D head size, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, Cache, DynamicCache

ATTENTION = "toolrefine_shared_prefix"

SHARED_PREFIX_MODELS = {"llama", "mistral", "qwen2", "qwen3"}
"""model_type of the architectures whose attention is known to pass its keyword arguments on."""

PREFILL_TOKENS = defaultdict(lambda: 65_536, cpu=2_048)
"""Prompt tokens in one forward pass, by type of device: what a CPU's caches hold (128 prompts at once were measured two
to three times slower a token), and what keeps a GPU busy without filling its memory."""


class Decoder(Protocol):
    """Prefills once, then steps all rows together."""

    def prefill(self, prompts: list[list[int]], n: int) -> torch.Tensor:
        """Logits (B, V) after each prompt."""
        ...

    def step(self, tokens_r: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) after one more token a row."""
        ...

    def keep(self, prompts_b: torch.Tensor) -> None:
        """Go on with these prompts (indices) and their rows only."""
        ...


def make_decoder(model: Any) -> Decoder:
    """The fastest decoder that the architecture allows; call once, it may switch the attention implementation."""
    layer_types = getattr(model.config, "layer_types", None) or ["full_attention"]
    sliding = getattr(model.config, "sliding_window", None) and getattr(model.config, "use_sliding_window", True)
    if model.config.model_type in SHARED_PREFIX_MODELS and {*layer_types} == {"full_attention"} and not sliding:
        model.set_attn_implementation(ATTENTION)
        return SharedPrefixDecoder(model)
    return ExpandedDecoder(model)


class SharedPrefixCache(Cache):
    """Keys and values of the prompts, once each, and growing buffers for what each row has sampled."""

    def __init__(self, lengths_b: torch.Tensor, n: int) -> None:
        """Room for prompts of these lengths; fill() writes them."""
        super().__init__(layers=[])
        self.num_prefix = int(lengths_b.max())
        self.prefix: list[tuple[torch.Tensor, torch.Tensor]] = []
        padding = torch.arange(self.num_prefix, device=lengths_b.device) >= lengths_b[:, None]
        self.bias = torch.zeros(padding.shape, device=lengths_b.device).masked_fill_(padding, -torch.inf)[:, None, None]
        self.n = n
        self.num_sampled = 0
        self.suffix: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fill(self, start: int, prompts: DynamicCache) -> None:
        """Copy the prefilled keys and values (b, H, p, D) of the prompts from `start` on.

        Keys are kept transposed: small products with a transposed view are several times slower on a CPU.
        """
        b, h, p, d = prompts.layers[0].keys.shape
        if not self.prefix:
            zeros, num_prompts = prompts.layers[0].keys.new_zeros, self.bias.shape[0]
            shapes = (num_prompts, h, d, self.num_prefix), (num_prompts, h, self.num_prefix, d)
            self.prefix = [(zeros(shapes[0]), zeros(shapes[1])) for _ in prompts.layers]
        for (keys, values), layer in zip(self.prefix, prompts.layers, strict=True):
            keys[start : start + b, :, :, :p] = layer.keys.transpose(2, 3)
            values[start : start + b, :, :p] = layer.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Append (R, H, 1, D) to a layer; returns all sampled so far, (R, H, S, D)."""
        if len(self.suffix) <= layer_idx:
            self.suffix.append((_buffer(key_states, 32), _buffer(value_states, 32)))
        keys, values = self.suffix[layer_idx]
        at = self.num_sampled
        if at == keys.shape[2]:
            keys, values = torch.cat([keys, _buffer(keys, at)], 2), torch.cat([values, _buffer(values, at)], 2)
            self.suffix[layer_idx] = keys, values
        keys[:, :, at] = key_states[:, :, 0]
        values[:, :, at] = value_states[:, :, 0]
        return keys[:, :, : at + 1], values[:, :, : at + 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Length of the longest row."""
        return self.num_prefix + self.num_sampled

    def keep(self, prompts_b: torch.Tensor) -> None:
        """Drop the other prompts and their rows."""
        rows = (prompts_b[:, None] * self.n + torch.arange(self.n, device=prompts_b.device)).flatten()
        self.prefix = [(keys[prompts_b], values[prompts_b]) for keys, values in self.prefix]
        self.suffix = [(keys[rows], values[rows]) for keys, values in self.suffix]
        self.bias = self.bias[prompts_b]


def parts(prompts: Sequence[list[int]], max_tokens: int) -> Iterator[Sequence[list[int]]]:
    """Runs of neighbouring prompts that, padded, have at most max_tokens tokens; a longer prompt comes alone."""
    start = longest = 0
    for end, ids in enumerate(prompts):
        longest = max(longest, len(ids))
        if end > start and longest * (end + 1 - start) > max_tokens:
            yield prompts[start:end]
            start, longest = end, len(ids)
    yield prompts[start:]


def _buffer(like: torch.Tensor, length: int) -> torch.Tensor:
    return like.new_empty((like.shape[0], like.shape[1], length, like.shape[3]))


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: SharedPrefixCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of n rows a prompt over the prompt's one copy of keys and values, and over what each row sampled.

    query (R, H G, 1, D), key and value (R, H, S, D). The n G queries of a prompt are stacked, so that the prefix takes
    one product a head. Without a shared prefix this is plain causal attention: the prefill.
    """
    if shared_prefix is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2), None
    prefix_keys, prefix_values = shared_prefix.prefix[module.layer_idx]
    b, h, d, p = prefix_keys.shape
    n, s = shared_prefix.n, key.shape[2]
    g = query.shape[1] // h
    query = query.view(b, n, h, g, d) * (d**-0.5 if scaling is None else scaling)
    stacked = query.transpose(1, 2).reshape(b, h, n * g, d)
    prefix_scores = (stacked @ prefix_keys).float() + shared_prefix.bias
    suffix_scores = query.reshape(b * n, h, g, d) @ key.transpose(2, 3)
    suffix_scores = suffix_scores.view(b, n, h, g, s).transpose(1, 2).reshape(b, h, n * g, s).float()
    weights = torch.cat([prefix_scores, suffix_scores], dim=-1).softmax(dim=-1).to(value.dtype)
    suffix_weights = weights[..., p:].view(b, h, n, g, s).transpose(1, 2).reshape(b * n, h, g, s)
    out = (weights[..., :p] @ prefix_values).view(b, h, n, g, d).transpose(1, 2) + (suffix_weights @ value).view(
        b, n, h, g, d
    )
    return out.reshape(b * n, 1, h * g, d), None


AttentionInterface.register(ATTENTION, shared_prefix_attention)


class SharedPrefixDecoder:
    """For architectures on the attention interface: each prompt is prefilled once and stored once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: SharedPrefixCache
        self.lengths_b: torch.Tensor

    def prefill(self, prompts: list[list[int]], n: int) -> torch.Tensor:
        """Right padding and causal attention: no mask is needed, what follows a prompt's end is never looked at."""
        device = self.model.device
        self.lengths_b = torch.tensor([len(ids) for ids in prompts], device=device)
        self.cache = SharedPrefixCache(self.lengths_b, n)
        logits: list[torch.Tensor] = []
        start = 0
        for part in parts(prompts, PREFILL_TOKENS[device.type]):
            ends = self.lengths_b[start : start + len(part)] - 1
            ids_bp = torch.zeros((len(part), max(map(len, part))), dtype=torch.long)
            for row, ids in enumerate(part):
                ids_bp[row, : len(ids)] = torch.tensor(ids)
            prefilled = DynamicCache()
            hidden = self.model.model(
                input_ids=ids_bp.to(device), past_key_values=prefilled, use_cache=True
            ).last_hidden_state
            logits.append(self.model.lm_head(hidden[torch.arange(len(part), device=device), ends]))
            self.cache.fill(start, prefilled)
            start += len(part)
        return torch.cat(logits)

    def step(self, tokens_r: torch.Tensor) -> torch.Tensor:
        """See Decoder."""
        positions = self.lengths_b.repeat_interleave(self.cache.n) + self.cache.num_sampled
        logits: torch.Tensor = self.model(
            input_ids=tokens_r[:, None],
            position_ids=positions[:, None],
            past_key_values=self.cache,
            shared_prefix=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.cache.num_sampled += 1
        return logits

    def keep(self, prompts_b: torch.Tensor) -> None:
        """See Decoder."""
        self.lengths_b = self.lengths_b[prompts_b]
        self.cache.keep(prompts_b)


class ExpandedDecoder:
    """For any other architecture: each prompt is prefilled once, then its cache is copied n times."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: DynamicCache
        self.mask: torch.Tensor
        self.n = 1

    def prefill(self, prompts: list[list[int]], n: int) -> torch.Tensor:
        """Left padding, so that every row goes on at the same place."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=self.model.device)
        self.mask = torch.tensor(
            [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=self.model.device
        )
        self.n = n
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache = DynamicCache(config=self.model.config)
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if n > 1:
            self.cache.batch_repeat_interleave(n)
        self.mask = self.mask.repeat_interleave(n, dim=0)
        return logits

    def step(self, tokens_r: torch.Tensor) -> torch.Tensor:
        """See Decoder."""
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=1)
        logits: torch.Tensor = self.model(
            input_ids=tokens_r[:, None],
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return logits

    def keep(self, prompts_b: torch.Tensor) -> None:
        """See Decoder."""
        rows = (prompts_b[:, None] * self.n + torch.arange(self.n, device=prompts_b.device)).flatten()
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
