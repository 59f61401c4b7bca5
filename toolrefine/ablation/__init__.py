"""The ablation of arXiv 2504.01400: the method with one part left out at a time, what is equal being computed once."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.ablation.arms import ITERATIVE, Answers, Arm, Inside, Way, find_arms, read_answers, run_external
from toolrefine.ablation.result import AblationResult, build_result
from toolrefine.ablation.table import notes, sheets
from toolrefine.ablation.variants import (
    FULL,
    Ablation,
    build_variants,
    fixed_rounds,
    held_out_names,
    share,
    share_stages,
)
from toolrefine.benchmarking import DRAFTS, TASKS
from toolrefine.benchmarks.task import Benchmark
from toolrefine.config import BenchmarkConfig, Config, RefinementConfig
from toolrefine.errors import ConfigError
from toolrefine.loop import load_held_out, measure, train
from toolrefine.rundir import RunDir, open_run, write_json
from toolrefine.scoreboard import to_markdown

__all__ = ["Ablation", "AblationResult", "ablate"]

FIXED = "fixed-rounds"


def ablate(config: Ablation, benchmarks: Sequence[Benchmark], run: RunDir) -> AblationResult:
    """Train what has to be trained, measure every arm, and write ablation.json and ablation.md; resumes.

    benchmarks are those of config.benchmarks, opened.

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    check_names(config, benchmarks)
    variants = build_variants(config.recipe)
    full = variants[FULL]
    for name, variant in variants.items():
        with open_run(run.path / name, variant, Inside(run.progress, name)) as inside:
            if name != FULL:
                share_stages(run.path / FULL, full, inside.path, variant)
            train(variant, inside)
    arms = find_arms(run.path, variants)
    found = answer_held_out(arms, full, run)
    for settings, benchmark in zip(config.benchmarks, benchmarks, strict=True):
        found[benchmark.name] = answer_benchmark(arms, full.refinement, settings, benchmark, run)
    result = build_result(config, variants, arms, found)
    write_json(run.path / "ablation.json", result.model_dump(mode="json"))
    (run.path / "ablation.md").write_text(to_markdown(sheets(result), notes(result)), encoding="utf-8")
    return result


def answer_held_out(arms: Sequence[Arm], full: Config, run: RunDir) -> dict[str, dict[tuple[str, Way], Answers]]:
    """The answers to the recipe's own evaluation sets; only those of fixed rounds have yet to be given."""
    ways: tuple[Way, ...] = ("draft", "adaptive") if full.refinement.acts else ("draft",)
    found = {
        name: {(arm.name, way): read_answers(arm.folder, name, way) for arm in arms for way in ways}
        for name in held_out_names(full)
    }
    fixed = fixed_rounds(full.refinement)
    for arm in arms:
        if fixed and arm.name == ITERATIVE:
            requests = run.path / FIXED / "answers.jsonl"
            engine = full.engine.model_copy(update={"answers": str(requests)})
            config = full.model_copy(update={"engine": engine, "refinement": fixed})
            measure(arm.checkpoint, config, run.folder(FIXED), load_held_out(full, RunDir(run.path / FULL)))
            requests.unlink(missing_ok=True)
            for name, answers in found.items():
                answers[arm.name, "fixed"] = read_answers(run.path / FIXED, name, "fixed")
    return found


def answer_benchmark(
    arms: Sequence[Arm], refinement: RefinementConfig, settings: BenchmarkConfig, benchmark: Benchmark, run: RunDir
) -> dict[tuple[str, Way], Answers]:
    """The answers to a benchmark, given where an earlier attempt has not."""
    settings = settings.model_copy(update={"refinement": refinement})
    fixed = fixed_rounds(refinement)
    found: dict[tuple[str, Way], Answers] = {}
    for arm in arms:
        folder = run.path / "benchmarks" / arm.name.replace(" ", "-") / benchmark.name
        answers = run_external(folder, arm.checkpoint, settings, benchmark, run)
        found |= {(arm.name, way): each for way, each in answers.items()}
        if fixed and arm.name == ITERATIVE:
            again = run.path / "benchmarks" / FIXED / benchmark.name
            for stage in (TASKS, DRAFTS):  # drafts are answered without refinement
                share(folder / stage.path, again / stage.path)
            changed = settings.model_copy(update={"refinement": fixed})
            found[arm.name, "fixed"] = run_external(again, arm.checkpoint, changed, benchmark, run)["adaptive"]
    return found


def check_names(config: Ablation, benchmarks: Sequence[Benchmark]) -> None:
    """Make sure that there is something to measure, and that names tell it apart.

    Raises:
        ConfigError: there is nothing, or two have one name.
    """
    names = [*held_out_names(config.recipe), *(benchmark.name for benchmark in benchmarks)]
    if not names:
        raise ConfigError("nothing to measure: name evaluation.datasets in the recipe, or --benchmark NAME")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two benchmarks have the name {twice}; set name in evaluation.datasets, or leave one out")
