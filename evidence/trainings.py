"""Studies 1 and 2: what selection and iteration are worth, with wrong labels and in a domain unlike the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from evidence.cells import Arm, Cell, Scale, marks
from toolrefine.ablation.variants import share_stages
from toolrefine.config import Config, Dataset, EvaluationConfig, FileDataset, ToolworldDataset
from toolrefine.datasets.export import write_samples
from toolrefine.loop import load_held_out, measure, train
from toolrefine.rundir import POOL, RunDir, evaluation_stage, open_run
from toolrefine.summary import RunSummary, load, summarize
from toolrefine.types import EvalItem, Record, Sample

HELD_OUT, ANSWERS = "held-out", "answers"
FULL, ONE_ROUND, ORACLE, NO_REFINEMENT = "full", "one-round", "oracle", "no-refinement-data"
FRONTIER, UNSUSPECTED, UNSUSPECTED_ALONE = "frontier", "unsuspected", "unsuspected-without-refinement-data"
ALL_FIRST, MIN_SOLVABLE = "all-labels-first", 0.5
SCORED, CHECKED, CHECKED_SCORED = "labels-scored", "labels-checked", "labels-checked-and-scored"
ONE_SCHEDULE, CHECKED_SCORED_ONE = "iterated-in-one-schedule", f"{CHECKED_SCORED}-in-one-schedule"
EVERY_ARM = (
    ONE_ROUND,
    ONE_SCHEDULE,
    NO_REFINEMENT,
    FRONTIER,
    UNSUSPECTED,
    UNSUSPECTED_ALONE,
    SCORED,
    ALL_FIRST,
    CHECKED,
    CHECKED_SCORED,
    CHECKED_SCORED_ONE,
    ORACLE,
)


class Material(Record):
    """What a cell trains on, and is measured by."""

    pool: Dataset
    held_out: Dataset
    settings: dict[str, dict[str, Any]] = {}
    """What other data need: sections of the config with the fields that are not as for the tool world."""


def tool_world(domain: str, noise: float, seed: int, scale: Scale) -> Material:
    """Samples of a domain, a share of which have a wrong label."""
    pool = ToolworldDataset(
        format="toolworld", domain=domain, size=scale.num_pool, seed=1_000 + seed, wrong_label_rate=noise
    )
    held_out = ToolworldDataset(format="toolworld", domain=domain, size=scale.num_held_out, seed=2_000 + seed)
    return Material(pool=pool, held_out=held_out)


def run_training_cell(
    folder: Path,
    *,
    study: str,
    condition: str,
    material: Material,
    seed: int,
    scale: Scale,
    model: str = "nano",
    arms: Collection[str] = EVERY_ARM,
) -> Cell:
    """Train every arm in folders that resume, and measure it on the same held-out samples.

    All of equally many optimizer steps: plain SFT on the pool as labelled and iterated selection, and of these those in
    `arms`: one round of selection; iterated selection without refinement data; the frontier; all but the suspects, with
    refinement data and without, and where labels are scored; all labels at first where too little is solvable; plain
    SFT, and all but the suspects where labels are scored, on the labels that fit their tools; and an oracle, plain SFT
    on the right labels alone. *in one schedule* are those whose learning rate goes down once, as that of plain SFT, and
    not in every iteration.
    """
    full = build_full(model, material, seed, scale)
    with open_run(folder / FULL, full) as run:
        train(full, run)
    found, held_out = summarize(folder / FULL), load_held_out(full, RunDir(folder / FULL))
    others = {name: config for name, config in build_others(full, folder, found) if name in arms}
    for name, config in others.items():
        with open_run(folder / name, config) as run:
            share_stages(folder / FULL, full, run.path, config)
            trained = train(config, run)
            measure(trained, full, run.folder(ANSWERS), held_out)
    measured = [
        answered("base", folder / FULL / "iterations/000"),
        answered("plain SFT", folder / FULL / "baseline"),
    ]
    for each in found.iterations:
        place = folder / FULL / f"iterations/{each.iteration:03d}"
        measured.append(answered(f"iteration {each.iteration}", place, **facts_of(each)))
    for name in others:
        facts = {} if name in (CHECKED, ORACLE) else facts_of(summarize(folder / name).iterations[-1])
        measured.append(answered(name.replace("-", " "), folder / name / ANSWERS, **facts))
    facts = {
        "num_samples": found.num_samples,
        "num_wrong_labels": found.num_wrong_labels or 0,
        "kinds": initials(held_out[HELD_OUT]),
    }
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(measured), facts=facts, scale=scale)


def build_full(model: str, material: Material, seed: int, scale: Scale) -> Config:
    """The full method, and plain SFT beside it."""
    sections: dict[str, dict[str, Any]] = {
        "engine": {"max_batch_rows": 512, "dtype": "bfloat16"},
        "rollout": {
            "k": scale.k,
            "max_new_tokens": 96,
            "chunk_size": scale.num_pool,
            "waves": False,
            "score_labels": False,
        },
        "selection": {"stop_when_stalled": False},
        "sft": {
            "learning_rate": 1e-3,
            "batch_size": 16,
            "max_steps": scale.steps,
            "dtype": "bfloat16",
            "checkpoint_steps": 1000,
        },
        "refinement": {"max_rounds": 0},
        "evaluation": {
            "chunk_size": 1000,
            "max_new_tokens": 96,
            "datasets": [material.held_out.model_copy(update={"name": HELD_OUT})],
        },
    }
    for name, changes in material.settings.items():
        sections[name] = {**sections.get(name, {}), **changes}
    return Config.model_validate(
        {
            "model": model,
            "seed": seed,
            "num_iterations": scale.num_iterations,
            "baseline": True,
            "datasets": [material.pool],
            **sections,
        }
    )


def build_others(full: Config, folder: Path, found: RunSummary) -> Iterator[tuple[str, Config]]:
    """Folder -> config of the other trainings, given what came of the full one. Only their last model answers."""
    alone = full.model_copy(update={"baseline": False, "evaluation": EvaluationConfig()})
    num_steps = (full.sft.max_steps or 0) * full.num_iterations
    all_steps = alone.sft.model_copy(update={"max_steps": num_steps})
    without = alone.corpus.model_copy(update={"refine_per_sample": 0})
    one_schedule = {"sft": alone.sft.model_copy(update={"lr_span": "run"})}
    yield ONE_ROUND, alone.model_copy(update={"num_iterations": 1, "sft": all_steps})
    yield ONE_SCHEDULE, alone.model_copy(update=one_schedule)
    yield NO_REFINEMENT, alone.model_copy(update={"corpus": without})
    for name, policy, corpus in (
        (FRONTIER, "frontier", full.corpus),
        (UNSUSPECTED, "unsuspected", full.corpus),
        (UNSUSPECTED_ALONE, "unsuspected", without),
    ):
        selection = alone.selection.model_copy(update={"policy": policy})
        yield name, alone.model_copy(update={"selection": selection, "corpus": corpus})
    if found.iterations[0].pass_at_k < MIN_SOLVABLE:  # else the same as the full method
        eager = alone.selection.model_copy(update={"min_solvable": MIN_SOLVABLE})
        yield ALL_FIRST, alone.model_copy(update={"selection": eager})
    doubting = {
        "selection": alone.selection.model_copy(update={"policy": "unsuspected"}),
        "corpus": without,
        "rollout": alone.rollout.model_copy(update={"score_labels": True}),
    }
    yield SCORED, alone.model_copy(update=doubting)
    pool = load(folder / FULL, POOL)
    right = [sample for sample in pool if sample.meta.get("label", "ok") == "ok"]
    is_clean = len(right) == len(pool)  # then there is nothing to check, and plain SFT is the oracle
    plain = {
        "num_iterations": 1,
        "selection": alone.selection.model_copy(update={"policy": "all"}),
        "corpus": without,
        "rollout": alone.rollout.model_copy(update={"k": 1}),
        "sft": all_steps,
    }
    checked = tuple(dataset.model_copy(update={"invalid_targets": "quarantine"}) for dataset in full.datasets)
    if not is_clean:
        yield CHECKED, alone.model_copy(update={**plain, "datasets": checked})
        yield CHECKED_SCORED, alone.model_copy(update={**doubting, "datasets": checked})
    yield CHECKED_SCORED_ONE, alone.model_copy(update={**doubting, **one_schedule, "datasets": checked})
    if not is_clean:
        path = folder / "right-labels.jsonl"
        write_samples(path, right)
        labels = FileDataset(format="canonical", source=str(path))
        yield ORACLE, alone.model_copy(update={**plain, "datasets": (labels,)})


def answered(name: str, folder: Path, **facts: Any) -> Arm:
    """An arm from the answers of a model to the held-out samples."""
    items: list[EvalItem] = load(folder, evaluation_stage(HELD_OUT))
    tokens = sum(item.refinement.num_tokens for item in items) / len(items)
    return Arm(name=name, verdicts=marks(item.scores[0].correct for item in items), tokens=tokens, facts=facts)


def initials(samples: Iterable[Sample]) -> str:
    """What is asked for, a letter a sample: s for a single call, p for parallel ones, n for no call."""
    return "".join(sample.kind[0] for sample in samples)


def facts_of(iteration: Any) -> dict[str, Any]:
    """What was selected and suspected in an iteration."""
    names = ("num_selected", "num_wrong_selected", "num_entered", "num_suspects", "num_wrong_suspects")
    return {name: getattr(iteration, name) for name in names if getattr(iteration, name) is not None}
