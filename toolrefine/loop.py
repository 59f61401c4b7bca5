"""The main job: model-aware iterative training (arXiv 2504.01400, section 3), crash-safe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolrefine.config import Config
from toolrefine.corpus import build_corpus, direct_corpus
from toolrefine.datasets import dataset_name, load_pool, local_files
from toolrefine.engines import open_engine
from toolrefine.errors import ConfigError
from toolrefine.evaluate import evaluate
from toolrefine.rollout import rollout
from toolrefine.rundir import CORPUS, POOL, ROLLOUTS, SELECTED, SUSPECTS, RunDir, Stage, evaluation_stage
from toolrefine.seeds import derive_seed
from toolrefine.selection import find_suspects, is_solvable, select
from toolrefine.training import check_template, num_steps_of, sft
from toolrefine.types import Checkpoint, Group, Sample, Suspect


def train(config: Config, run: RunDir) -> Checkpoint:
    """Select what the model can solve, train on it, and again; the last iteration's model.

    Every stage that an earlier attempt has completed is read instead of done again.

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    config = with_answers(config, run)
    base = model = Checkpoint(model=config.model)  # M_0
    pool = load_samples(config, run)  # D
    held_out = load_held_out(config, run)
    measure(base, config, run.iteration(0), held_out)
    num_solvable, num_steps = -1, 0  # the first iteration stalls at nothing
    for t in range(1, config.num_iterations + 1):
        it = run.iteration(t)
        groups = roll_out(model, config, it, pool, t)
        selected = it.stage(SELECTED, select, pool, groups, config.selection)
        it.stage(SUSPECTS, find_suspects, pool, groups, config.selection)
        num_before, num_solvable = num_solvable, count_solvable(groups)
        stalled = config.selection.stop_when_stalled and num_solvable <= num_before
        corpus = []
        if selected and not stalled:
            seed = derive_seed(config.seed, "corpus", t)
            corpus = it.stage(CORPUS, build_corpus, pool, selected, groups, config.corpus, config.prompt, seed=seed)
        del groups  # by far the largest of all records, and of no use to a training
        if not corpus:
            break
        model = it.model(sft, base if config.sft.restart else model, corpus, config, iteration=t, progress=run.progress)
        num_steps = num_steps_of(model) + (0 if config.sft.restart else num_steps)
        measure(model, config, it, held_out)
    if config.baseline and num_steps:
        train_baseline(config, run.folder("baseline"), pool, held_out, num_steps)
    Path(config.engine.answers).unlink(missing_ok=True)
    return model


def doubt(config: Config, run: RunDir) -> list[Suspect]:
    """The suspects of the first iteration, before any training; train goes on from there.

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    config = with_answers(config, run)
    pool, it = load_samples(config, run), run.iteration(1)
    groups = roll_out(Checkpoint(model=config.model), config, it, pool, 1)
    return it.stage(SUSPECTS, find_suspects, pool, groups, config.selection)


def with_answers(config: Config, run: RunDir) -> Config:
    """The config with a file for what a server has answered of a chunk, in the run unless it is named."""
    answers = config.engine.answers or str(run.path / "answers.jsonl")
    return config.model_copy(update={"engine": config.engine.model_copy(update={"answers": answers})})


def load_samples(config: Config, run: RunDir) -> list[Sample]:
    """The pool; before the first of all work the model's template is checked, once."""
    if not (run.path / POOL.path).exists():
        check_template(Checkpoint(model=config.model), config)
    run.check_sources(POOL, local_files(config.datasets))
    return run.stage(POOL, load_pool, config.datasets, run.path / "quarantine.jsonl")


def roll_out(model: Checkpoint, config: Config, it: RunDir, pool: Sequence[Sample], t: int) -> list[Group]:
    """The groups of the pool, sampled from the model before it is trained for the t-th time."""
    with open_engine(model, config.engine, config.prompt) as engine:
        return it.stream(
            ROLLOUTS,
            config.rollout.chunk_size,
            len(pool),
            rollout,
            engine,
            pool,
            config.rollout,
            config.matching,
            seed=derive_seed(config.seed, "rollouts", t),
            in_waves=config.samples_in_waves,
            with_greedy=config.draws_greedy,
        )


def train_baseline(
    config: Config, run: RunDir, pool: Sequence[Sample], held_out: dict[str, list[Sample]], num_steps: int
) -> None:
    """Plain SFT: the base, trained on every sample as labelled, for as many steps as the iterations took."""
    corpus = run.stage(CORPUS, direct_corpus, pool, config.prompt)
    base = Checkpoint(model=config.model)
    model = run.model(sft, base, corpus, config, iteration=0, progress=run.progress, max_steps=num_steps)
    measure(model, config, run, held_out)


def measure(model: Checkpoint, config: Config, run: RunDir, held_out: dict[str, list[Sample]]) -> None:
    """Answer every held-out set with this model."""
    settings = config.evaluation
    with open_engine(model, config.engine, config.prompt) as engine:
        for name, samples in held_out.items():
            run.stream(
                evaluation_stage(name),
                settings.chunk_size,
                len(samples),
                evaluate,
                engine,
                samples,
                config.refinement,
                config.prompt,
                config.matching,
                max_new_tokens=settings.max_new_tokens,
            )


def load_held_out(config: Config, run: RunDir) -> dict[str, list[Sample]]:
    """The evaluation sets by name, kept in the run beside the pool.

    Raises:
        ConfigError: two sets have the same name.
    """
    folder = run.folder("held_out")
    names = [dataset_name(dataset) for dataset in config.evaluation.datasets]
    if len({*names}) < len(names):
        raise ConfigError(f"evaluation.datasets: two of {', '.join(names)} have one name; set name")
    held_out: dict[str, list[Sample]] = {}
    for name, dataset in zip(names, config.evaluation.datasets, strict=True):
        stage = Stage(f"{name}.jsonl", Sample)
        folder.check_sources(stage, local_files([dataset]))
        held_out[name] = folder.stage(stage, load_pool, [dataset], folder.path / f"{name}.quarantine.jsonl")
    return held_out


def count_solvable(groups: Sequence[Group]) -> int:
    """Samples with pass@k > 0."""
    return sum(map(is_solvable, groups))
