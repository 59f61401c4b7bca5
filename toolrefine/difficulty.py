"""How hard a sample is for a model, from the number of its completions that are right."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def mean_pass_at_k(groups: Sequence[Group], k: int) -> float:
    """Return the mean of pass@k over groups.

    Raises:
        ValueError: there are no groups, or one has fewer than k completions.
    """
    if not groups:
        raise ValueError("the mean of pass@k needs at least one group")
    return math.fsum(pass_at_k(group.n, group.num_correct, k) for group in groups) / len(groups)
