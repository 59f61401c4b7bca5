"""How hard a sample is for a model, from the number of its completions that are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from toolrefine.types import Group


def pass_at_k(n: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that at least one of k completions is right.

    1 - C(n - c, k) / C(n, k) for c right completions out of n (arXiv 2107.03374, equation 1), as a product because
    the binomials overflow.

    Raises:
        ValueError: unless 0 <= num_correct <= n and 1 <= k <= n.
    """
    if not 0 <= num_correct <= n:
        raise ValueError(f"num_correct must be between 0 and n = {n}, not {num_correct}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and n = {n}, not {k}")
    if n - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - num_correct + 1, n + 1))


def pass_rate(group: Group) -> float:
    """Return the share of a group's completions that are right, c/n.

    Raises:
        ValueError: the group is empty.
    """
    if not group.n:
        raise ValueError(f"group of sample {group.sample_id} has no completions")
    return group.num_correct / group.n


class Tally(NamedTuple):
    """What pass@k needs to know of a group."""

    n: int
    num_correct: int
    first_correct: int | None
    """Index of the first completion that is right."""


def tally(group: Group) -> Tally:
    """Count a group."""
    first = next((index for index, score in enumerate(group.scores) if score.correct), None)
    return Tally(group.n, group.num_correct, first)


def mean_pass_at_k(tallies: Sequence[Tally], k: int) -> float:
    """Return the mean of unbiased estimates of pass@k.

    Groups that were sampled in waves end with a success, which biases c/n. Where groups differ in size, the first k
    completions of each are looked at instead: they hold a right one, or they have all been sampled.

    Raises:
        ValueError: there is no group, or one that was not solved has fewer than k completions.
    """
    if not tallies:
        raise ValueError("the mean of pass@k needs at least one group")
    if len({item.n for item in tallies}) == 1:
        return math.fsum(pass_at_k(item.n, item.num_correct, k) for item in tallies) / len(tallies)
    if any(item.n < k and item.first_correct is None for item in tallies):
        raise ValueError(f"a group without a right completion has fewer than k = {k}")
    return sum(item.first_correct is not None and item.first_correct < k for item in tallies) / len(tallies)
