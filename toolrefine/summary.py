"""What a run has measured so far, as one record: accuracies, paired comparisons, and the course of each iteration."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolrefine.config import Config, describe
from toolrefine.datasets import dataset_name
from toolrefine.difficulty import Tally, mean_pass_at_k, tally
from toolrefine.errors import RunDirError
from toolrefine.intervals import Accuracy, Paired, measure, measure_by_round, paired
from toolrefine.rundir import (
    CORPUS,
    POOL,
    ROLLOUTS,
    SELECTED,
    SUSPECTS,
    R,
    Stage,
    evaluation_stage,
    read_records,
)
from toolrefine.types import EvalItem, Reason, Record, Sample, StopReason

BASE, BASELINE, REFINED = "base", "plain SFT", " + refinement"


class Comparison(Paired):
    """An arm against another on the samples that both have answered: before is the other, after is this one."""

    against: str
    """Name of the other arm."""


class Arm(Record):
    """A model on an evaluation set, with refinement or without."""

    name: str
    model: str
    """The arm's name without refinement."""
    dataset: str
    refined: bool
    """Scored on the last round; otherwise on the draft."""
    n: int
    accuracy: Accuracy
    by_kind: dict[str, Accuracy]
    """single, parallel and no_call, as far as there are any."""
    by_round: tuple[Accuracy, ...]
    """After each round, the draft first; who has stopped keeps the last answer. Empty without refinement."""
    constrained: bool = False
    """by_round begins with constrained answers, and not with the drafts."""
    calls_per_sample: float
    """Calls of the model for an answer, what it costs: 1 without refinement."""
    stop_reasons: dict[StopReason, int]
    """Why refinement stopped; empty without it."""
    comparisons: tuple[Comparison, ...]


class Training(Record):
    """One supervised fine-tuning."""

    num_steps: int
    num_examples: int | None = None
    num_left_out: int | None = None
    """Examples longer than sft.max_length."""
    first_loss: float | None = None
    final_loss: float | None = None
    wall_s: float | None = None


class IterationSummary(Record):
    """What happened in one iteration; None where a stage is not done, or the truth of the labels not known."""

    iteration: int
    num_samples: int
    k: int
    """Completions a sample."""
    pass_at: dict[int, float]
    """k -> mean unbiased pass@k over the pool, of the model that the iteration starts from."""
    pass_at_1: float
    pass_at_k: float
    histogram: tuple[int, ...]
    """histogram[c]: samples with c correct completions."""
    num_solvable: int
    """Samples with a correct completion."""
    reasons: dict[Reason, int]
    """Verdicts on all completions."""
    num_selected: int | None = None
    num_entered: int | None = None
    """Selected, but not in the iteration before."""
    num_left: int | None = None
    """Selected in the iteration before, but no longer."""
    num_wrong_selected: int | None = None
    """Selected samples whose label is known to be wrong."""
    num_suspects: int | None = None
    num_wrong_suspects: int | None = None
    """Suspects whose label is known to be wrong."""
    num_direct: int | None = None
    num_refine: int | None = None
    num_right_drafts: int | None = None
    """Refinement examples whose draft is already right."""
    training: Training | None = None

    @property
    def num_steps(self) -> int | None:
        """Optimizer steps; None while the training is not complete."""
        return None if self.training is None else self.training.num_steps


class RunSummary(Record):
    """All that a run has measured so far."""

    run: str
    """The folder."""
    model: str
    """M_0."""
    finished: bool
    """Every stage that the config asks for is done."""
    num_iterations: int
    """Asked for, at most."""
    num_samples: int | None
    """Size of the pool; None while it is being loaded."""
    num_quarantined: int
    """Rows of the pool's sources that could not be used."""
    num_wrong_labels: int | None
    """Labels of the pool known to be wrong; None where the truth is unknown."""
    iterations: tuple[IterationSummary, ...]
    """Those whose rollouts are complete."""
    baseline: Training | None
    """Plain SFT's training."""
    arms: tuple[Arm, ...]
    """Data set by data set; base, plain SFT, then the iterations, each without and with refinement."""
    wall_s: dict[str, float]
    """Stage -> seconds, in the order of the work."""


