"""Which samples to train on, and which labels to doubt, from what the model can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolrefine.config import SelectionConfig
from toolrefine.difficulty import pass_at_k, pass_rate
from toolrefine.matching import majority
from toolrefine.types import Group, Sample, Selected, Suspect


def is_solvable(group: Group) -> bool:
    """Whether the model solves the sample at least once: pass@k > 0."""
    return group.num_correct > 0


def is_frontier(group: Group, config: SelectionConfig) -> bool:
    """Whether the model solves the sample, but not yet as often as config.mastered_rate."""
    return is_solvable(group) and pass_rate(group) < config.mastered_rate


def contradiction(group: Group, config: SelectionConfig) -> tuple[int, int] | None:
    """The answer by which the model contradicts a label that it never gives: its place, and how many give it.

    None where the label is not to be doubted. It is where enough completions agree on that answer, and where the model
    believes in it and finds it far likelier. Answers agree when they are the same calls, or both make none; one that
    cannot be read or was cut off counts among the completions, but agrees with nothing.
    """
    if is_solvable(group):
        return None
    found = majority(group.completions)
    if found is None:
        return None
    has_agreed = found[1] / group.n >= config.suspect_agreement
    has_doubts = (
        group.doubt is not None
        and group.rival_logprob is not None
        and group.doubt >= config.suspect_doubt
        and group.rival_logprob >= config.suspect_min_logprob
    )
    return found if has_agreed or has_doubts else None


POLICIES: dict[str, Callable[[Group, SelectionConfig], bool]] = {
    "solvable": lambda group, config: is_solvable(group),
    "frontier": is_frontier,
    "unsuspected": lambda group, config: contradiction(group, config) is None,
    "all": lambda group, config: True,
}
"""SelectionConfig.policy -> whether to train on the sample of a group."""


def select(pool: Sequence[Sample], groups: Sequence[Group], config: SelectionConfig) -> list[Selected]:
    """Select the samples to train on, in the order of the pool.

    Raises:
        ValueError: a sample has no group, more than one, or an empty one.
    """
    groups = align(pool, groups)
    too_few = sum(map(is_solvable, groups)) < config.min_solvable * len(groups)
    is_wanted = POLICIES["all" if too_few else config.policy]
    return [
        Selected(
            sample_id=group.sample_id,
            n=group.n,
            num_correct=group.num_correct,
            pass_at_k=pass_at_k(group.n, group.num_correct, group.n),
            pass_rate=pass_rate(group),
        )
        for group in groups
        if is_wanted(group, config)
    ]


def find_suspects(pool: Sequence[Sample], groups: Sequence[Group], config: SelectionConfig) -> list[Suspect]:
    """Find the samples whose label the model contradicts, most agreed first.

    Raises:
        ValueError: a sample has no group, more than one, or an empty one.
    """
    suspects = [
        Suspect(
            sample_id=sample.id,
            label=sample.target,
            answer=group.completions[found[0]].as_message(),
            agreement=found[1] / group.n,
            doubt=group.doubt,
            meta=sample.meta,
        )
        for sample, group in zip(pool, align(pool, groups), strict=True)
        if (found := contradiction(group, config))
    ]
    return sorted(suspects, key=lambda suspect: (-suspect.agreement, -(suspect.doubt or 0.0)))


def align(pool: Sequence[Sample], groups: Sequence[Group]) -> list[Group]:
    """Return the group of each sample of a pool, in its order. Groups of other samples are passed over.

    Raises:
        ValueError: a sample has no group, more than one, or an empty one.
    """
    by_id: dict[str, Group] = {}
    for group in groups:
        if group.sample_id in by_id:
            raise ValueError(f"sample {group.sample_id} has more than one group of completions")
        if not group.n:
            raise ValueError(f"sample {group.sample_id} has no completions")
        by_id[group.sample_id] = group
    missing = [sample.id for sample in pool if sample.id not in by_id]
    if missing:
        raise ValueError(f"{len(missing)} of {len(pool)} samples have no group of completions, such as {missing[0]}")
    return [by_id[sample.id] for sample in pool]
