from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from toolrefine.benchmarking import DRAFTS, run_benchmark, vote
from toolrefine.benchmarks.samples import SampleBenchmark
from toolrefine.benchmarks.task import Figure, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import BenchmarkConfig, PromptConfig, RefinementConfig
from toolrefine.datasets.toolworld import generate
from toolrefine.engines import NO_ROOM, Follow, SamplingParams
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import RequestError, RunDirError
from toolrefine.evaluate import evaluate
from toolrefine.formats import get_format
from toolrefine.intervals import Accuracy, mcnemar
from toolrefine.report import write_benchmark_report
from toolrefine.results import ALL, DRAFT, REFINED, BenchmarkResult, build_result, compare_runs, read_answered
from toolrefine.rundir import open_run
from toolrefine.scoreboard import comparison_sheet, notes, sheets, to_markdown
from toolrefine.show import print_answers
from toolrefine.types import Completion, Message, Outcome, Prompt, Sample, StopReason

MODEL = "a model"


class Counting:
    """Two steps: the model says 1, then what it is told, which is one more; and tasks of one step beside it."""

    name = "counting"
    categories = ("once", "twice")
    not_run: Mapping[str, str] = {"thrice": "it takes too long"}
    files: Sequence[Path] = ()

    def prompt(self, config: PromptConfig) -> PromptConfig:
        return config

    def load(self, category: str) -> Iterator[Task]:
        for number in range(7):
            messages = (Message(role="user", content=f"{number}"),)
            yield Task(id=f"{category}-{number}", category=category, messages=messages, gold=number)

    def judge(self, task: Task, completion: Completion) -> Verdict:
        right = completion.text == str(task.gold)
        return Verdict(valid=right, error_type="" if right else "another number", counts={"tokens": 2.0})

    def begin(self, task: Task) -> CountingEpisode | None:
        return CountingEpisode(task) if task.category == "twice" else None

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        return tuple(task.id for task in tasks if task.gold == 3)

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> tuple[Figure, ...]:
        total = sum(found["tokens"] for found in counts.values() if found)
        return (
            Figure(name="tokens", value=total, of=("once",)),
            Figure(name="all", value=None, of=("once", "thrice"), missing=("thrice",)),
        )


class CountingEpisode:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.said: list[str] = []

    def next_prompt(self, answer: Completion | None) -> Prompt | None:
        if answer is not None:
            self.said.append(answer.text)
        if len(self.said) == 2:
            return None
        wanted = Message(role="user", content=f"{self.task.gold + len(self.said)}")
        return Prompt(id=f"{self.task.id}/step-{len(self.said)}", messages=(wanted,), tools=())

    def verdict(self) -> Verdict:
        right = self.said == [str(self.task.gold), str(self.task.gold + 1)]
        return Verdict(valid=right, error_type="" if right else "lost count")

    def transcript(self) -> list[Message]:
        return [Message(role="assistant", content=text) for text in self.said]


def config_of(**changes: object) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate({"benchmark": "counting", "model": MODEL, "chunk_size": 4, **changes})


def measure(folder: Path, engine: ScriptedEngine, config: BenchmarkConfig) -> BenchmarkResult:
    with open_run(folder, config) as run:
        run_benchmark(Counting(), engine, config, run)
    return build_result(Counting(), read_answered(folder))


def echo(prompt: Prompt, _: int) -> str:
    return prompt.messages[0].content


def test_tasks_of_one_step_and_of_several_are_answered_and_judged(tmp_path: Path) -> None:
    result = measure(tmp_path, ScriptedEngine(echo), config_of())
    assert [(each.name, each.arms[0].accuracy.accuracy) for each in result.categories] == [
        ("once", 1.0),
        ("twice", 1.0),
    ]
    assert [each.arms[0].calls_per_task for each in result.categories] == [1.0, 2.0]
    assert (result.overall.arms[0].accuracy.n, result.overall.num_wrong_golds) == (14, 2)
    assert result.not_run == {"thrice": "it takes too long"}
    assert [figure.value for figure in result.figures[DRAFT]] == [14.0, None]
    text = to_markdown(sheets(result), notes(result))
    assert "| all |" in text
    assert "thrice" in text


