"""Study 4: refinement policies on real data, and on the single-turn categories of BFCL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evidence.cells import Arm, Cell, Scale, marks
from evidence.policies import POLICIES
from toolrefine.benchmarks import open_benchmark
from toolrefine.config import BenchmarkConfig, EngineConfig, FileDataset, RefinementConfig
from toolrefine.datasets import load_pool
from toolrefine.results import DRAFT, REFINED, measure_benchmark
from toolrefine.types import Checkpoint, Sample

DEV_OFFSET = 8_000
"""Rows of train.jsonl.gz that nano has seen."""
DEV_SETS = ("dev_seen_tools.jsonl.gz", "dev_new_tools.jsonl.gz")
BFCL_CATEGORIES = ("non_live", "live")
BFCL_POLICIES = (
    "ask, the paper's algorithm, 1 round",
    "ask, accept valid",
    "invalid: resample, 4 rounds",
    "invalid: constrain",
)
CONSTRAINED = "constrained decoding"


def real_dev(folder: Path, size: int) -> list[Sample]:
    """Samples to choose a policy on, which nano was not trained on."""
    source = str(folder / "train.jsonl.gz")
    return load_pool([FileDataset(format="canonical", source=source, offset=DEV_OFFSET, limit=size)])


def real_held_out(folder: Path, size: int) -> list[Sample]:
    """Samples with tools seen in training, then with new ones."""
    files = [FileDataset(format="canonical", source=str(folder / name)) for name in DEV_SETS]
    return load_pool(files)[:size]


def run_bfcl_cell(folder: Path, *, study: str, condition: str, checkpoint: Checkpoint, seed: int, scale: Scale) -> Cell:
    """Answer BFCL's non-live and live categories by each policy, judged by BFCL's rules."""
    arms: list[Arm] = []
    free = RefinementConfig(max_rounds=0)
    ways: Mapping[str, RefinementConfig] = {name: POLICIES[name] for name in BFCL_POLICIES} | {CONSTRAINED: free}
    for name, policy in ways.items():
        config = BenchmarkConfig(
            benchmark="bfcl",
            categories=BFCL_CATEGORIES,
            model=checkpoint.model,
            engine=EngineConfig(max_batch_rows=512, constrain=name == CONSTRAINED),
            refinement=policy,
            max_new_tokens=128,
            limit=scale.num_held_out,
        )
        benchmark = open_benchmark("bfcl", None, "tools", BFCL_CATEGORIES)
        answered, result = measure_benchmark(benchmark, checkpoint, config, folder / name.replace(" ", "-"))
        found = {arm.name: arm for arm in result.overall.arms}
        if not arms:
            outcomes = answered.arms[DRAFT].values()
            arms.append(Arm(name="draft", verdicts=marks(outcome.right for outcome in outcomes)))
        way = DRAFT if name == CONSTRAINED else REFINED
        outcomes = answered.arms[way].values()
        arms.append(
            Arm(
                name=name,
                verdicts=marks(outcome.right for outcome in outcomes),
                calls=found[way].calls_per_task,
                tokens=found[way].tokens_per_task,
            )
        )
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(arms), scale=scale)
