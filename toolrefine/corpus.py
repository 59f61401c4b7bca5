"""Training examples: direct ones, and refinements of the model's own drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from toolrefine.config import CorpusConfig, PromptConfig
from toolrefine.matching import canonical_key
from toolrefine.selection import align
from toolrefine.types import Completion, Example, Group, Message, Outcome, Sample, Selected


class _Drafts(NamedTuple):
    """Distinct drafts of one sample, in the order in which to use them."""

    right: list[Completion]
    wrong: list[Completion]


def build_corpus(
    pool: Sequence[Sample],
    selected: Sequence[Selected],
    groups: Sequence[Group],
    config: CorpusConfig,
    prompt: PromptConfig,
    *,
    seed: int,
) -> list[Example]:
    """Build one direct example per selected sample, and up to config.refine_per_sample refinement examples.

    A refinement example shows one of the model's own completions as a draft and learns the gold target, or the draft's
    own calls where they are right but not the gold ones. The drafts of a sample are distinct, or its greedy answer
    alone where the group has one; a completion cut off at the token limit is none. Over the corpus
    config.right_draft_share of the drafts are right already (A1 = A in arXiv 2504.01400), rounded to one example: where
    the samples leave a choice between right and wrong drafts it is made to that end, and where they do not, examples of
    the kind that there is too much of are left out. The seed decides which.

    Raises:
        ValueError: a selected sample is not in the pool, or has no group of completions.
    """
    by_id = {sample.id: sample for sample in pool}
    unknown = [item.sample_id for item in selected if item.sample_id not in by_id]
    if unknown:
        raise ValueError(f"{len(unknown)} selected samples are not in the pool, such as {unknown[0]}")
    samples = [by_id[item.sample_id] for item in selected]
    drafts = [_shuffled_drafts(group, seed) for group in align(samples, groups)]
    examples = []
    for sample, chosen in zip(samples, _choose(drafts, config, seed), strict=True):
        examples.append(_direct(sample, prompt))
        labelled = [(draft, True) for draft in chosen.right] + [(draft, False) for draft in chosen.wrong]
        for index, (draft, is_right) in enumerate(labelled):
            examples.append(
                Example(
                    id=f"{sample.id}/refine/{index}",
                    sample_id=sample.id,
                    kind="refine",
                    draft_correct=is_right,
                    messages=refine_messages(sample.messages, draft, prompt),
                    tools=sample.tools,
                    target=refined_target(sample, draft, prompt) if is_right else training_target(sample, prompt),
                )
            )
    return examples


def direct_corpus(pool: Sequence[Sample], prompt: PromptConfig) -> list[Example]:
    """Build the corpus of plain SFT: one direct example per sample."""
    return [_direct(sample, prompt) for sample in pool]


def refine_messages(
    messages: Sequence[Message], draft: Completion, prompt: PromptConfig, violation: str = ""
) -> tuple[Message, ...]:
    """Append a draft and the turn that asks to refine it; what stands before is left as it is.

    violation is what is wrong with the draft, where that is to be said.
    """
    request = f"{violation} {prompt.refine}" if violation else prompt.refine
    return (*messages, draft.as_message(), Message(role="user", content=request))


def training_target(sample: Sample, prompt: PromptConfig) -> Message:
    """Return the turn to learn: the gold one, with prompt.no_call_text where it says nothing that is to be learned."""
    if sample.target.tool_calls or (prompt.own_replies and sample.target.content.strip()):
        return sample.target
    return Message(role="assistant", content=prompt.no_call_text)


def refined_target(sample: Sample, draft: Completion, prompt: PromptConfig) -> Message:
    """Return the turn to learn after a right draft: the gold one, with the draft's calls where they are others.

    An alternative value is right too, and so is a default, said or left out: none of them is to be changed.
    """
    target = training_target(sample, prompt)
    if canonical_key(draft.calls) == canonical_key(target.tool_calls):
        return target
    return target.model_copy(update={"tool_calls": draft.calls})


def _direct(sample: Sample, prompt: PromptConfig) -> Example:
    return Example(
        id=f"{sample.id}/direct",
        sample_id=sample.id,
        kind="direct",
        messages=sample.messages,
        tools=sample.tools,
        target=training_target(sample, prompt),
    )


def _shuffled_drafts(group: Group, seed: int) -> _Drafts:
    """Return the greedy draft, or the distinct completions, shuffled: a frequent one tends to come first."""
    scored = list(zip(group.completions, group.scores, strict=True))
    Random(f"drafts/{seed}/{group.sample_id}").shuffle(scored)
    if group.greedy is not None and group.greedy_score is not None:
        scored = [(group.greedy, group.greedy_score)]
    seen = set()
    drafts = _Drafts(right=[], wrong=[])
    for completion, score in scored:
        key = (completion.outcome, canonical_key(completion.calls) or completion.text)
        if completion.outcome is not Outcome.TRUNCATED and key not in seen:
            seen.add(key)
            (drafts.right if score.correct else drafts.wrong).append(completion)
    return drafts


def _choose(drafts: Sequence[_Drafts], config: CorpusConfig, seed: int) -> list[_Drafts]:
    """Choose as many drafts of each sample as config allows while config.right_draft_share holds over all."""
    share = config.right_draft_share
    # Start with as many wrong drafts as there may be, then swap for right ones, one at a time.
    num_wrong = [min(len(each.wrong), config.refine_per_sample) for each in drafts]
    num_right = [
        min(len(each.right), config.refine_per_sample - wrong) for each, wrong in zip(drafts, num_wrong, strict=True)
    ]
    swaps = [
        index
        for index, each in enumerate(drafts)
        for _ in range(min(num_wrong[index], len(each.right) - num_right[index]))
    ]
    random = Random(f"shares/{seed}")
    random.shuffle(swaps)
    wanted = round(share * (sum(num_right) + sum(num_wrong)))
    for index in swaps[: max(0, wanted - sum(num_right))]:
        num_right[index] += 1
        num_wrong[index] -= 1
    _leave_out(num_right, _most(sum(num_wrong), share), random)
    _leave_out(num_wrong, _most(sum(num_right), 1.0 - share), random)
    return [
        _Drafts(right=each.right[:right], wrong=each.wrong[:wrong])
        for each, right, wrong in zip(drafts, num_right, num_wrong, strict=True)
    ]


def _most(num_others: int, share: float) -> float:
    """Return how many drafts of one kind may stand beside those of the other kind, rounded up."""
    return math.ceil(num_others * share / (1.0 - share)) if share < 1.0 else math.inf


def _leave_out(counts: list[int], most: float, random: Random) -> None:
    """Lower the counts until they sum to most."""
    taken = [index for index, count in enumerate(counts) for _ in range(count)]
    random.shuffle(taken)
    for index in taken[: max(0, len(taken) - int(min(most, len(taken))))]:
        counts[index] -= 1