def test_refinement_is_compared_with_the_draft_alone(tmp_path: Path) -> None:
    def answer(prompt: Prompt, _: int) -> str:
        refining = "round-" in prompt.id
        number = int(prompt.messages[0].content)
        return str(number) if refining or number % 2 else "what?"

    result = measure(tmp_path, ScriptedEngine(answer), config_of(refinement=RefinementConfig(max_rounds=2)))
    once, twice = result.categories
    assert [arm.name for arm in once.arms] == [DRAFT, REFINED]
    assert [arm.accuracy.correct for arm in once.arms] == [3, 7]
    assert once.arms[1].against_draft is not None
    assert (once.arms[1].against_draft.fixed, once.arms[1].against_draft.broken) == (4, 0)
    assert [each.correct for each in once.arms[1].by_round] == [3, 7]  # two refusals are the same answer
    assert [arm.accuracy.correct for arm in twice.arms] == [0, 7]
    assert (tmp_path / DRAFTS.path).exists()


class Bound(ScriptedEngine):
    """Says the number where it is constrained, and nothing of use by itself."""

    def __init__(self) -> None:
        self.bound = False
        super().__init__(self.reply, logprob=lambda prompt, _: -5.0 if "round-" in prompt.id else -1.0)

    def reply(self, prompt: Prompt, _: int) -> str:
        return prompt.messages[0].content if self.bound else "what?"

    def _complete(self, text: str) -> Completion:
        return super()._complete(text).model_copy(update={"bent": self.bound})

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        self.bound = params.constrain
        return super().chain(prompts, params, follow)


def test_a_constrained_answer_is_compared_with_what_the_model_says_by_itself(tmp_path: Path) -> None:
    policy = RefinementConfig(max_rounds=1, how="resample", accept="likelier", constrain=True)
    result = measure(tmp_path, Bound(), config_of(refinement=policy))
    assert [[arm.accuracy.correct for arm in each.arms] for each in result.categories] == [[0, 7], [0, 7]]
    draft, refined = result.categories[0].arms
    assert (draft.calls_per_task, refined.calls_per_task) == (1.0, 2.0)
    assert refined.against_draft is not None and refined.against_draft.fixed == 7
    assert [each.correct for each in refined.by_round] == [7, 7]
    assert "| 0 | 100.0 |" in to_markdown(sheets(result), notes(result))
    console = Console(record=True, file=StringIO(), width=120)
    print_answers(tmp_path, console, task_id="once-2")
    shown = console.export_text()
    assert "draft another number what?" in shown
    assert "round 0 right 2" in shown
    assert "round 1 not accepted 2" in shown
    page = write_benchmark_report(tmp_path, read_answered(tmp_path), result).read_text()
    assert page.index("Fixed by refinement") < page.index("<dt>draft</dt>") < page.index("<dt>round 0</dt>")
    assert "not accepted" in page


def test_a_constraint_alone_is_compared_too(tmp_path: Path) -> None:
    result = measure(tmp_path, Bound(), config_of(refinement=RefinementConfig(max_rounds=0, constrain=True)))
    assert [(arm.name, arm.accuracy.correct, arm.calls_per_task) for arm in result.categories[0].arms] == [
        (DRAFT, 0, 1.0),
        (REFINED, 7, 1.0),
    ]


def test_held_out_answers_hold_what_the_model_says_by_itself(samples: list[Sample]) -> None:
    single = [sample for sample in samples if sample.kind == "single"][:3]
    golds = {sample.id: get_format("pythonic").render(sample.target.tool_calls) for sample in single}
    engine = Bound()
    engine.answer = lambda prompt, _: golds[prompt.id] if engine.bound else "what?"
    policy = RefinementConfig(max_rounds=0, constrain=True)
    [bound] = evaluate(0, 4, engine, single, policy, PromptConfig(), max_new_tokens=9)
    assert [(each.scores[0].correct, each.draft[0].text, each.draft[1].correct) for each in bound] == [
        (True, "what?", False)
    ] * 3
    unbent = ScriptedEngine(lambda prompt, _: golds[prompt.id])
    [kept] = evaluate(0, 4, unbent, single, policy, PromptConfig(), max_new_tokens=9)
    assert unbent.num_prompts == 3
    assert all(each.alone is None and each.draft[1].correct for each in kept)
    [plain] = evaluate(0, 4, engine, single, RefinementConfig(max_rounds=0), PromptConfig(), max_new_tokens=9)
    assert [(each.alone, each.draft) for each in plain] == [
        (None, (each.refinement.draft, each.scores[0])) for each in plain
    ]


