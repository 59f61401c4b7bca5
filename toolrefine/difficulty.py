"""How hard a sample is for the model at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolrefine.types import Group


def pass_at_k(n: int, num_correct: int, k: int) -> float:
    """Probability that one of k completions is correct, unbiased from num_correct of n (arXiv 2107.03374, equation 1).

    Raises:
        ValueError: not 0 <= num_correct <= n or not 1 <= k <= n.
    """
    if not 0 <= num_correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= num_correct <= n and 1 <= k <= n, not {num_correct=}, {n=}, {k=}")
    if n - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - num_correct + 1, n + 1))


def mean_pass_at_k(groups: Sequence[Group], k: int) -> float:
    """Mean of pass_at_k over groups.

    Raises:
        ValueError: no groups, or one with fewer than k completions.
    """
    if not groups:
        raise ValueError("no groups")
    return sum(pass_at_k(group.n, group.num_correct, k) for group in groups) / len(groups)


def pass_rate(group: Group) -> float:
    """Share of the completions that are correct."""
    return group.num_correct / group.n
