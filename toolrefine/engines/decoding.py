"""Decoding n completions a prompt without computing or storing the prompt n times.

Shapes: B prompts, n completions each, R = B n rows (row b n + i is completion i of prompt b), P prompt tokens, S
sampled tokens, H key-value heads, G query heads for each of them, D head size, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from transformers import AttentionInterface, Cache, DynamicCache

ATTENTION = "toolrefine_shared_prefix"

SHARED_PREFIX_MODELS = {"llama", "mistral", "qwen2", "qwen3"}
"""model_type of the architectures whose attention is known to pass its keyword arguments on."""

PREFILL_TOKENS = defaultdict(lambda: 65_536, cpu=2_048)
"""Prompt tokens in one forward pass, by type of device: what a CPU's caches hold (128 prompts at once were measured two
to three times slower a token), and what keeps a GPU busy without filling its memory."""


MIN_SHARED_TOKENS = 32
"""Shorter beginnings are not worth looking up."""


class Prefix(NamedTuple):
    """A prompt that has been prefilled."""

    ids: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    """For each layer keys (H, D, P) and values (H, P, D), where P may exceed the prompt."""

    def num_shared(self, ids: Sequence[int]) -> int:
        """How many tokens at the beginning of another prompt need no prefill; one at least is left to compute."""
        differ = (place for place, (a, b) in enumerate(zip(self.ids, ids, strict=False)) if a != b)
        return min(next(differ, min(len(self.ids), len(ids))), len(ids) - 1)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


class Decoder(Protocol):
    """Prefills once, then steps all rows together."""

    def prefill(self, prompts: list[list[int]], n: int, known: Sequence[Prefix | None] = ()) -> torch.Tensor:
        """Logits (B, V) after each prompt. known are prompts that begin like these, one for each, or none at all."""
        ...

    def prefixes(self) -> list[Prefix]:
        """What has just been prefilled, for prompts that will go on from it; before the first step. May be empty."""
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
        self._make_room(prompts)
        b, _, p, _ = prompts.layers[0].keys.shape
        for (keys, values), layer in zip(self.prefix, prompts.layers, strict=True):
            keys[start : start + b, :, :, :p] = layer.keys.transpose(2, 3)
            values[start : start + b, :, :p] = layer.values

    def extend(self, start: int, known: Sequence[Prefix], nums_shared: Sequence[int], rests: DynamicCache) -> None:
        """Copy the shared beginnings of the prompts from `start` on, and behind each its rest (b, H, t, D)."""
        self._make_room(rests)
        for row, (prefix, shared) in enumerate(zip(known, nums_shared, strict=True)):
            places = slice(shared, shared + rests.layers[0].keys.shape[2])
            for (keys, values), (old_keys, old_values), rest in zip(
                self.prefix, prefix.layers, rests.layers, strict=True
            ):
                room = keys[start + row, :, :, places].shape[-1]
                keys[start + row, :, :, :shared] = old_keys[:, :, :shared]
                values[start + row, :, :shared] = old_values[:, :shared]
                keys[start + row, :, :, places] = rest.keys[row, :, :room].transpose(1, 2)
                values[start + row, :, places] = rest.values[row, :, :room]

    def _make_room(self, like: DynamicCache) -> None:
        if not self.prefix:
            _, h, _, d = like.layers[0].keys.shape
            zeros, num_prompts = like.layers[0].keys.new_zeros, self.bias.shape[0]
            shapes = (num_prompts, h, d, self.num_prefix), (num_prompts, h, self.num_prefix, d)
            self.prefix = [(zeros(shapes[0]), zeros(shapes[1])) for _ in like.layers]

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
    beginnings: Beginnings | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of n rows a prompt over the prompt's one copy of keys and values, and over what each row sampled.

    query (R, H G, 1, D), key and value (R, H, S, D). The n G queries of a prompt are stacked, so that the prefix takes
    one product a head. Without a shared prefix this is plain causal attention: the prefill, of whole prompts or of what
    follows their known beginnings.
    """
    if beginnings is not None:
        return _attend_behind(beginnings, module.layer_idx, query, key, value, scaling), None
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


class Beginnings:
    """Known beginnings of some prompts, padded to one length C."""

    def __init__(self, known: Sequence[Prefix], nums_shared: Sequence[int]) -> None:
        longest, device = max(nums_shared), known[0].layers[0][0].device
        lengths_b = torch.tensor(nums_shared, device=device)
        padding = torch.arange(longest, device=device) >= lengths_b[:, None]
        self.bias = torch.zeros(padding.shape, device=device).masked_fill_(padding, -torch.inf)[:, None, None]
        self.layers = [
            (
                torch.stack([_padded(prefix.layers[layer][0], longest, 2) for prefix in known]),
                torch.stack([_padded(prefix.layers[layer][1], longest, 1) for prefix in known]),
            )
            for layer in range(len(known[0].layers))
        ]


