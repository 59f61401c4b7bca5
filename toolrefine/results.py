"""What a benchmark run has measured: accuracies by arm and category, the official summary, and paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from toolrefine.benchmarking import ANSWERS, DRAFTS, SAMPLES, TASKS, best, run_benchmark, vote
from toolrefine.benchmarks.answers import Answer, Samples
from toolrefine.benchmarks.task import Benchmark, Figure, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import BenchmarkConfig, describe
from toolrefine.engines import open_engine
from toolrefine.errors import RequestError, RunDirError
from toolrefine.intervals import Accuracy, Paired, mcnemar, measure, measure_by_round, paired
from toolrefine.rundir import Progress, R, open_run, write_json
from toolrefine.summary import load
from toolrefine.types import Checkpoint, Record, StopReason

DRAFT, REFINED = "draft", "refined"
ALL = "all"
RESULT = "result.json"


class ArmResult(Record):
    """One way of answering, on the tasks of one category or on all."""

    name: str
    """draft, refined, vote:N or best:N."""
    accuracy: Accuracy
    """Of the tasks, those without an answer counting as wrong."""
    num_unanswered: int
    """Tasks whose prompt leaves no room for an answer: wrong here, whatever the benchmark makes of silence."""
    calls_per_task: float
    """Completions of the model for an answer, what it costs."""
    tokens_per_task: float
    """Sampled tokens."""
    by_round: tuple[Accuracy, ...] = ()
    """refined: after each round, the draft first; who has stopped keeps the last answer. Tasks of one step only."""
    stop_reasons: dict[StopReason, int] = {}
    """refined: why the rounds ended, steps of episodes each."""
    error_types: dict[str, int] = {}
    """What was wrong, most often first."""
    against_draft: Paired | None = None
    """Of the other arms: draft before, this one after."""


class CategoryResult(Record):
    """One category, or all together."""

    name: str
    arms: tuple[ArmResult, ...]
    """Draft first."""
    num_wrong_golds: int
    """Tasks that not even the gold answer solves; they count as any other."""


class BenchmarkResult(Record):
    """One model on one benchmark."""

    benchmark: str
    model: str
    """And its adapter."""
    config: BenchmarkConfig
    overall: CategoryResult
    """All tasks together, each counting the same."""
    categories: tuple[CategoryResult, ...]
    figures: dict[str, tuple[Figure, ...]]
    """Arm -> the benchmark's own summary."""
    not_run: dict[str, str]
    """Category -> why it was not run."""
    wrong_golds: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """One task under one arm."""

    verdict: Verdict
    answered: bool
    num_calls: int
    num_tokens: int

    @property
    def right(self) -> bool:
        """Whether it counts as right."""
        return self.answered and self.verdict.valid


Arm = dict[str, Outcome]
"""Task id -> outcome."""


@dataclass(frozen=True)
class Answered:
    """A complete run of a benchmark, read."""

    config: BenchmarkConfig
    tasks: list[Task]
    answers: list[Answer]
    drafts: dict[str, Answer]
    """Task -> what the model says without refinement, where it was asked for that apart."""
    arms: dict[str, Arm]


