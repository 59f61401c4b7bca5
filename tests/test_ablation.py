"""The ablation with a scripted engine, a trainer that only takes notes, and a progress that kills."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from test_benchmarking import Counting
from test_loop import Killed, World, data_files, make_config
from test_loop import train as train_alone
from typer.testing import CliRunner

from toolrefine import loop, results
from toolrefine.ablation import Ablation, AblationResult, ablate, arms
from toolrefine.ablation.table import notes, sheets
from toolrefine.ablation.variants import FULL, build_variants, fixed_rounds, share_stages
from toolrefine.benchmarks.samples import SampleBenchmark
from toolrefine.benchmarks.task import Benchmark
from toolrefine.cli import ablate as verb
from toolrefine.config import BenchmarkConfig, Config
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import ConfigError
from toolrefine.intervals import holm
from toolrefine.rundir import POOL, ROLLOUTS, SELECTED, Silent, open_run
from toolrefine.scoreboard import to_markdown
from toolrefine.types import Checkpoint, Example, Prompt, Sample


class Laboratory(World):
    """Counts aloud what is no sample, and can be killed in the middle of a training."""

    kill_training = ""

    @contextmanager
    def open_engine(self, model: Checkpoint, *rest: Any) -> Iterator[ScriptedEngine]:
        with super().open_engine(model, *rest) as engine:
            solve = engine.answer

            def answer(prompt: Prompt, index: int) -> str:
                known = prompt.id.partition("/round-")[0] in self.targets
                return solve(prompt, index) if known else prompt.messages[0].content

            engine.answer = answer
            yield engine

    def sft(
        self, partial: Path, final: Path, base: Checkpoint, corpus: Sequence[Example], config: Config, **rest: Any
    ) -> Checkpoint:
        checkpoint = super().sft(partial, final, base, corpus, config, **rest)
        if self.kill_training and final.match(f"*/{self.kill_training}/model"):
            raise Killed
        return checkpoint


class Killer(Silent):
    """Kills at a moment of a stage: when it begins, after its first chunk, or when it is complete."""

    def __init__(self, stage: str, moment: str) -> None:
        self.stage, self.moment, self.now = stage, moment, ""

    def begin(self, what: str, total: int | None) -> None:
        self.now = what
        self.check("begin", what)

    def advance(self, done: int) -> None:
        if done:
            self.check("advance", self.now)

    def end(self, what: str, found: bool) -> None:
        self.check("end", what)

    def check(self, moment: str, what: str) -> None:
        if (self.moment, self.stage) == (moment, what):
            raise Killed


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch, samples: list[Sample]) -> Laboratory:
    return install(Laboratory(samples), monkeypatch)


def install(laboratory: Laboratory, patch: pytest.MonkeyPatch) -> Laboratory:
    patch.setattr(loop, "open_engine", laboratory.open_engine)
    patch.setattr(results, "open_engine", laboratory.open_engine)
    patch.setattr(loop, "sft", laboratory.sft)
    patch.setattr(loop, "check_template", lambda *_: None)
    patch.setattr(arms, "fingerprint", lambda _: "")  # it would tell two runs apart by their times
    patch.setattr(os, "fsync", lambda _: None)  # what is killed here is the process, not the machine
    return laboratory


class Whole(NamedTuple):
    """An ablation that nothing has disturbed."""

    folder: Path
    result: AblationResult
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def whole(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        install(Laboratory(samples), patch)
        result = run(folder, plan("counting"), [Counting()])
    return Whole(folder, result, final_files(folder))


def plan(*benchmarks: str, **changes: Any) -> Ablation:
    settings = {"num_iterations": 2, "baseline": False, **changes}
    return Ablation(
        recipe=make_config(Path(), **settings),
        benchmarks=tuple(BenchmarkConfig(benchmark=name, model="base", chunk_size=4) for name in benchmarks),
    )


def run(
    folder: Path, config: Ablation, benchmarks: Sequence[Benchmark] = (), progress: Killer | None = None
) -> AblationResult:
    with open_run(folder, config, progress) as opened:
        return ablate(config, benchmarks, opened)


def final_files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but for what tells times and where it is."""
    found = data_files(folder)
    for path in [*folder.rglob("*.json"), folder / "ablation.md"]:
        if path.name != "env.json":
            found[str(path.relative_to(folder))] = path.read_bytes().replace(str(folder).encode(), b"HERE")
    return found