def _padded(tensor: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """The first `length` places along a dimension, with zeros behind where there are fewer."""
    have = min(length, tensor.shape[dim])
    padding = list(tensor.shape)
    padding[dim] = length - have
    return torch.cat([tensor.narrow(dim, 0, have), tensor.new_zeros(padding)], dim)


def _attend_behind(
    beginnings: Beginnings,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Causal attention of T tokens a prompt over the prompt's known beginning and each other: (b, T, H G, D).

    query (b, H G, T, D), key and value (b, H, T, D).
    """
    known_keys, known_values = beginnings.layers[layer]
    b, h, t, d = key.shape
    g = query.shape[1] // h
    query = query.reshape(b, h, g * t, d) * (d**-0.5 if scaling is None else scaling)
    later = torch.ones((t, t), dtype=torch.bool, device=query.device).triu_(1).repeat(g, 1)
    scores = torch.cat(
        [
            (query @ known_keys).float() + beginnings.bias,
            (query @ key.transpose(2, 3)).float().masked_fill_(later, -torch.inf),
        ],
        dim=-1,
    )
    weights = scores.softmax(dim=-1).to(value.dtype)
    c = known_keys.shape[-1]
    out = weights[..., :c] @ known_values + weights[..., c:] @ value
    return out.view(b, h * g, t, d).transpose(1, 2)


AttentionInterface.register(ATTENTION, shared_prefix_attention)


class SharedPrefixDecoder:
    """For architectures on the attention interface: each prompt is prefilled once and stored once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: SharedPrefixCache
        self.prompts: list[list[int]]
        self.lengths_b: torch.Tensor

    def prefill(self, prompts: list[list[int]], n: int, known: Sequence[Prefix | None] = ()) -> torch.Tensor:
        """Right padding and causal attention: no mask is needed, what follows a prompt's end is never looked at.

        Where every prompt has a known beginning, only the rest is computed.
        """
        device = self.model.device
        self.prompts = prompts
        self.lengths_b = torch.tensor([len(ids) for ids in prompts], device=device)
        self.cache = SharedPrefixCache(self.lengths_b, n)
        prefixes = [prefix for prefix in known if prefix is not None]
        shared = [prefix.num_shared(ids) for prefix, ids in zip(prefixes, prompts, strict=False)]
        if len(prefixes) < len(prompts) or min(shared) < MIN_SHARED_TOKENS:
            prefixes, shared = [], [0] * len(prompts)
        logits: list[torch.Tensor] = []
        start = 0
        rests = [ids[num:] for ids, num in zip(prompts, shared, strict=True)]
        for part in parts(rests, PREFILL_TOKENS[device.type]):
            places = slice(start, start + len(part))
            ids_bp = torch.zeros((len(part), max(map(len, part))), dtype=torch.long)
            for row, ids in enumerate(part):
                ids_bp[row, : len(ids)] = torch.tensor(ids)
            positions = torch.tensor(shared[places])[:, None] + torch.arange(ids_bp.shape[1])
            beginnings = {"beginnings": Beginnings(prefixes[places], shared[places])} if prefixes else {}
            prefilled = DynamicCache()
            hidden = self.model.model(
                input_ids=ids_bp.to(device),
                position_ids=positions.to(device),
                past_key_values=prefilled,
                use_cache=True,
                **beginnings,
            ).last_hidden_state
            ends = torch.tensor([len(ids) - 1 for ids in part], device=device)
            logits.append(self.model.lm_head(hidden[torch.arange(len(part), device=device), ends]))
            if prefixes:
                self.cache.extend(start, prefixes[places], shared[places], prefilled)
            else:
                self.cache.fill(start, prefilled)
            start += len(part)
        return torch.cat(logits)

    def prefixes(self) -> list[Prefix]:
        """See Decoder. They are views of this batch's tensors, which stay in memory with them."""
        return [
            Prefix(ids, [(keys[row], values[row]) for keys, values in self.cache.prefix])
            for row, ids in enumerate(self.prompts)
        ]

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

    def prefill(self, prompts: list[list[int]], n: int, known: Sequence[Prefix | None] = ()) -> torch.Tensor:
        """Left padding, so that every row goes on at the same place. Known prompts are computed anew."""
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

    def prefixes(self) -> list[Prefix]:
        """None: see Decoder."""
        return []

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
