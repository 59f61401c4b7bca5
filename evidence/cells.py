"""The unit of work: one study under one condition with one seed, in a process and a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from toolrefine.cli.common import quiet_libraries
from toolrefine.rundir import read_records, write_records
from toolrefine.types import Record


class Scale(Record):
    """How much of everything."""

    num_held_out: int = 3_000
    num_pool: int = 400
    num_dev: int = 1_500
    """Samples that a policy is chosen on."""
    steps: int = 50
    """Optimizer steps of an iteration."""
    num_iterations: int = 3
    k: int = 8


class Arm(Record):
    """One way to answer the held-out samples."""

    name: str
    verdicts: str
    """Whether each answer is right, 1 or 0, in the order of the samples."""
    calls: float = 1.0
    """Calls of the model a sample, scoring passes among them."""
    tokens: float = 0.0
    """Sampled tokens a sample; 0 where they were not counted."""
    facts: dict[str, Any] = {}

    @property
    def rights(self) -> list[bool]:
        """The verdicts."""
        return [mark == "1" for mark in self.verdicts]


class Cell(Record):
    """What came of one cell."""

    study: str
    name: str = ""
    """Within the study."""
    condition: str
    seed: int
    arms: tuple[Arm, ...]
    facts: dict[str, Any] = {}
    """Of the condition, such as the number of wrong labels."""
    scale: Scale


Work = Callable[[Path], Cell]
"""Does the work of a cell in a folder; it may take up what it finds there."""


def marks(rights: Iterable[bool]) -> str:
    """Verdicts as Arm has them."""
    return "".join("01"[right] for right in rights)


def run_cells(works: Mapping[str, Work], folder: Path, results: Path, jobs: int) -> None:
    """Run the cells that have no result yet, several side by side, and keep each result as it comes.

    works: name of a cell, which is its folder -> its work.
    """
    done = {cell.name for cell in read_cells(results)}
    todo = {name: work for name, work in works.items() if name not in done}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_cell, work, folder / name, name) for name, work in todo.items()]
        for number, ended in enumerate(as_completed(running), 1):
            cell = ended.result()
            known = {each.name: each for each in (*read_cells(results), cell)}  # another run may have written some
            write_cells(results, [known[name] for name in sorted(known, key=[*works, *known].index)])
            print(f"{number} of {len(todo)}: {cell.study}, {cell.name}", flush=True)


def run_cell(work: Work, folder: Path, name: str) -> Cell:
    """Do the work of a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        return work(folder).model_copy(update={"name": name})


def write_cells(results: Path, cells: Iterable[Cell]) -> None:
    """A line a cell, all or nothing."""
    results.parent.mkdir(parents=True, exist_ok=True)
    partial = results.with_name(results.name + ".partial")
    write_records(partial, cells)
    partial.replace(results)


def read_cells(results: Path) -> list[Cell]:
    """The cells of a study; none where it has not been run."""
    return list(read_records(results, Cell)) if results.exists() else []
