"""The arms of an ablation: models that its trainings have left, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolrefine.ablation.variants import FULL
from toolrefine.benchmarks.task import Benchmark, Figure
from toolrefine.config import BenchmarkConfig, Config
from toolrefine.models import fingerprint
from toolrefine.results import DRAFT, REFINED, measure_benchmark
from toolrefine.rundir import Progress, RunDir, evaluation_stage, read_checkpoint
from toolrefine.summary import BASE, BASELINE, iteration_folders, load
from toolrefine.types import Checkpoint

ONE_ITERATION, ITERATIVE = "one iteration", "iterative"
NAMES = {"no-refinement-data": "without refinement data", "only-wrong-drafts": "without right drafts"}
"""Folder of a variant -> name of its arm."""

Way = Literal["draft", "adaptive", "fixed"]
"""How a model answers: without refinement, with rounds until nothing changes, or with all rounds."""


@dataclass(frozen=True)
class Arm:
    """A model of the ablation."""

    name: str
    run: Path
    """The training that it comes from."""
    iteration: int | None
    """None: plain SFT."""
    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        """Its answers to the evaluation sets."""
        return folder_of(self.run, self.iteration)


@dataclass(frozen=True)
class Answers:
    """What became of the samples of a benchmark."""

    right: dict[str, bool]
    """Sample id -> verdict."""
    calls_per_sample: float
    figures: tuple[Figure, ...] = ()
    """The benchmark's own summary."""


class Inside:
    """Progress of a run inside the run, under the name of its folder."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name

    def begin(self, what: str, total: int | None) -> None:
        """See toolrefine.rundir.Progress."""
        self.progress.begin(f"{self.name}/{what}", total)

    def advance(self, done: int) -> None:
        """See toolrefine.rundir.Progress."""
        self.progress.advance(done)

    def end(self, what: str, found: bool) -> None:
        """See toolrefine.rundir.Progress."""
        self.progress.end(f"{self.name}/{what}", found)


def find_arms(path: Path, variants: Mapping[str, Config]) -> list[Arm]:
    """The arms whose models there are, the base first."""
    trained = {
        name: [t for t, folder in iteration_folders(path / name) if (folder / "model").exists()] for name in variants
    }
    full = path / FULL
    arms = [Arm(BASE, full, 0, Checkpoint(model=variants[FULL].model))]
    if trained[FULL]:
        arms.append(read_arm(BASELINE, full, None))
    if len(trained[FULL]) > 1:
        arms.append(read_arm(ONE_ITERATION, full, 1))
    arms += [read_arm(NAMES.get(name, ITERATIVE), path / name, max(found)) for name, found in trained.items() if found]
    return arms


def read_arm(name: str, run: Path, iteration: int | None) -> Arm:
    """An arm with the model that a training has left."""
    return Arm(name, run, iteration, read_checkpoint(folder_of(run, iteration) / "model"))


def folder_of(run: Path, iteration: int | None) -> Path:
    """Where a training keeps a model and its answers."""
    return run / ("baseline" if iteration is None else f"iterations/{iteration:03d}")


def read_answers(folder: Path, dataset: str, way: Way) -> Answers:
    """The answers to an evaluation set, with all their rounds or the drafts alone."""
    items = load(folder, evaluation_stage(dataset))
    if way == "draft":
        return Answers({item.sample_id: item.draft[1].correct for item in items}, 1.0)
    num_calls = sum(item.refinement.num_calls for item in items)
    return Answers({item.sample_id: item.scores[-1].correct for item in items}, num_calls / max(1, len(items)))


def run_external(
    folder: Path, checkpoint: Checkpoint, settings: BenchmarkConfig, benchmark: Benchmark, run: RunDir
) -> dict[Way, Answers]:
    """Run a benchmark into a folder, resuming; refined answers are called adaptive, whatever stops their rounds.

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    settings = settings.model_copy(
        update={"model": checkpoint.model, "adapter": checkpoint.adapter, "fingerprint": fingerprint(checkpoint)}
    )
    inside = Inside(run.progress, folder.relative_to(run.path).as_posix())
    answered, result = measure_benchmark(benchmark, checkpoint, settings, folder, inside)
    ways: dict[str, Way] = {DRAFT: "draft", REFINED: "adaptive"}
    return {
        ways[arm.name]: Answers(
            {task_id: outcome.right for task_id, outcome in answered.arms[arm.name].items()},
            arm.calls_per_task,
            result.figures[arm.name],
        )
        for arm in result.overall.arms
    }
