"""Log-probabilities of given tokens behind prompts, without sampling.

Shapes: b sequences, p tokens of the longest, A tokens that are scored, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from toolrefine.engines.attention import Beginnings, Prefix, num_common
from toolrefine.engines.decoding import MIN_SHARED_TOKENS, PREFILL_TOKENS, SharedPrefixDecoder, parts

HEAD_TOKENS = 1024
"""Tokens whose logits are in memory at once: one row takes half a megabyte where the vocabulary has 128 k tokens."""


class Given(NamedTuple):
    """A prompt and its answer."""

    ids: list[int]
    start: int
    """Where the answer begins; 2 at least."""


class Family(NamedTuple):
    """Sequences that begin alike."""

    members: list[int]
    num_shared: int
    """Tokens; of every member one at least is left before its answer."""


@torch.inference_mode()
def logprobs_of(model: Any, decoder: Any, given: Sequence[Given], max_bytes: float) -> list[float]:
    """The summed natural log-probability of each answer, in float32; what sequences begin with is computed once.

    The keys and values of what they begin with take at most max_bytes, but those of one sequence always.
    """
    if not given:
        return []
    if isinstance(decoder, SharedPrefixDecoder):
        return _score_families(model, given, int(max_bytes // decoder.token_bytes))
    # Padding could leave its mark in a state that is more than keys and values.
    max_tokens = PREFILL_TOKENS[model.device.type] if decoder is not None else 0
    scores: list[float] = []
    for part in parts([each.ids for each in given], max_tokens):
        scores += _score_padded(model, given[len(scores) : len(scores) + len(part)], is_padded=decoder is not None)
    return scores


def _score_families(model: Any, given: Sequence[Given], most_kept: int) -> list[float]:
    """most_kept is how many tokens' keys and values may be in memory: of beginnings half, of their copies half."""
    scores = [0.0] * len(given)
    found = list(families(given))
    heads = [given[each.members[0]].ids[: each.num_shared] for each in found]
    max_tokens = PREFILL_TOKENS[model.device.type]
    done = 0
    for part in parts(heads, min(max_tokens, most_kept // 2)):
        owners: list[tuple[int, Prefix]] = []
        for family, prefix in zip(found[done : done + len(part)], _prefill(model, part), strict=True):
            owners += [(member, prefix) for member in family.members]
        done += len(part)
        for places in _together(given, owners, max_tokens, most_kept // 2):
            values = _score_behind(model, [given[member] for member, _ in places], [prefix for _, prefix in places])
            for (member, _), value in zip(places, values, strict=True):
                scores[member] = value
    return scores


def _together(
    given: Sequence[Given], owners: Sequence[tuple[int, Prefix]], max_tokens: int, most_copied: int
) -> Iterator[Sequence[tuple[int, Prefix]]]:
    """Runs of neighbours that, padded, have at most max_tokens behind their beginnings, and most_copied in these."""
    start = 0
    for copies in parts([prefix.ids for _, prefix in owners], most_copied):
        of_copies = owners[start : start + len(copies)]
        for rests in parts([given[member].ids[len(prefix.ids) :] for member, prefix in of_copies], max_tokens):
            yield owners[start : start + len(rests)]
            start += len(rests)


def families(given: Sequence[Given]) -> Iterator[Family]:
    """Groups of sequences that share most of their prompts."""
    members: list[int] = []
    shared = 0
    for place in sorted(range(len(given)), key=lambda place: given[place].ids):
        ids, start = given[place]
        if members:
            common = min(shared, num_common(given[members[0]].ids, ids), start - 1)
            if common >= max(MIN_SHARED_TOKENS, shared / 2):
                members.append(place)
                shared = common
                continue
            yield Family(members, shared)
        members, shared = [place], start - 1
    if members:
        yield Family(members, shared)


def _prefill(model: Any, heads: Sequence[list[int]]) -> list[Prefix]:
    """Right padding and causal attention: no mask is needed."""
    ids_bp = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in heads], batch_first=True).to(model.device)
    cache = DynamicCache()
    model.model(input_ids=ids_bp, past_key_values=cache, use_cache=True)
    return [
        Prefix(ids, [(layer.keys[row].transpose(1, 2), layer.values[row]) for layer in cache.layers])
        for row, ids in enumerate(heads)
    ]


def _score_behind(model: Any, given: Sequence[Given], prefixes: Sequence[Prefix]) -> list[float]:
    shared = [len(prefix.ids) for prefix in prefixes]
    rests = [torch.tensor(each.ids[num:]) for each, num in zip(given, shared, strict=True)]
    ids_bp = torch.nn.utils.rnn.pad_sequence(rests, batch_first=True).to(model.device)
    positions = torch.tensor(shared)[:, None] + torch.arange(ids_bp.shape[1])
    hidden = model.model(
        input_ids=ids_bp,
        position_ids=positions.to(model.device),
        past_key_values=DynamicCache(),
        use_cache=True,
        beginnings=Beginnings(prefixes, shared),
    ).last_hidden_state
    picked = [
        hidden[row, each.start - 1 - num : len(each.ids) - 1 - num]
        for row, (each, num) in enumerate(zip(given, shared, strict=True))
    ]
    tokens_a = torch.tensor([token for each in given for token in each.ids[each.start :]], device=model.device)
    logprobs = [
        _pick(model.lm_head(states), tokens)
        for states, tokens in zip(
            torch.split(torch.cat(picked), HEAD_TOKENS), torch.split(tokens_a, HEAD_TOKENS), strict=True
        )
    ]
    return [part.sum().item() for part in torch.split(torch.cat(logprobs), [len(states) for states in picked])]


def _score_padded(model: Any, given: Sequence[Given], *, is_padded: bool) -> list[float]:
    """For any architecture: padding on the left, so that all answers end at the same place."""
    longest = max(len(each.ids) for each in given)
    ids_bp = torch.tensor([[0] * (longest - len(each.ids)) + each.ids for each in given], device=model.device)
    options = {}
    if is_padded:
        mask = torch.tensor(
            [[0] * (longest - len(each.ids)) + [1] * len(each.ids) for each in given], device=model.device
        )
        options = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    most = max(len(each.ids) - each.start for each in given)
    logits = model(input_ids=ids_bp, use_cache=False, logits_to_keep=most + 1, **options).logits
    return [
        _pick(row[most - num : most], torch.tensor(each.ids[each.start :], device=model.device)).sum().item()
        for row, each in zip(logits, given, strict=True)
        for num in [len(each.ids) - each.start]
    ]


def _pick(logits_av: torch.Tensor, tokens_a: torch.Tensor) -> torch.Tensor:
    logits_av = logits_av.float()
    return logits_av.gather(1, tokens_a[:, None])[:, 0] - logits_av.logsumexp(dim=-1)