def measure_benchmark(
    benchmark: Benchmark,
    checkpoint: Checkpoint,
    config: BenchmarkConfig,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[Answered, BenchmarkResult]:
    """Run a benchmark into a folder, resuming, and write its result there.

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    requests = folder / "requests.jsonl"
    engine_config = config.engine.model_copy(update={"answers": str(requests)})
    with (
        open_run(folder, config, progress) as run,
        open_engine(checkpoint, engine_config, benchmark.prompt(config.prompt)) as engine,
    ):
        run_benchmark(benchmark, engine, config, run)
        requests.unlink(missing_ok=True)
        answered = read_answered(folder)
        result = build_result(benchmark, answered)
        write_json(folder / RESULT, result.model_dump(mode="json"))
    return answered, result


def read_answered(folder: Path) -> Answered:
    """The answers of a run of toolrefine.benchmarking.

    Raises:
        RunDirError: the folder holds none, or one that is not complete.
    """
    try:
        config = BenchmarkConfig.model_validate_json((folder / "config.json").read_bytes())
    except OSError:
        raise RunDirError(f"{folder}: no run of toolrefine evaluate is here, config.json is missing") from None
    except ValidationError as error:
        if not (folder / TASKS.path).exists():
            raise RunDirError(
                f"{folder}: no run of toolrefine evaluate; name a folder that evaluate has made"
            ) from None
        raise RunDirError(f"{folder}/config.json: not of this version of toolrefine: {describe(error)}") from None
    if not (folder / ANSWERS.path).exists():
        raise RunDirError(f"{folder}: not complete; repeat the command that made it, which goes on from here")
    answers = load(folder, ANSWERS)
    drafts = {each.task_id: each for each in load(folder, DRAFTS)}
    return Answered(
        config=config,
        tasks=load(folder, TASKS),
        answers=answers,
        drafts=drafts,
        arms=collect_arms(answers, drafts, load(folder, SAMPLES), config),
    )


def read_result(folder: Path) -> BenchmarkResult | None:
    """The result that evaluate has left in a folder; None where it is no folder of evaluate's.

    Raises:
        RunDirError: it is not complete, or of another version.
    """
    if not (folder / TASKS.path).exists():
        return None
    try:
        return BenchmarkResult.model_validate_json((folder / RESULT).read_bytes())
    except OSError:
        raise RunDirError(f"{folder}: not complete; repeat the command that made it, which goes on from here") from None
    except ValidationError as error:
        raise RunDirError(f"{folder}/{RESULT}: not of this version of toolrefine: {describe(error)}") from None


def build_result(benchmark: Benchmark, answered: Answered) -> BenchmarkResult:
    """All figures of a run."""
    tasks, arms = answered.tasks, answered.arms
    wrong_golds = benchmark.wrong_golds(tasks)
    categories = [name for name in benchmark.categories if any(task.category == name for task in tasks)]

    def category(name: str) -> CategoryResult:
        ids = ids_of(tasks, name)
        answers = [each for each in answered.answers if name in (ALL, each.category)]
        return CategoryResult(
            name=name,
            arms=tuple(
                build_arm(arm, {i: outcomes[i] for i in ids if i in outcomes}, arms[DRAFT], answers)
                for arm, outcomes in arms.items()
                if any(i in outcomes for i in ids)
            ),
            num_wrong_golds=len({*wrong_golds}.intersection(ids)),
        )

    results = tuple(map(category, categories))
    return BenchmarkResult(
        benchmark=benchmark.name,
        model=" + ".join(filter(None, (answered.config.model, answered.config.adapter))),
        config=answered.config,
        overall=category(ALL),
        categories=results,
        figures={
            arm: tuple(
                benchmark.summarize(
                    {each.name: found.accuracy for each in results for found in each.arms if found.name == arm},
                    sum_counts(tasks, outcomes),
                )
            )
            for arm, outcomes in arms.items()
        },
        not_run=dict(benchmark.not_run),
        wrong_golds=wrong_golds,
    )


def ids_of(tasks: Sequence[Task], category: str) -> list[str]:
    """The tasks of a category, or all."""
    return [task.id for task in tasks if category in (ALL, task.category)]


def collect_arms(
    answers: Sequence[Answer], drafts: Mapping[str, Answer], samples: Sequence[Samples], config: BenchmarkConfig
) -> dict[str, Arm]:
    """Arm -> its outcomes; the rivals cover tasks of one step only."""
    arms = {DRAFT: {each.task_id: draft_outcome(drafts.get(each.task_id, each)) for each in answers}}
    if config.refinement.acts:
        arms[REFINED] = {
            each.task_id: Outcome(each.verdicts[-1], each.answered, each.num_calls, each.num_tokens) for each in answers
        }
    for rival in config.rivals:
        kind, n = rival.split(":")
        arms[rival] = {each.task_id: rival_outcome(each, kind, int(n)) for each in samples}
    return arms


def draft_outcome(answer: Answer) -> Outcome:
    """The first answer alone; an episode must have been run without refinement."""
    num_tokens = sum(step.draft.num_tokens for step in answer.steps)
    return Outcome(answer.verdicts[0], answer.answered, len(answer.steps), num_tokens)


def rival_outcome(samples: Samples, kind: str, n: int) -> Outcome:
    """The vote of the first n samples, or the most probable of them."""
    completions = samples.completions[:n]
    chosen = (vote if kind == "vote" else best)(completions)
    tokens = sum(completion.num_tokens for completion in completions)
    return Outcome(samples.verdicts[chosen], not completions[chosen].had_no_room, len(completions), tokens)


def build_arm(name: str, outcomes: Arm, drafts: Arm, answers: Sequence[Answer]) -> ArmResult:
    """The figures of one arm on some tasks; answers are those of the same tasks."""
    n = len(outcomes)
    refined = name == REFINED
    single = [each for each in answers if len(each.verdicts) == len(each.steps[0].rounds) and not each.transcript]
    return ArmResult(
        name=name,
        accuracy=measure(outcome.right for outcome in outcomes.values()),
        num_unanswered=sum(not outcome.answered for outcome in outcomes.values()),
        calls_per_task=sum(outcome.num_calls for outcome in outcomes.values()) / n,
        tokens_per_task=sum(outcome.num_tokens for outcome in outcomes.values()) / n,
        by_round=measure_by_round([[each.answered and verdict.valid for verdict in each.verdicts] for each in single])
        if refined and single
        else (),
        stop_reasons=count(step.stop_reason for each in answers for step in each.steps) if refined else {},
        error_types=count(outcome.verdict.error_type for outcome in outcomes.values() if not outcome.verdict.valid),
        against_draft=None
        if name == DRAFT
        else paired([drafts[i].right for i in outcomes], [outcome.right for outcome in outcomes.values()]),
    )


def sum_counts(tasks: Sequence[Task], outcomes: Arm) -> dict[str, dict[str, float]]:
    """Category -> the sums of its verdicts' counts."""
    sums: dict[str, Counter[str]] = {}
    for task in tasks:
        if task.id in outcomes:
            sums.setdefault(task.category, Counter()).update(outcomes[task.id].verdict.counts)
    return {category: dict(found) for category, found in sums.items()}


def count(items: Iterable[R]) -> dict[R, int]:
    """How often each item comes, most often first."""
    return dict(Counter(items).most_common())


class RunComparison(Paired):
    """One arm of two runs on the tasks that both have."""

    name: str
    """A category, or all."""
    arm: str
    """After."""
    arm_before: str
    p_value: float
    """McNemar's exact test: two-sided, on the tasks that changed."""


def compare_runs(before: Path, after: Path, arm: str = "") -> list[RunComparison]:
    """Two runs of one benchmark, all tasks together and category by category.

    arm is one that both have; by default what each gives in the end: refined where it was refined, else draft.

    Raises:
        RequestError: they share no task, or one lacks the arm.
        RunDirError: one is no complete run.
    """
    runs = [read_answered(path) for path in (before, after)]
    names = [arm or (REFINED if REFINED in run.arms else DRAFT) for run in runs]
    for path, run, name in zip((before, after), runs, names, strict=True):
        if name not in run.arms:
            raise RequestError(f"{path}: has no arm {name}; it has {', '.join(run.arms)}")
    old, new = (run.arms[name] for run, name in zip(runs, names, strict=True))
    comparisons = []
    for category in dict.fromkeys([ALL, *(task.category for task in runs[1].tasks)]):
        shared = [i for i in ids_of(runs[1].tasks, category) if i in old and i in new]
        if shared:
            result = paired([old[i].right for i in shared], [new[i].right for i in shared])
            p_value = mcnemar(result.fixed, result.broken)
            comparisons.append(
                RunComparison(name=category, arm=names[1], arm_before=names[0], p_value=p_value, **result.model_dump())
            )
    if not comparisons:
        raise RequestError(f"{before} and {after} share no task; both must be runs of one benchmark")
    return comparisons
