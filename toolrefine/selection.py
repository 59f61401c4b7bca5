"""Model-aware selection (arXiv 2504.01400, section 3.1): train on what the model can currently solve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from toolrefine.config import SelectionConfig
from toolrefine.difficulty import pass_at_k, pass_rate
from toolrefine.matching import canonical_key
from toolrefine.types import Completion, Group, Outcome, Sample, Selected, Suspect


def is_solvable(group: Group) -> bool:
    """pass@k > 0: at least one completion is correct."""
    return group.num_correct > 0


def solvable(group: Group, config: SelectionConfig) -> bool:
    """What the model can solve at least once."""
    return is_solvable(group)


def frontier(group: Group, config: SelectionConfig) -> bool:
    """What the model can solve, but has not mastered."""
    return is_solvable(group) and pass_rate(group) < config.mastered_rate


def everything(group: Group, config: SelectionConfig) -> bool:
    """All samples: plain SFT."""
    return True


POLICIES: dict[str, Callable[[Group, SelectionConfig], bool]] = {
    "solvable": solvable,
    "frontier": frontier,
    "all": everything,
}


def select(pool: Sequence[Sample], groups: Sequence[Group], config: SelectionConfig) -> list[Selected]:
    """The samples that the policy keeps, in the order of the pool.

    Raises:
        ValueError: a sample has no group.
    """
    policy = POLICIES[config.policy]
    return [
        Selected(
            sample_id=group.sample_id,
            n=group.n,
            num_correct=group.num_correct,
            pass_at_k=pass_at_k(group.n, group.num_correct, group.n),
            pass_rate=pass_rate(group),
        )
        for _, group in pair(pool, groups)
        if policy(group, config)
    ]


def find_suspects(pool: Sequence[Sample], groups: Sequence[Group], config: SelectionConfig) -> list[Suspect]:
    """Samples whose label is suspect: the model agrees with itself on another answer, most agreed first.

    Raises:
        ValueError: a sample has no group.
    """
    suspects = [
        Suspect(
            sample_id=sample.id,
            label=sample.target,
            answer=answer.as_message(),
            agreement=count / group.n,
            meta=sample.meta,
        )
        for sample, group in pair(pool, groups)
        for answer, count, correct in [most_frequent_answer(group)]
        if answer is not None and not correct and count / group.n >= config.suspect_agreement
    ]
    return sorted(suspects, key=lambda suspect: -suspect.agreement)


def most_frequent_answer(group: Group) -> tuple[Completion | None, int, bool]:
    """(a completion that gives it, how many do, whether it is correct); unreadable completions agree on nothing."""
    keys = [answer_key(completion) for completion in group.completions]
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return None, 0, False
    key, count = counts.most_common(1)[0]
    first = keys.index(key)
    return group.completions[first], count, group.scores[first].correct


def answer_key(completion: Completion) -> str | None:
    """Equal for completions that say the same; None where it cannot be read."""
    if completion.outcome in (Outcome.MALFORMED, Outcome.TRUNCATED):
        return None
    return canonical_key(completion.calls)


def pair(pool: Sequence[Sample], groups: Sequence[Group]) -> list[tuple[Sample, Group]]:
    """Each sample with its group.

    Raises:
        ValueError: a sample has no group.
    """
    by_id = {group.sample_id: group for group in groups}
    missing = [sample.id for sample in pool if sample.id not in by_id]
    if missing:
        raise ValueError(f"no group for {len(missing)} of {len(pool)} samples, such as {missing[0]}")
    return [(sample, by_id[sample.id]) for sample in pool]
