"""What an ablation trains: the full method, what differs from it in one thing, and the stages that they share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from toolrefine.config import BenchmarkConfig, Config, RefinementConfig
from toolrefine.datasets import dataset_name
from toolrefine.rundir import POOL, ROLLOUTS, SELECTED, SUSPECTS, evaluation_stage
from toolrefine.types import Record

FULL = "full"
CHANGES: dict[str, dict[str, float]] = {
    "no-refinement-data": {"refine_per_sample": 0},
    "only-wrong-drafts": {"right_draft_share": 0.0},
}
"""Folder of a variant -> what it changes in the corpus."""


class Ablation(Record):
    """What to compare, and on what."""

    recipe: Config
    """The full method."""
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """Beside the recipe's own evaluation sets. Model, adapter and refinement become those of each arm."""


def build_variants(recipe: Config) -> dict[str, Config]:
    """Folder -> config of each training, the full method first; a variant that would only repeat it is left out.

    What the recipe makes depend on the corpus is settled as in the full method, so that variants differ in the corpus
    and in nothing else.
    """
    full = recipe.model_copy(
        update={
            "baseline": True,
            "rollout": recipe.rollout.model_copy(update={"waves": recipe.samples_in_waves}),
            "refinement": recipe.refinement.model_copy(update={"stop": "unchanged"}),
        }
    )
    variants = {FULL: full}
    for name, change in CHANGES.items():
        corpus = full.corpus.model_copy(update=change)
        if full.corpus.refine_per_sample and corpus != full.corpus:
            variants[name] = full.model_copy(update={"baseline": False, "corpus": corpus})
    return variants


def fixed_rounds(refinement: RefinementConfig) -> RefinementConfig | None:
    """The same rounds without a stop; None where there is but one, or where no stop is to be left out."""
    stops = refinement.max_rounds > 1 and not refinement.asks_afresh
    return refinement.model_copy(update={"stop": "never"}) if stops else None


def held_out_names(config: Config) -> list[str]:
    """The recipe's own evaluation sets."""
    return [dataset_name(dataset) for dataset in config.evaluation.datasets]


def share_stages(full_dir: Path, full: Config, folder: Path, config: Config) -> None:
    """Put into the folder of a variant what the run of the full method, which must be complete, has computed for it."""
    for path, parts in early_files(full):
        if same_parts(full, config, parts):
            share(full_dir / path, folder / path)


def early_files(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a run computes before its first corpus: each file, and the parts of the config that it depends on."""
    model = ("model", "engine", "prompt", "matching")
    yield "quarantine.jsonl", ("datasets",)
    yield POOL.path, ("datasets",)
    for name in held_out_names(config):
        yield f"held_out/{name}.quarantine.jsonl", ("evaluation",)
        yield f"held_out/{name}.jsonl", ("evaluation",)
        yield f"iterations/000/{evaluation_stage(name).path}", (*model, "evaluation", "refinement")
    rollouts = (*model, "seed", "datasets", "rollout", "samples_in_waves", "draws_greedy")
    yield f"iterations/001/{ROLLOUTS.path}", rollouts
    yield f"iterations/001/{SELECTED.path}", (*rollouts, "selection")
    yield f"iterations/001/{SUSPECTS.path}", (*rollouts, "selection")


def same_parts(one: Config, other: Config, parts: Iterable[str]) -> bool:
    """Whether two configs agree in these parts."""
    return all(getattr(one, part) == getattr(other, part) for part in parts)


def share(source: Path, target: Path) -> None:
    """Put a complete file, where there is one, in a second place: as a hard link if the file system has them."""
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