def test_an_answer_that_had_no_room_is_wrong_and_counted(tmp_path: Path) -> None:
    class Full(ScriptedEngine):
        def _complete(self, text: str) -> Completion:
            return NO_ROOM if text == "2" else super()._complete(text)

    engine = Full(echo)
    result = measure(tmp_path, engine, config_of(refinement=RefinementConfig(max_rounds=1)))
    draft, refined = result.categories[0].arms
    assert (draft.accuracy.correct, draft.num_unanswered) == (6, 1)
    assert refined.num_unanswered == 1


def test_a_round_without_room_leaves_the_answer_before_it(tmp_path: Path) -> None:
    class Full(ScriptedEngine):
        def _complete(self, text: str) -> Completion:
            return NO_ROOM if text == "full" else super()._complete(text)

    def answer(prompt: Prompt, _: int) -> str:
        return "full" if "round-" in prompt.id else echo(prompt, 0)

    result = measure(tmp_path, Full(answer), config_of(refinement=RefinementConfig(max_rounds=2)))
    assert result.overall.arms[1].accuracy.accuracy == 1.0
    assert result.overall.arms[1].stop_reasons == {StopReason.NO_ROOM: 21}


def test_rivals_vote_and_choose(tmp_path: Path) -> None:
    def answer(prompt: Prompt, index: int) -> str:
        return echo(prompt, 0) if index != 0 else "[f(a="

    result = measure(tmp_path, ScriptedEngine(answer), config_of(rivals=("vote:3", "best:2")))
    arms = {arm.name: arm for arm in result.categories[0].arms}
    assert arms["vote:3"].accuracy.correct == 7
    assert arms["vote:3"].calls_per_task == 3
    assert arms["best:2"].accuracy.correct == 0  # equally probable: the first
    assert {arm.name for arm in result.categories[1].arms} == {DRAFT}


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 9, 13, 20])
def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    config = config_of(refinement=RefinementConfig(max_rounds=1), rivals=("vote:2",))
    whole = measure(tmp_path / "whole", ScriptedEngine(echo), config)
    engine = ScriptedEngine(echo)

    def fail(prompt: Prompt, index: int) -> str:
        if engine.num_prompts > stop_after:
            raise KeyboardInterrupt
        return echo(prompt, index)

    engine.answer = fail
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "torn", engine, config)
    with pytest.raises(RunDirError, match="not complete"):
        read_answered(tmp_path / "torn")
    assert measure(tmp_path / "torn", ScriptedEngine(echo), config) == whole
    for path in (tmp_path / "whole").glob("*.jsonl"):
        if path.name != "metrics.jsonl":
            assert path.read_bytes() == (tmp_path / "torn" / path.name).read_bytes()


def test_the_report_escapes_what_models_and_data_say(tmp_path: Path) -> None:
    class Hostile(Counting):
        def load(self, category: str) -> Iterator[Task]:
            for task in super().load(category):
                yield task.model_copy(update={"gold": "<script>alert(1)</script>"})

        def begin(self, task: Task) -> None:
            return

    config = config_of()
    with open_run(tmp_path, config) as run:
        run_benchmark(Hostile(), ScriptedEngine(lambda *_: "<img src=x onerror=alert(1)>|[red]"), config, run)
    answered = read_answered(tmp_path)
    page = write_benchmark_report(tmp_path, answered, build_result(Hostile(), answered)).read_text()
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "Content-Security-Policy" in page


