"""Rollouts: k scored completions of every sample."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from toolrefine.config import MatchingConfig, RolloutConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.errors import RequestError
from toolrefine.matching import EXACT, majority, score
from toolrefine.types import Completion, Group, Message, Prompt, Sample, ToolCall

T = TypeVar("T")
log = logging.getLogger(__name__)


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
    with_greedy: bool = False,
) -> Iterator[list[Group]]:
    """Yield the groups of pool[skip:], chunk_size samples at a time, in the order of the pool.

    With in_waves a sample ends with the first wave of completions that solves it: the group is smaller then, but holds
    a correct completion if and only if all k would. Under config.score_labels groups tell how much the label is to be
    doubted, as long as the engine can score. With with_greedy they hold the greedy answer beside the k.
    """
    can_score = config.score_labels
    params = SamplingParams(
        temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens, seed=seed
    )
    for chunk in chunks(pool[skip:], chunk_size):

        def solves(place: int, index: int, completion: Completion, chunk: Sequence[Sample] = chunk) -> bool:
            return score(completion, chunk[place], matching).correct

        prompts = [to_prompt(sample) for sample in chunk]
        answers = engine.sample(prompts, config.k, params, solves if in_waves else None)
        groups = [
            Group(
                sample_id=sample.id, completions=tuple(group), scores=tuple(score(c, sample, matching) for c in group)
            )
            for sample, group in zip(chunk, answers, strict=True)
        ]
        if with_greedy:
            drafts = engine.sample(prompts, 1, params.model_copy(update={"temperature": 0.0}))
            groups = [
                group.model_copy(update={"greedy": draft, "greedy_score": score(draft, sample, matching)})
                for group, sample, [draft] in zip(groups, chunk, drafts, strict=True)
            ]
        if can_score:
            try:
                groups = with_doubts(engine, prompts, chunk, groups)
            except RequestError as error:
                log.warning("labels are not scored, and doubted by the completions' agreement alone: %s", error)
                can_score = False
        yield groups
        engine.forget()


def with_doubts(
    engine: Engine, prompts: Sequence[Prompt], samples: Sequence[Sample], groups: Sequence[Group]
) -> list[Group]:
    """The groups with Group.doubt and rival_logprob, where they apply.

    Raises:
        RequestError: the engine cannot score.
    """
    rivals = {place: calls for place, pair in enumerate(zip(samples, groups, strict=True)) if (calls := rival(*pair))}
    turns = [
        (prompts[place], Message(role="assistant", tool_calls=each))
        for place, calls in rivals.items()
        for each in (calls, samples[place].target.tool_calls)
    ]
    scores = iter(engine.score([prompt for prompt, _ in turns], [turn for _, turn in turns]) if turns else ())
    doubts: dict[int, dict[str, float]] = {}
    for place in rivals:
        of_rival, of_label = next(scores), next(scores)
        if math.isfinite(of_rival) and math.isfinite(of_label):
            doubts[place] = {"doubt": of_rival - of_label, "rival_logprob": of_rival}
    return [group.model_copy(update=doubts.get(place)) for place, group in enumerate(groups)]


def rival(sample: Sample, group: Group) -> tuple[ToolCall, ...]:
    """The calls that most completions make where none makes those of the label; none where one of both makes none."""
    if group.num_correct or not sample.target.tool_calls:
        return ()
    found = majority(group.completions)
    return group.completions[found[0]].calls if found else ()


def to_prompt(sample: Sample) -> Prompt:
    """What the model gets to see of a sample."""
    return Prompt(id=sample.id, messages=sample.messages, tools=sample.tools)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most size items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
