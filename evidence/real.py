"""Study 4: what is asked of real data, and of the single-turn categories of BFCL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from evidence.policies import Question
from toolrefine.benchmarks import open_benchmark
from toolrefine.benchmarks.task import Benchmark, Task
from toolrefine.config import FileDataset
from toolrefine.datasets import load_pool
from toolrefine.types import Completion, Sample

DEV_OFFSET = 8_000
"""Rows of train.jsonl.gz that nano has seen."""
HELD_OUT = ("dev_seen_tools.jsonl.gz", "dev_new_tools.jsonl.gz")
BFCL_CATEGORIES = ("non_live", "live")


def real_pool(folder: Path, size: int, **settings: Any) -> FileDataset:
    """Samples that nano was not trained on."""
    source = str(folder / "train.jsonl.gz")
    return FileDataset(format="canonical", source=source, offset=DEV_OFFSET, limit=size, **settings)


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
