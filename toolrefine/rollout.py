"""Rollouts: k scored completions of every sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from toolrefine.config import MatchingConfig, RolloutConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import EXACT, score
from toolrefine.types import Completion, Group, Prompt, Sample

T = TypeVar("T")


def rollout(
    skip: int,
    chunk_size: int,
    engine: Engine,
    pool: Sequence[Sample],
    config: RolloutConfig,
    matching: MatchingConfig = EXACT,
    *,
    seed: int,
    in_waves: bool = False,
) -> Iterator[list[Group]]:
    """Yield the groups of pool[skip:], chunk_size samples at a time, in the order of the pool.

    With in_waves a sample ends with the first wave of completions that solves it: the group is smaller then, but holds
    a correct completion if and only if all k would.
    """
    params = SamplingParams(
        temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens, seed=seed
    )
    for chunk in chunks(pool[skip:], chunk_size):

        def solves(place: int, index: int, completion: Completion, chunk: Sequence[Sample] = chunk) -> bool:
            return score(completion, chunk[place], matching).correct

        prompts = [to_prompt(sample) for sample in chunk]
        answers = engine.sample(prompts, config.k, params, solves if in_waves else None)
        yield [
            Group(
                sample_id=sample.id, completions=tuple(group), scores=tuple(score(c, sample, matching) for c in group)
            )
            for sample, group in zip(chunk, answers, strict=True)
        ]


def to_prompt(sample: Sample) -> Prompt:
    """What the model gets to see of a sample."""
    return Prompt(id=sample.id, messages=sample.messages, tools=sample.tools)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most size items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
