"""Study 4: what is asked of real data, and of the single-turn categories of BFCL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from evidence.cells import Scale
from evidence.policies import Question
from evidence.trainings import Material
from toolrefine.benchmarks import open_benchmark
from toolrefine.benchmarks.task import Benchmark, Task
from toolrefine.config import FileDataset
from toolrefine.datasets import load_pool
from toolrefine.types import Completion, Sample

DEV_OFFSET = 8_000
"""Rows of train.jsonl.gz that nano has seen."""
NUM_ROWS = 11_851
TRAINING_SEEDS = 3
"""They share the rows that nano has not seen: first a pool for each, then what is held out."""
HELD_OUT = ("dev_seen_tools.jsonl.gz", "dev_new_tools.jsonl.gz")
BFCL_CATEGORIES = ("non_live", "live")


def real_pool(folder: Path, size: int, **settings: Any) -> FileDataset:
    """Samples that nano was not trained on."""
    source = str(folder / "train.jsonl.gz")
    return FileDataset(format="canonical", source=source, offset=DEV_OFFSET, limit=size, **settings)


def real_material(folder: Path, noise: float, seed: int, scale: Scale) -> Material:
    """Other samples for each seed: to train on, a share of which have a wrong label, and held out."""
    pool = real_pool(folder, scale.num_pool, wrong_label_rate=noise, seed=seed, invalid_targets="keep")
    behind = DEV_OFFSET + TRAINING_SEEDS * scale.num_pool
    size = min(scale.num_held_out, (NUM_ROWS - behind) // TRAINING_SEEDS)
    return Material(
        pool=pool.model_copy(update={"offset": DEV_OFFSET + seed * scale.num_pool}),
        held_out=pool.model_copy(
            update={
                "offset": behind + seed * size,
                "limit": size,
                "wrong_label_rate": 0.0,
                "invalid_targets": "quarantine",
            }
        ),
        settings={
            "prompt": {"own_replies": False},
            "rollout": {"max_new_tokens": 160},
            "sft": {"learning_rate": 3e-4, "max_length": 1536},
            "evaluation": {"max_new_tokens": 160},
        },
    )


def real_dev(folder: Path, size: int) -> list[Sample]:
    """Samples to choose a policy on."""
    return load_pool([real_pool(folder, size)])


def real_held_out(folder: Path, size: int) -> list[Sample]:
    """Samples with tools seen in training, then with new ones."""
    files = [FileDataset(format="canonical", source=str(folder / name)) for name in HELD_OUT]
    return load_pool(files)[:size]


def bfcl_questions(size: int) -> Iterator[Question]:
    """BFCL's non-live and live categories, at most size of each, judged by BFCL's rules."""
    benchmark = open_benchmark("bfcl", None, "tools", BFCL_CATEGORIES)
    for category in benchmark.categories:
        for task in islice(benchmark.load(category), size):
            yield Question(task.prompt, partial(is_valid, benchmark, task))


def is_valid(benchmark: Benchmark, task: Task, completion: Completion) -> bool:
    """BFCL's verdict; an answer that had no room is wrong."""
    return not completion.had_no_room and benchmark.judge(task, completion).valid
