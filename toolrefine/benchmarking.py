"""Running a benchmark: every task answered, refined and judged round by round, and rivals at equal cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from toolrefine.benchmarks.answers import Answer, Samples
from toolrefine.benchmarks.task import Benchmark, Episode, Task
from toolrefine.config import UNREFINED, BenchmarkConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import majority
from toolrefine.refine import Rounds, answer_all
from toolrefine.rollout import chunks
from toolrefine.rundir import RunDir, Stage
from toolrefine.types import Completion, Prompt, Refinement

TASKS = Stage("tasks.jsonl", Task)
ANSWERS = Stage("answers.jsonl", Answer)
DRAFTS = Stage("drafts.jsonl", Answer)
"""Answers without refinement where it changes what comes first: the course of an episode, or a draft that a constraint
bends. Of other tasks the draft is round 0 of the answer."""
SAMPLES = Stage("samples.jsonl", Samples)


def run_benchmark(benchmark: Benchmark, engine: Engine, config: BenchmarkConfig, run: RunDir) -> None:
    """Fill a run directory with tasks, answers and, where rivals are asked for, samples; resumes.

    The engine must have been opened with benchmark.prompt(config.prompt).

    Raises:
        ToolrefineError: see toolrefine.errors.
    """
    run.check_sources(TASKS, benchmark.files)
    tasks = run.stage(TASKS, load_tasks, benchmark, config.limit)
    prompt = benchmark.prompt(config.prompt)
    params = SamplingParams(temperature=0.0, max_new_tokens=config.max_new_tokens, seed=config.seed)
    refinement = config.refinement
    size = config.chunk_size
    answers = run.stream(ANSWERS, size, len(tasks), answer, engine, benchmark, tasks, refinement, prompt, params)
    episodes = {task.id for task in tasks if benchmark.begin(task)}
    bent = {each.task_id for each in answers if refinement.constrain and each.steps[0].draft.bent}
    apart = [task for task in tasks if task.id in episodes | bent] if refinement.acts else []
    if apart:
        run.stream(DRAFTS, size, len(apart), answer, engine, benchmark, apart, UNREFINED, prompt, params)
    if n := config.num_rival_samples:
        params = params.model_copy(update={"temperature": config.temperature})
        single = [task for task in tasks if task.id not in episodes]
        run.stream(SAMPLES, size, len(single), sample, engine, benchmark, single, params, n=n)


def load_tasks(benchmark: Benchmark, limit: int | None) -> Iterator[Task]:
    """The tasks of all categories, at most limit of each."""
    for category in benchmark.categories:
        yield from islice(benchmark.load(category), limit)


def answer(
    skip: int,
    chunk_size: int,
    engine: Engine,
    benchmark: Benchmark,
    tasks: Sequence[Task],
    refinement: RefinementConfig,
    prompt: PromptConfig,
    params: SamplingParams,
) -> Iterator[list[Answer]]:
    """Yield the judged answers to tasks[skip:], chunk_size at a time, in order; tasks go on side by side."""
    for chunk in chunks(tasks[skip:], chunk_size):
        players = [Player(task, benchmark, refinement, prompt) for task in chunk]

        def then(place: int, players: Sequence[Player] = players) -> Rounds | None:
            return players[place].next_step()

        answer_all(engine, [player.rounds for player in players], params, then)
        yield [player.result() for player in players]
        engine.forget()


class Player:
    """One task on its way: the rounds of the step at hand, and the steps done."""

    def __init__(self, task: Task, benchmark: Benchmark, refinement: RefinementConfig, prompt: PromptConfig) -> None:
        self.task, self.benchmark, self.refinement, self.prompt_config = task, benchmark, refinement, prompt
        self.episode: Episode | None = benchmark.begin(task)
        first = self.episode.next_prompt(None) if self.episode else None
        self.rounds = self._begin(first or task.prompt)
        self.steps: list[Refinement] = []

    def next_step(self) -> Rounds | None:
        """Take the rounds of a step that have ended; those of the next, if there is one."""
        step = self.rounds.result()
        self.steps.append(step)
        following = self.episode.next_prompt(step.final) if self.episode else None
        if following is None:
            return None
        self.rounds = self._begin(following)
        return self.rounds

    def _begin(self, prompt: Prompt) -> Rounds:
        return Rounds(prompt, self.refinement, self.prompt_config)

    def result(self) -> Answer:
        """The judged answer."""
        if self.episode is not None:
            verdicts, transcript = [self.episode.verdict()], self.episode.transcript()
        else:
            verdicts, transcript = [self.benchmark.judge(self.task, each) for each in self.steps[0].answers], ()
        return Answer(
            task_id=self.task.id,
            category=self.task.category,
            steps=tuple(self.steps),
            verdicts=tuple(verdicts),
            transcript=tuple(transcript),
        )


def sample(
    skip: int,
    chunk_size: int,
    engine: Engine,
    benchmark: Benchmark,
    tasks: Sequence[Task],
    params: SamplingParams,
    *,
    n: int,
) -> Iterator[list[Samples]]:
    """Yield n judged samples of each of tasks[skip:], chunk_size tasks at a time, in order."""
    for chunk in chunks(tasks[skip:], chunk_size):
        prompts = [task.prompt for task in chunk]
        yield [
            Samples(
                task_id=task.id,
                category=task.category,
                completions=tuple(group),
                verdicts=tuple(benchmark.judge(task, completion) for completion in group),
            )
            for task, group in zip(chunk, engine.sample(prompts, n, params), strict=True)
        ]
        engine.forget()


def vote(completions: Sequence[Completion]) -> int:
    """The place of the answer that most completions agree on; the first where none can be read."""
    found = majority(completions)
    return found[0] if found else 0


def best(completions: Sequence[Completion]) -> int:
    """The place of the completion with the highest mean log-probability, the earliest of equals.

    Where a server does not tell probabilities, that is the first.
    """
    scores = [float("-inf") if c.mean_logprob is None else c.mean_logprob for c in completions]
    return scores.index(max(scores))
