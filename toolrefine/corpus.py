"""The training corpus: direct examples, and refinement examples from the model's own drafts (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from toolrefine.config import CorpusConfig, PromptConfig
from toolrefine.selection import answer_key, pair
from toolrefine.types import Completion, Example, Group, Message, Sample, Selected


def build_corpus(
    pool: Sequence[Sample],
    selected: Sequence[Selected],
    groups: Sequence[Group],
    config: CorpusConfig,
    prompt: PromptConfig,
    *,
    seed: int,
) -> list[Example]:
    """One direct example a selected sample, and refinement examples whose drafts are right for a given share.

    Right drafts teach the model to leave a good call alone, which is what lets refinement stop. Of the kind of draft
    that there is too much of for config.right_draft_share, a random part is left out.

    Raises:
        ValueError: a selected sample has no group.
    """
    chosen = {s.sample_id for s in selected}
    samples = [sample for sample in pool if sample.id in chosen]
    direct = [direct_example(sample, prompt) for sample in samples]
    drafts = [
        (sample, number, draft, correct)
        for sample, group in pair(samples, groups)
        for number, (draft, correct) in enumerate(pick_drafts(group, config, Random(f"{seed}/{sample.id}")))
    ]
    kept = {id(entry) for entry in balance(drafts, config.right_draft_share, Random(f"{seed}/balance"))}
    refine = [
        Example(
            id=f"{sample.id}/refine/{number}",
            sample_id=sample.id,
            kind="refine",
            draft_correct=correct,
            messages=refine_messages(sample.messages, draft, prompt),
            tools=sample.tools,
            target=training_target(sample, prompt),
        )
        for entry in drafts
        if id(entry) in kept
        for sample, number, draft, correct in [entry]
    ]
    return direct + refine


def direct_corpus(pool: Sequence[Sample], prompt: PromptConfig) -> list[Example]:
    """Every sample as it is labelled: plain SFT."""
    return [direct_example(sample, prompt) for sample in pool]


def direct_example(sample: Sample, prompt: PromptConfig) -> Example:
    """The sample's prompt and its target."""
    return Example(
        id=f"{sample.id}/direct",
        sample_id=sample.id,
        kind="direct",
        messages=sample.messages,
        tools=sample.tools,
        target=training_target(sample, prompt),
    )


def training_target(sample: Sample, prompt: PromptConfig) -> Message:
    """The gold turn; one that says nothing at all gets prompt.no_call_text."""
    if sample.target.tool_calls or sample.target.content:
        return sample.target
    return Message(role="assistant", content=prompt.no_call_text)


def refine_messages(messages: Sequence[Message], draft: Completion, prompt: PromptConfig) -> tuple[Message, ...]:
    """The refinement prompt: the conversation, the draft as an assistant turn, the request to refine it."""
    return (*messages, draft.as_message(), Message(role="user", content=prompt.refine))


def pick_drafts(group: Group, config: CorpusConfig, rng: Random) -> list[tuple[Completion, bool]]:
    """At most config.refine_per_sample different drafts, right and wrong ones alternating where there are both."""
    seen: set[str] = set()
    right: list[Completion] = []
    wrong: list[Completion] = []
    for completion, score in zip(group.completions, group.scores, strict=True):
        key = answer_key(completion) or completion.text
        if completion.num_tokens and key not in seen:
            seen.add(key)
            (right if score.correct else wrong).append(completion)
    rng.shuffle(right)
    rng.shuffle(wrong)
    picked: list[tuple[Completion, bool]] = []
    while (right or wrong) and len(picked) < config.refine_per_sample:
        take_right = bool(right) and (not wrong or rng.random() < config.right_draft_share)
        picked.append(((right if take_right else wrong).pop(), take_right))
    return picked


def balance(
    drafts: Sequence[tuple[Sample, int, Completion, bool]], right_share: float, rng: Random
) -> list[tuple[Sample, int, Completion, bool]]:
    """The largest random subset in which the given share of drafts is right, to within one draft."""
    right = [entry for entry in drafts if entry[3]]
    wrong = [entry for entry in drafts if not entry[3]]
    rng.shuffle(right)
    rng.shuffle(wrong)
    if right_share < 1.0:
        right = right[: round(len(wrong) * right_share / (1.0 - right_share))]
    if right_share > 0.0:
        wrong = wrong[: round(len(right) * (1.0 - right_share) / right_share)]
    return [entry for entry in (*right, *wrong) if entry[3] or right_share < 1.0]