def test_every_arm_is_measured_and_compared(whole: Whole) -> None:
    result = whole.result
    names = ["base", "plain SFT", "one iteration", "iterative", "without refinement data", "without right drafts"]
    assert [arm.name for arm in result.arms] == names
    museum, _ = result.benchmarks
    assert {(score.arm, score.way) for score in museum.scores} == {
        *((name, way) for name in names for way in ("draft", "adaptive")),
        ("iterative", "fixed"),
    }
    calls = {(score.arm, score.way): score.calls_per_sample for score in museum.scores}
    assert [calls["iterative", way] for way in ("draft", "adaptive", "fixed")] == [1.0, 2.0, 3.0]
    accuracy = {score.arm: score.accuracy.correct for score in museum.scores}
    assert (accuracy["base"], accuracy["plain SFT"], accuracy["one iteration"], accuracy["iterative"]) == (4, 4, 6, 6)
    pairs = {(each.name, each.against): each for each in museum.contrasts}
    assert (pairs["iterative", "plain SFT"].fixed, pairs["iterative", "plain SFT"].broken) == (2, 0)
    assert ("iterative + fixed rounds", "iterative + refinement") in pairs
    assert ("base", "plain SFT") not in pairs
    assert all(each.p_value <= each.p_holm <= 1 for each in museum.contrasts)


def test_the_trainings_differ_in_their_corpus_and_take_steps_as_told(whole: Whole) -> None:
    found = {arm.name: arm for arm in whole.result.arms}
    assert found["base"].num_steps == 0
    assert found["plain SFT"].num_steps == found["iterative"].num_steps > found["one iteration"].num_steps
    assert found["plain SFT"].num_selected == (10,)
    assert found["iterative"].num_selected == (4, 8)
    assert found["one iteration"].num_selected == (4,)
    assert sum(found["iterative"].num_right_drafts) > 0
    assert sum(found["without refinement data"].num_refine) == 0
    assert sum(found["without right drafts"].num_refine) > sum(found["without right drafts"].num_right_drafts) == 0


def test_a_variant_is_what_training_it_alone_gives(whole: Whole, laboratory: Laboratory, tmp_path: Path) -> None:
    for name, variant in build_variants(plan().recipe).items():
        train_alone(variant.model_copy(update={"run": str(tmp_path / name)}))
        assert data_files(tmp_path / name) == data_files(whole.folder / name)


def test_what_is_equal_is_computed_once_and_stored_once(whole: Whole) -> None:
    for name in ("no-refinement-data", "only-wrong-drafts"):
        made = {json.loads(line)["stage"] for line in (whole.folder / name / "metrics.jsonl").read_text().splitlines()}
        early = ["pool", "held_out/museum", "iterations/000/eval/museum", "iterations/001/rollouts"]
        assert made.isdisjoint([*early, "iterations/001/selected", "iterations/001/suspects"])
        assert {"iterations/001/corpus", "iterations/001/model", "iterations/002/rollouts"} <= made
        for path in early:
            file = f"{path}.jsonl"
            assert (whole.folder / name / file).stat().st_ino == (whole.folder / FULL / file).stat().st_ino


def test_the_models_stand_where_the_ablation_does(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "copy")
    _, *trained = arms.find_arms(tmp_path / "copy", build_variants(plan().recipe))
    assert len(trained) == 5
    assert all(Path(arm.checkpoint.model) == arm.folder / "model" for arm in trained)


