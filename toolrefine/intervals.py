"""Confidence intervals of accuracies and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toolrefine.types import Record

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


class Paired(Record):
    """Two answers to each of n items, compared item by item."""

    n: int
    fixed: int
    """Wrong before, right after."""
    broken: int
    """Right before, wrong after."""
    difference: float
    """(fixed - broken) / n: accuracy after minus accuracy before."""
    low: float
    high: float
    """95 % interval of the difference."""


def wilson(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0.

    Raises:
        ValueError: not 0 <= correct <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"needs 0 <= correct <= n, not {correct=}, {n=}")
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(before: Sequence[bool], after: Sequence[bool], z: float = Z_95) -> Paired:
    """Difference of two paired proportions with the interval of Agresti and Min (2005).

    Half an item is added to each of the four cells of the paired table: its width stays honest where few items differ.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    n = len(before)
    if n != len(after) or n == 0:
        raise ValueError(f"needs two equally long, non-empty sequences, not {n} and {len(after)}")
    fixed = sum(a and not b for b, a in zip(before, after, strict=True))
    broken = sum(b and not a for b, a in zip(before, after, strict=True))
    gained, lost, total = fixed + 0.5, broken + 0.5, n + 2
    centre = (gained - lost) / total
    half = z * math.sqrt(gained + lost - (gained - lost) ** 2 / total) / total
    return Paired(
        n=n,
        fixed=fixed,
        broken=broken,
        difference=(fixed - broken) / n,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
    )