def test_two_runs_are_compared_task_by_task(tmp_path: Path) -> None:
    measure(tmp_path / "a", ScriptedEngine(lambda prompt, _: "0"), config_of())
    measure(tmp_path / "b", ScriptedEngine(echo), config_of())
    whole, once, twice = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (whole.name, whole.n, whole.fixed, whole.broken) == (ALL, 14, 13, 0)
    assert (once.fixed, twice.fixed) == (6, 7)
    assert once.p_value == pytest.approx(2 / 2**6)
    with pytest.raises(RequestError, match="has no arm vote:5; it has draft"):
        compare_runs(tmp_path / "a", tmp_path / "b", "vote:5")
    with pytest.raises(RunDirError, match="no run of toolrefine evaluate"):
        compare_runs(tmp_path, tmp_path / "b")


def test_samples_as_a_benchmark_score_their_targets_as_right(tmp_path: Path) -> None:
    samples = list(generate("museum", 40, 5))
    benchmark = SampleBenchmark("museum", samples)
    by_id = {sample.id: sample for sample in samples}

    def answer(prompt: Prompt, _: int) -> str:
        target = by_id[prompt.id].target
        return get_format("pythonic").render(target.tool_calls) if target.tool_calls else "I cannot."

    config = config_of(benchmark="museum")
    with open_run(tmp_path, config) as run:
        run_benchmark(benchmark, ScriptedEngine(answer), config, run)
    result = build_result(benchmark, read_answered(tmp_path))
    assert result.overall.arms[0].accuracy.correct == 40
    assert [each.name for each in result.categories] == ["single", "parallel", "no_call"]


def test_limit_is_that_of_a_category(tmp_path: Path) -> None:
    result = measure(tmp_path, ScriptedEngine(echo), config_of(limit=3))
    assert [each.arms[0].accuracy.n for each in result.categories] == [3, 3]


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    measure(tmp_path, ScriptedEngine(echo), config_of())
    with pytest.raises(RunDirError, match="model"):
        measure(tmp_path, ScriptedEngine(echo), config_of(model="another"))


def test_a_result_names_the_adapter(tmp_path: Path) -> None:
    result = measure(tmp_path, ScriptedEngine(echo), config_of(adapter="runs/own/model"))
    assert result.model == f"{MODEL} + runs/own/model"


def test_a_comparison_names_both_arms_where_they_differ(tmp_path: Path) -> None:
    measure(tmp_path / "a", ScriptedEngine(echo), config_of(refinement={"max_rounds": 1}))
    measure(tmp_path / "b", ScriptedEngine(echo), config_of())
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert comparison_sheet(found).title == "Before against after, arms refined and draft"
    assert comparison_sheet(compare_runs(tmp_path / "b", tmp_path / "b")).title.endswith(", arm draft")


def test_a_run_of_train_is_none_of_evaluate(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": "M", "datasets": []}')
    with pytest.raises(RunDirError, match="no run of toolrefine evaluate; name a folder that evaluate has made"):
        read_answered(tmp_path)


completions = st.builds(
    lambda text, outcome: Completion(
        text=text,
        calls=get_format("pythonic").parse(text).calls,
        outcome=outcome if text == "no" else get_format("pythonic").parse(text).outcome,
        num_tokens=1,
        mean_logprob=None,
    ),
    st.sampled_from(["[f(a=1)]", "[f(a=1.0)]", "[f(a=2)]", "no", "[f("]),
    st.sampled_from([Outcome.NO_CALL, Outcome.TRUNCATED]),
)


@given(st.lists(completions, min_size=1, max_size=9))
def test_a_vote_is_won_by_a_readable_answer_with_most_voices(group: list[Completion]) -> None:
    readable = [each for each in group if each.outcome in (Outcome.CALLS, Outcome.NO_CALL)]
    winner = group[vote(group)]
    if readable:
        assert winner in readable
        assert sum(each.calls == winner.calls for each in readable) * 3 >= len(readable)
    else:
        assert vote(group) == 0


@given(fixed=st.integers(0, 2000), broken=st.integers(0, 2000))
def test_mcnemars_p_value_is_symmetric_and_falls_with_unevenness(fixed: int, broken: int) -> None:
    p_value = mcnemar(fixed, broken)
    assert 0 <= p_value <= 1
    assert p_value == mcnemar(broken, fixed)
    if fixed >= broken:
        assert mcnemar(fixed + 1, broken) <= p_value or fixed == broken


def test_mcnemars_p_value_of_a_known_split() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 2) == pytest.approx(0.03857, abs=1e-5)
