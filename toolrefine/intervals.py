"""Confidence intervals for proportions and for the difference between two arms on the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from toolrefine.types import Record

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class Accuracy(Record):
    """A share of right answers with its 95 % Wilson interval."""

    n: int
    correct: int
    accuracy: float
    low: float
    high: float


class Paired(Record):
    """Two arms on the same samples."""

    n: int
    fixed: int
    """Wrong before, right after."""
    broken: int
    """Right before, wrong after."""
    difference: float
    """Accuracy after minus accuracy before, (fixed - broken) / n."""
    low: float
    high: float
    """95 % interval of the difference."""


def wilson(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927, JASA 22:209); 0 to 1 where n is 0.

    Raises:
        ValueError: unless 0 <= correct <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be between 0 and n = {n}, not {correct}")
    if not n:
        return 0.0, 1.0
    rate = correct / n
    scale = 1.0 + z * z / n
    center = (rate + z * z / (2 * n)) / scale
    margin = z / scale * math.sqrt(rate * (1.0 - rate) / n + z * z / (4 * n * n))
    # Rounding must not leave 0 or 1 outside of their own interval.
    low = 0.0 if correct == 0 else max(0.0, center - margin)
    high = 1.0 if correct == n else min(1.0, center + margin)
    return low, high


def measure(verdicts: Iterable[bool]) -> Accuracy:
    """The share of right answers; 0, with an interval from 0 to 1, where there are none at all."""
    rights = list(verdicts)
    low, high = wilson(sum(rights), len(rights))
    share = sum(rights) / len(rights) if rights else 0.0
    return Accuracy(n=len(rights), correct=sum(rights), accuracy=share, low=low, high=high)


def measure_by_round(rights: Sequence[Sequence[bool]]) -> tuple[Accuracy, ...]:
    """Accuracy if refinement had been cut off after each round; who has stopped keeps the last answer.

    rights hold a verdict a round of each answer, the draft's first.
    """
    num_rounds = max(map(len, rights))
    return tuple(measure(each[min(number, len(each) - 1)] for each in rights) for number in range(num_rounds))


def mcnemar(fixed: int, broken: int) -> float:
    """The p-value of McNemar's exact test, two-sided: how likely so uneven a split of the changes is by chance."""
    n, fewer = fixed + broken, min(fixed, broken)
    return min(1.0, sum(math.comb(n, i) for i in range(fewer + 1)) / (1 << (n - 1))) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65), in the same order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def paired(before: Sequence[bool], after: Sequence[bool], z: float = Z_95) -> Paired:
    """Compare two arms on the same samples, in the same order.

    The interval is Newcombe's for paired proportions (1998, Statistics in Medicine 17:2635, method 10): Wilson's
    intervals of the two accuracies, combined with their continuity-corrected correlation. It keeps its coverage
    for few samples and does not shrink to a point where no sample changes; -1 to 1 where there are no samples.

    Raises:
        ValueError: the arms differ in length.
    """
    n = len(before)
    if n != len(after):
        raise ValueError(f"both arms must cover the same samples, not {n} and {len(after)}")
    fixed = sum(new and not old for old, new in zip(before, after, strict=True))
    broken = sum(old and not new for old, new in zip(before, after, strict=True))
    if not n:
        return Paired(n=0, fixed=0, broken=0, difference=0.0, low=-1.0, high=1.0)
    num_before, num_after = sum(before), sum(after)
    correlation = _correlation(n, num_before, num_after, both=num_after - fixed)
    low_before, high_before = wilson(num_before, n, z)
    low_after, high_after = wilson(num_after, n, z)
    rate_before, rate_after = num_before / n, num_after / n
    difference = (fixed - broken) / n
    below = _combine(rate_after - low_after, high_before - rate_before, correlation)
    above = _combine(high_after - rate_after, rate_before - low_before, correlation)
    return Paired(
        n=n,
        fixed=fixed,
        broken=broken,
        difference=difference,
        low=max(-1.0, difference - below),
        high=min(1.0, difference + above),
    )


def _correlation(n: int, num_before: int, num_after: int, both: int) -> float:
    """Return the phi coefficient of two arms, its numerator moved towards 0 by n/2 where it is positive."""
    variance = num_before * (n - num_before) * num_after * (n - num_after)
    if not variance:
        return 0.0
    covariance = n * both - num_before * num_after
    corrected = max(0.0, covariance - n / 2) if covariance > 0 else float(covariance)
    return corrected / math.sqrt(variance)


def _combine(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(0.0, a * a - 2.0 * correlation * a * b + b * b))