def summarize(run_dir: Path) -> RunSummary:
    """Summarize what is there of a run, finished or not.

    Raises:
        RunDirError: the folder holds no run, or one of another version.
    """
    config = read_config(run_dir)
    pool = [(sample.id, has_wrong_label(sample)) for sample in load(run_dir, POOL)]
    labels = {sample_id: wrong for sample_id, wrong in pool if wrong is not None} or None
    iterations = tuple(summarize_iterations(run_dir, labels))
    return RunSummary(
        run=str(run_dir),
        model=config.model,
        finished=is_finished(run_dir, config, iterations),
        num_iterations=config.num_iterations,
        num_samples=len(pool) if (run_dir / POOL.path).exists() else None,
        num_quarantined=count_lines(run_dir / "quarantine.jsonl"),
        num_wrong_labels=sum(labels.values()) if labels else None,
        iterations=iterations,
        baseline=read_training(run_dir / "baseline"),
        arms=tuple(
            arm
            for name in evaluation_names(run_dir, config)
            for arm in build_arms(name, read_answers(run_dir, name), refined=config.refinement.acts)
        ),
        wall_s=read_wall_s(run_dir / "metrics.jsonl"),
    )


def build_arms(dataset: str, answers: Mapping[str, Sequence[EvalItem]], *, refined: bool) -> tuple[Arm, ...]:
    """The arms of one evaluation set from each model's answers, in the order of the mapping.

    Every arm is compared with the model named base, a refined arm with its own draft, and an iteration with plain SFT,
    like with like.

    Args:
        dataset: what to call the evaluation set.
        answers: name of a model -> its answers; models without answers are left out.
        refined: whether to add an arm with refinement for each model; added anyway where an answer has rounds.
    """
    answers = {name: items for name, items in answers.items() if items}
    refined = refined or any(len(item.scores) > 1 for items in answers.values() for item in items)
    suffixes = ("", REFINED) if refined else ("",)
    verdicts = {
        name + suffix: {item.sample_id: (item.scores[-1] if suffix else item.draft[1]).correct for item in items}
        for name, items in answers.items()
        for suffix in suffixes
    }
    arms = []
    for model, items in answers.items():
        for suffix in suffixes:
            name = model + suffix
            rivals = [BASE, model] if model in (BASE, BASELINE) else [BASE, model, BASELINE + suffix]
            arms.append(
                Arm(
                    name=name,
                    model=model,
                    dataset=dataset,
                    refined=bool(suffix),
                    n=len(items),
                    accuracy=measure(verdicts[name].values()),
                    by_kind={
                        kind: measure(verdicts[name][item.sample_id] for item in items if item.kind == kind)
                        for kind in ("single", "parallel", "no_call")
                        if any(item.kind == kind for item in items)
                    },
                    by_round=measure_by_round([[each.correct for each in item.scores] for item in items])
                    if suffix
                    else (),
                    constrained=bool(suffix) and any(item.alone for item in items),
                    calls_per_sample=sum(item.refinement.num_calls for item in items) / len(items) if suffix else 1.0,
                    stop_reasons=count_stop_reasons(items) if suffix else {},
                    comparisons=tuple(
                        comparison
                        for rival in dict.fromkeys(rivals)
                        if rival != name and rival in verdicts
                        for comparison in compare(rival, verdicts[rival], verdicts[name])
                    ),
                )
            )
    return tuple(arms)


def compare(against: str, before: Mapping[str, bool], after: Mapping[str, bool]) -> Iterator[Comparison]:
    """One comparison on the samples that both have, or none if there are no such."""
    shared = [sample_id for sample_id in after if sample_id in before]
    if shared:
        result = paired([before[i] for i in shared], [after[i] for i in shared])
        yield Comparison(against=against, **result.model_dump())