def test_without_hard_links_files_are_copied(
    whole: Whole, laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run(tmp_path, plan("counting"), [Counting()])
    assert final_files(tmp_path) == whole.files


@pytest.mark.parametrize(
    ("changes", "shared", "own"),
    [
        ({"seed": 5}, [POOL.path, "iterations/000/eval/museum.jsonl"], [ROLLOUTS.path, SELECTED.path]),
        ({"refinement": {"max_rounds": 1}}, [POOL.path, ROLLOUTS.path], ["iterations/000/eval/museum.jsonl"]),
        ({"rollout": {"k": 2}}, [POOL.path], [ROLLOUTS.path, SELECTED.path]),
        ({"rollout": {"k": 4, "chunk_size": 3, "waves": True}}, [POOL.path], [ROLLOUTS.path, SELECTED.path]),
        ({"selection": {"policy": "frontier"}}, [ROLLOUTS.path], [SELECTED.path]),
        ({"prompt": {"style": "system"}}, [POOL.path], [ROLLOUTS.path, "iterations/000/eval/museum.jsonl"]),
        (
            {"datasets": [{"format": "toolworld", "domain": "museum", "size": 9, "seed": 3}]},
            ["held_out/museum.jsonl", "iterations/000/eval/museum.jsonl"],
            [POOL.path, ROLLOUTS.path, SELECTED.path],
        ),
    ],
)
def test_a_stage_is_shared_only_where_what_it_depends_on_is_equal(
    tmp_path: Path, changes: dict[str, Any], shared: list[str], own: list[str]
) -> None:
    def place(path: str) -> str:
        return f"iterations/001/{path}" if path in (ROLLOUTS.path, SELECTED.path) else path

    for path in (POOL.path, "held_out/museum.jsonl", "iterations/000/eval/museum.jsonl", ROLLOUTS.path, SELECTED.path):
        file = tmp_path / FULL / place(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    config = make_config(tmp_path)
    share_stages(tmp_path / FULL, config, tmp_path / "variant", make_config(tmp_path, **changes))
    assert all((tmp_path / "variant" / place(path)).exists() for path in shared)
    assert not any((tmp_path / "variant" / place(path)).exists() for path in own)


def test_a_stage_that_is_not_complete_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / FULL).mkdir()
    (tmp_path / FULL / "pool.jsonl.partial").touch()
    config = make_config(tmp_path)
    share_stages(tmp_path / FULL, config, tmp_path / "variant", config)
    assert not (tmp_path / "variant").exists()


def test_variants_that_would_repeat_the_full_method_are_left_out() -> None:
    assert [*build_variants(make_config(Path()))] == [FULL, "no-refinement-data", "only-wrong-drafts"]
    assert [*build_variants(make_config(Path(), corpus={"right_draft_share": 0.0}))] == [FULL, "no-refinement-data"]
    assert [*build_variants(make_config(Path(), corpus={"refine_per_sample": 0}))] == [FULL]


@pytest.mark.parametrize(("refine_per_sample", "waves"), [(0, True), (1, False)])
def test_waves_are_those_of_the_full_method_everywhere(refine_per_sample: int, waves: bool) -> None:
    variants = build_variants(make_config(Path(), corpus={"refine_per_sample": refine_per_sample}))
    assert {variant.samples_in_waves for variant in variants.values()} == {waves}


@pytest.mark.parametrize(("max_rounds", "ways"), [(0, {"draft"}), (1, {"draft", "adaptive"})])
def test_fixed_rounds_are_measured_only_where_they_can_differ(
    laboratory: Laboratory, tmp_path: Path, max_rounds: int, ways: set[str]
) -> None:
    config = plan(refinement={"max_rounds": max_rounds})
    assert fixed_rounds(config.recipe.refinement) is None
    (museum,) = run(tmp_path, config).benchmarks
    assert {score.way for score in museum.scores} == ways
    assert not (tmp_path / "fixed-rounds").exists()


def test_one_iteration_is_no_arm_of_its_own_where_there_is_but_one(laboratory: Laboratory, tmp_path: Path) -> None:
    result = run(tmp_path, plan(num_iterations=1))
    assert [arm.name for arm in result.arms][:3] == ["base", "plain SFT", "iterative"]


def test_an_unsolvable_pool_leaves_the_base_alone(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.places = dict.fromkeys(laboratory.places, 99)
    result = run(tmp_path, plan())
    assert [arm.name for arm in result.arms] == ["base"]
    assert to_markdown(sheets(result), notes(result))


def test_benchmarks_are_run_with_every_arm(laboratory: Laboratory, tmp_path: Path, samples: list[Sample]) -> None:
    benchmarks = [Counting(), SampleBenchmark("samples", samples[:6])]
    museum, counting, own = run(tmp_path, plan("counting", "samples"), benchmarks).benchmarks
    accuracies = [{(score.arm, score.way): score.accuracy for score in each.scores} for each in (museum, own)]
    assert accuracies[0] == accuracies[1]
    assert {(score.arm, score.way) for score in counting.scores} == {(score.arm, score.way) for score in museum.scores}
    assert all(score.accuracy.accuracy == 1.0 for score in counting.scores)
    assert [figure.name for figure in counting.scores[0].figures] == ["tokens", "all"]
    folder = tmp_path / "benchmarks"
    for file in ("tasks.jsonl", "drafts.jsonl"):
        paths = [folder / arm / "counting" / file for arm in ("iterative", "fixed-rounds")]
        assert paths[0].stat().st_ino == paths[1].stat().st_ino


def test_a_finished_ablation_asks_nothing_again(laboratory: Laboratory, tmp_path: Path) -> None:
    first = run(tmp_path, plan("counting"), [Counting()])
    laboratory.asked.clear()
    assert run(tmp_path, plan("counting"), [Counting()]) == first
    assert laboratory.asked == []


@pytest.mark.parametrize(
    ("stage", "moment"),
    [
        ("full/pool", "begin"),
        ("full/held_out/museum", "begin"),
        ("full/iterations/000/eval/museum", "advance"),
        ("full/iterations/001/rollouts", "advance"),
        ("full/iterations/002/rollouts", "advance"),
        ("full/iterations/001/selected", "begin"),
        ("full/iterations/001/suspects", "end"),
        ("full/iterations/002/corpus", "begin"),
        ("full/iterations/002/model", "end"),
        ("full/baseline/eval/museum", "advance"),
        ("no-refinement-data/pool", "end"),
        ("no-refinement-data/iterations/001/corpus", "begin"),
        ("no-refinement-data/iterations/002/rollouts", "advance"),
        ("only-wrong-drafts/iterations/001/eval/museum", "advance"),
        ("only-wrong-drafts/iterations/002/eval/museum", "end"),
        ("fixed-rounds/eval/museum", "advance"),
        ("fixed-rounds/eval/museum", "end"),
        ("benchmarks/base/counting/tasks", "begin"),
        ("benchmarks/base/counting/answers", "advance"),
        ("benchmarks/iterative/counting/drafts", "advance"),
        ("benchmarks/fixed-rounds/counting/answers", "advance"),
        ("benchmarks/without-right-drafts/counting/drafts", "end"),
    ],
)
def test_killed_in_any_stage_it_ends_in_the_same_files(
    whole: Whole, laboratory: Laboratory, tmp_path: Path, stage: str, moment: str
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, plan("counting"), [Counting()], Killer(stage, moment))
    assert not (tmp_path / "ablation.md").exists()
    run(tmp_path, plan("counting"), [Counting()])
    assert final_files(tmp_path) == whole.files


@pytest.mark.parametrize("training", ["full/iterations/001", "full/baseline", "only-wrong-drafts/iterations/002"])
def test_killed_in_a_training_it_ends_in_the_same_files(
    whole: Whole, laboratory: Laboratory, tmp_path: Path, training: str
) -> None:
    laboratory.kill_training = training
    with pytest.raises(Killed):
        run(tmp_path, plan("counting"), [Counting()])
    laboratory.kill_training = ""
    run(tmp_path, plan("counting"), [Counting()])
    assert final_files(tmp_path) == whole.files


@pytest.mark.parametrize("number", [1, 4, 7, 15])
def test_killed_while_stages_are_shared_it_ends_in_the_same_files(
    whole: Whole, laboratory: Laboratory, tmp_path: Path, number: int
) -> None:
    link, links = os.link, []

    def killing_link(source: Path, target: Path) -> None:
        links.append(target)
        if len(links) == number:
            raise Killed
        link(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "link", killing_link)
        run(tmp_path, plan("counting"), [Counting()])
    run(tmp_path, plan("counting"), [Counting()])
    assert final_files(tmp_path) == whole.files


def test_there_must_be_something_to_measure_and_names_tell_it_apart(tmp_path: Path, samples: list[Sample]) -> None:
    with pytest.raises(ConfigError, match="nothing to measure"):
        run(tmp_path / "nothing", plan(evaluation={}))
    with pytest.raises(ConfigError, match="two benchmarks have the name museum"):
        run(tmp_path / "twice", plan("samples"), [SampleBenchmark("museum", samples)])


def test_another_recipe_is_refused(laboratory: Laboratory, tmp_path: Path) -> None:
    run(tmp_path, plan())
    with pytest.raises(Exception, match=r"recipe\.seed \(was 0, now 7\)"):
        run(tmp_path, plan(seed=7))


def test_the_tables_name_arms_tests_and_their_correction(whole: Whole) -> None:
    text = (whole.folder / "ablation.md").read_text()
    assert text == to_markdown(sheets(whole.result), notes(whole.result))
    assert "| iterative | " in text
    assert "| 4 → 8 |" in text
    assert "McNemar's exact test" in text
    assert f"corrected for the {whole.result.num_contrasts} comparisons" in text
    assert "## counting: the benchmark's own summary, fixed rounds" in text
    assert AblationResult.model_validate_json((whole.folder / "ablation.json").read_text()) == whole.result


RECIPE = """
model = "base"
num_iterations = 2
[[datasets]]
format = "toolworld"
domain = "museum"
size = 10
seed = 3
[[evaluation.datasets]]
format = "toolworld"
domain = "museum"
size = 6
seed = 3
"""


def test_the_verb_writes_beside_the_recipes_run(laboratory: Laboratory, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    app = typer.Typer()
    app.command()(verb.ablate)
    command = [str(recipe), f"run={tmp_path}/runs/small", "--refine", "2"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "without refinement data" in told.stdout
    again = CliRunner().invoke(app, [*command, "--json"])
    result = json.loads(again.stdout)
    assert result["folder"] == f"{tmp_path}/runs/small-ablation"
    assert len(result["arms"]) == 6
    assert "found complete" in again.stderr


def test_the_verb_refuses_a_benchmark_without_its_data_before_any_training(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    app = typer.Typer()
    app.command()(verb.ablate)
    command = [str(recipe), f"run={tmp_path}/run", "--benchmark", "acebench", "--data", str(tmp_path / "none")]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert "error:" in told.stderr
    assert not (tmp_path / "run-ablation").exists()


def test_holms_correction_of_known_p_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1)))
def test_holms_correction_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[place] for place in order] == sorted(corrected)
