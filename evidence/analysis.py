"""From verdicts to figures: seeds pooled, arms paired sample by sample, p-values corrected for their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evidence.cells import Arm, Cell
from toolrefine.intervals import Accuracy, Paired, holm, mcnemar, measure, paired

Where = Callable[[Cell], Sequence[bool]]
"""Which samples of a cell count."""


def everywhere(cell: Cell) -> Sequence[bool]:
    """All samples."""
    return [True] * len(cell.arms[0].verdicts)


def where_valid(cell: Cell) -> Sequence[bool]:
    """Samples whose draft fits its tools."""
    return [mark == "0" for mark in cell.facts["invalid"]]


def where_invalid(cell: Cell) -> Sequence[bool]:
    """Samples whose draft breaks its schema, or cannot be read."""
    return [mark == "1" for mark in cell.facts["invalid"]]


def where_kind(kind: str, cell: Cell) -> Sequence[bool]:
    """Samples that ask for a kind of answer."""
    return [initial == kind[0] for initial in cell.facts["kinds"]]


@dataclass(frozen=True)
class Group:
    """The cells of one condition, a seed each."""

    condition: str
    cells: tuple[Cell, ...]

    @property
    def arm_names(self) -> list[str]:
        """The arms that all seeds have."""
        return [arm.name for arm in self.cells[0].arms if all(has_arm(cell, arm.name) for cell in self.cells)]

    def rights(self, name: str, where: Where = everywhere) -> list[bool]:
        """The verdicts on an arm, seed after seed."""
        return [
            right
            for cell in self.cells
            for right, counts in zip(arm_of(cell, name).rights, where(cell), strict=True)
            if counts
        ]

    def accuracy(self, name: str, where: Where = everywhere) -> Accuracy:
        """Of an arm, over all seeds."""
        return measure(self.rights(name, where))

    def compare(self, before: str, after: str, where: Where = everywhere) -> Paired:
        """Two arms over all seeds, sample by sample."""
        return paired(self.rights(before, where), self.rights(after, where))

    def differences(self, before: str, after: str) -> list[float]:
        """The same, seed by seed."""
        return [
            measure(arm_of(cell, after).rights).accuracy - measure(arm_of(cell, before).rights).accuracy
            for cell in self.cells
        ]

    def mean(self, name: str, of: Callable[[Arm], float]) -> float:
        """The mean of a figure of an arm over the seeds."""
        found = [of(arm_of(cell, name)) for cell in self.cells]
        return sum(found) / len(found)


def arm_of(cell: Cell, name: str) -> Arm:
    """An arm by name."""
    return next(arm for arm in cell.arms if arm.name == name)


def has_arm(cell: Cell, name: str) -> bool:
    """Whether a cell has an arm of this name."""
    return any(arm.name == name for arm in cell.arms)


def group_cells(cells: Iterable[Cell]) -> list[Group]:
    """The cells by condition, in the order in which conditions occur first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.condition, []).append(cell)
    return [Group(condition, tuple(members)) for condition, members in found.items()]


def corrected(pairs: Sequence[Paired]) -> list[float]:
    """McNemar's p-values of all comparisons of a study, corrected for their number after Holm."""
    return holm([mcnemar(pair.fixed, pair.broken) for pair in pairs])