def count_stop_reasons(items: Sequence[EvalItem]) -> dict[StopReason, int]:
    """How often refinement stopped why, most often first."""
    return dict(Counter(item.refinement.stop_reason for item in items).most_common())


def summarize_iterations(run_dir: Path, labels: Mapping[str, bool] | None) -> Iterator[IterationSummary]:
    """The iterations whose rollouts are complete. labels: sample id -> label is wrong, where that is known."""
    before: set[str] = set()
    for t, folder in iteration_folders(run_dir):
        if not (folder / ROLLOUTS.path).exists():
            continue
        found: dict[str, Any] = {}
        if (folder / SELECTED.path).exists():
            selected = {selected.sample_id for selected in load(folder, SELECTED)}
            found["num_selected"] = len(selected)
            found["num_entered"] = len(selected - before)
            found["num_left"] = len(before - selected)
            found["num_wrong_selected"] = count_wrong(selected, labels)
            before = selected
        if (folder / SUSPECTS.path).exists():
            suspects = [suspect.sample_id for suspect in load(folder, SUSPECTS)]
            found["num_suspects"] = len(suspects)
            found["num_wrong_suspects"] = count_wrong(suspects, labels)
        if (folder / CORPUS.path).exists():
            drafts = [(example.kind, example.draft_correct) for example in load(folder, CORPUS)]
            found["num_direct"] = sum(kind == "direct" for kind, _ in drafts)
            found["num_refine"] = sum(kind == "refine" for kind, _ in drafts)
            found["num_right_drafts"] = sum(bool(right) for _, right in drafts)
        yield IterationSummary(iteration=t, **count_rollouts(folder), **found, training=read_training(folder))


def count_rollouts(folder: Path) -> dict[str, Any]:
    """The fields of IterationSummary that come from rollouts; the groups are read one by one, never held together."""
    tallies: list[Tally] = []
    reasons: Counter[Reason] = Counter()
    for group in read_records(folder / ROLLOUTS.path, ROLLOUTS.record):
        tallies.append(tally(group))
        reasons.update(score.reason for score in group.scores)
    k = max((item.n for item in tallies), default=0)
    powers = [1 << i for i in range(k.bit_length()) if 1 << i < k]
    pass_at = {j: mean_pass_at_k(tallies, j) for j in [*powers, k] if k}
    counts = Counter(item.num_correct for item in tallies)
    return {
        "num_samples": len(tallies),
        "k": k,
        "pass_at": pass_at,
        "pass_at_1": pass_at.get(1, 0.0),
        "pass_at_k": pass_at.get(k, 0.0),
        "histogram": tuple(counts[c] for c in range(max([k, *counts]) + 1)),
        "num_solvable": sum(item.num_correct > 0 for item in tallies),
        "reasons": dict(reasons.most_common()),
    }


def has_wrong_label(sample: Sample) -> bool | None:
    """Whether the label is wrong, for samples that tell: those of the tool world do."""
    label = sample.meta.get("label")
    if label == "ok":
        return False
    return True if isinstance(label, str) and label.startswith("wrong:") else None


def count_wrong(sample_ids: Iterable[str], labels: Mapping[str, bool] | None) -> int | None:
    """How many of the samples have a wrong label; None where the truth is unknown."""
    return None if labels is None else sum(labels.get(sample_id, False) for sample_id in sample_ids)


def is_finished(run_dir: Path, config: Config, iterations: Sequence[IterationSummary]) -> bool:
    """Whether toolrefine.loop.train would have nothing left to do."""

    def done(folder: Path) -> bool:
        names = [dataset_name(dataset) for dataset in config.evaluation.datasets]
        trained = folder.name == "000" or (folder / "model").exists()
        return trained and all((folder / evaluation_stage(name).path).exists() for name in names)

    folders = dict(iteration_folders(run_dir))
    if 0 not in folders or not done(folders[0]):
        return False
    num_solvable = -1  # the first iteration stalls at nothing
    for t in range(1, config.num_iterations + 1):
        it = next((it for it in iterations if it.iteration == t), None)
        if it is None or it.num_suspects is None:
            return False
        if not it.num_selected or (config.selection.stop_when_stalled and it.num_solvable <= num_solvable):
            break
        num_solvable = it.num_solvable
        if not done(folders[t]):
            return False
    return done(run_dir / "baseline") if config.baseline and any(it.training for it in iterations) else True


def load(folder: Path, stage: Stage[R]) -> list[R]:
    """The records of a stage; none where it is not complete."""
    path = folder / stage.path
    return list(read_records(path, stage.record)) if path.exists() else []


def iteration_folders(run_dir: Path) -> list[tuple[int, Path]]:
    """(t, folder) of each iteration that has begun, in order."""
    folders = (run_dir / "iterations").glob("*")
    return sorted((int(folder.name), folder) for folder in folders if folder.name.isdecimal())


def read_config(run_dir: Path) -> Config:
    """The config that a run was started with.

    Raises:
        RunDirError: the folder holds no run, or one of another version.
    """
    path = run_dir / "config.json"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise RunDirError(f"{run_dir}: no run here, {path.name} is missing; name the folder of a run") from None
    except OSError as error:
        raise RunDirError(f"{path}: not readable: {error}") from None
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        if is_ablation(text):
            raise RunDirError(f"{run_dir}: an ablation, not a run; {what_ablation_has(run_dir)}") from None
        raise RunDirError(f"{path}: not a config of this version of toolrefine: {describe(error)}") from None


def is_ablation(config: bytes) -> bool:
    """Whether a config.json is that of toolrefine ablate, which holds a recipe and is none."""
    try:
        tree = json.loads(config)
    except ValueError:
        return False
    return isinstance(tree, dict) and "recipe" in tree and "model" not in tree


def what_ablation_has(folder: Path) -> str:
    """Where the tables of an ablation are, and which of its folders are runs."""
    tables = folder / "ablation.md"
    runs = ", ".join(str(path.parent) for path in sorted(folder.glob("*/config.json")))
    where = f"{tables} has its tables" if tables.exists() else "it is not finished, and has no tables yet"
    return (
        f"{where}; toolrefine show takes {f'one of its runs: {runs}' if runs else 'its runs, of which none has begun'}"
    )


def evaluation_names(run_dir: Path, config: Config) -> list[str]:
    """Evaluation sets that a model has answered, in the order of the config."""
    names = dict.fromkeys(dataset_name(dataset) for dataset in config.evaluation.datasets)
    folders = [folder for _, folder in model_folders(run_dir)]
    return [name for name in names if any((folder / evaluation_stage(name).path).exists() for folder in folders)]


def model_folders(run_dir: Path) -> list[tuple[str, Path]]:
    """(name, folder) of each model of a run in the order of reports: base, plain SFT, the iterations."""
    iterations = [(f"iteration {t}", folder) for t, folder in iteration_folders(run_dir) if t]
    return [(BASE, run_dir / "iterations" / "000"), (BASELINE, run_dir / "baseline"), *iterations]


def read_answers(run_dir: Path, dataset: str) -> dict[str, list[EvalItem]]:
    """Name of a model -> its answers to an evaluation set."""
    return {model: load(folder, evaluation_stage(dataset)) for model, folder in model_folders(run_dir)}


def read_training(folder: Path) -> Training | None:
    """The training of an iteration or of the baseline, if it is complete."""
    path = folder / "model" / "training.json"
    if not path.exists():
        return None
    facts = json.loads(path.read_bytes())
    return Training.model_validate({name: value for name, value in facts.items() if name in Training.model_fields})


def count_lines(path: Path) -> int:
    """Lines of a file; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def read_wall_s(path: Path) -> dict[str, float]:
    """Seconds of each stage that metrics.jsonl tells of; a line torn by a kill is passed over."""
    seconds: Counter[str] = Counter()
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
            seconds[event["stage"]] += event["wall_s"]
        except (ValueError, KeyError, TypeError):
            continue
    return dict(seconds)
