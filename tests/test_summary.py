"""Summaries of whole, unfinished and bare runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_run import K, build_run, completion
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.errors import RunDirError
from toolrefine.summary import Arm, build_arms, summarize
from toolrefine.types import EvalItem, Reason, Refinement, Score, StopReason

RIGHT, WRONG = Score(correct=True, reason=Reason.OK), Score(correct=False, reason=Reason.WRONG_VALUE)


def item(sample_id: str, *verdicts: bool) -> EvalItem:
    rounds = tuple(completion(text=str(number)) for number in range(len(verdicts)))
    return EvalItem(
        sample_id=sample_id,
        kind="single",
        refinement=Refinement(prompt_id=sample_id, rounds=rounds, stop_reason=StopReason.UNCHANGED),
        scores=tuple(RIGHT if verdict else WRONG for verdict in verdicts),
    )


def by_name(arms: tuple[Arm, ...]) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


def test_arms_count_fixed_and_broken_pair_by_pair() -> None:
    arms = by_name(
        build_arms(
            "d",
            {
                "base": [item("a", False), item("b", True), item("c", True), item("only here", True)],
                "plain SFT": [item("a", False), item("b", False), item("c", True)],
                "iteration 1": [item("c", False, True), item("b", True, True), item("a", True, False, True)],
            },
            refined=False,
        )
    )
    assert list(arms) == [
        "base",
        "base + refinement",
        "plain SFT",
        "plain SFT + refinement",
        "iteration 1",
        "iteration 1 + refinement",
    ]
    found = {
        (name, c.against): (c.n, c.fixed, c.broken, round(c.difference, 3))
        for name, arm in arms.items()
        for c in arm.comparisons
    }
    assert found == {
        ("base + refinement", "base"): (4, 0, 0, 0.0),
        ("plain SFT", "base"): (3, 0, 1, -0.333),
        ("plain SFT + refinement", "base"): (3, 0, 1, -0.333),
        ("plain SFT + refinement", "plain SFT"): (3, 0, 0, 0.0),
        ("iteration 1", "base"): (3, 1, 1, 0.0),
        ("iteration 1", "plain SFT"): (3, 2, 1, 0.333),
        ("iteration 1 + refinement", "base"): (3, 1, 0, 0.333),
        ("iteration 1 + refinement", "iteration 1"): (3, 1, 0, 0.333),
        ("iteration 1 + refinement", "plain SFT + refinement"): (3, 2, 0, 0.667),
    }
    refined = arms["iteration 1 + refinement"]
    assert [a.correct for a in refined.by_round] == [2, 2, 3]
    assert refined.calls_per_sample == pytest.approx(7 / 3)
    assert refined.stop_reasons == {StopReason.UNCHANGED: 3}
    assert arms["iteration 1"].by_round == () and arms["iteration 1"].calls_per_sample == 1.0


def test_a_model_is_measured_by_what_it_says_unconstrained() -> None:
    items = [
        item(name, *rounds).model_copy(update={"alone": (completion(text="alone"), RIGHT if alone else WRONG)})
        for name, alone, *rounds in (("a", False, True), ("b", True, True), ("c", False, False, True))
    ]
    draft, refined = build_arms("d", {"base": items}, refined=True)
    assert (draft.accuracy.correct, refined.accuracy.correct) == (1, 3)
    assert [a.correct for a in refined.by_round] == [2, 3]
    assert (draft.constrained, refined.constrained) == (False, True)
    assert [(c.against, c.fixed, c.broken) for c in refined.comparisons] == [("base", 2, 0)]


def test_arms_without_rounds_are_drafts_unless_refinement_is_on() -> None:
    answers = {"my-model": [item("a", True)], "nobody": []}
    assert [arm.name for arm in build_arms("d", answers, refined=False)] == ["my-model"]
    assert [arm.name for arm in build_arms("d", answers, refined=True)] == ["my-model", "my-model + refinement"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_difference_is_the_difference_of_the_accuracies(verdicts: list[tuple[bool, bool]]) -> None:
    answers = {
        name: [item(str(i), pair[place]) for i, pair in enumerate(verdicts)]
        for place, name in enumerate(("base", "iteration 1"))
    }
    base, iteration = build_arms("d", answers, refined=False)
    (comparison,) = iteration.comparisons
    assert comparison.difference == pytest.approx(iteration.accuracy.accuracy - base.accuracy.accuracy)
    assert comparison.low <= comparison.high
    assert iteration.accuracy.low <= iteration.accuracy.accuracy <= iteration.accuracy.high


def test_a_whole_run(tmp_path: Path) -> None:
    summary = summarize(build_run(tmp_path / "whole", evaluations=("museum", "observatory")))
    assert summary.finished
    assert (summary.model, summary.num_samples, summary.num_quarantined) == ("nano", 60, 0)
    assert [it.iteration for it in summary.iterations] == [1, 2, 3]
    assert len(summary.arms) == 2 * 2 * 5
    assert summary.baseline is not None and summary.baseline.num_examples == 60
    previous: set[str] = set()
    for it in summary.iterations:
        folder = tmp_path / f"whole/iterations/{it.iteration:03d}"
        selected = {json.loads(line)["sample_id"] for line in (folder / "selected.jsonl").read_text().splitlines()}
        assert (it.num_selected, it.num_entered, it.num_left) == (
            len(selected),
            len(selected - previous),
            len(previous - selected),
        )
        assert it.num_selected == it.num_solvable == it.num_direct
        assert sum(it.histogram) == it.num_samples == 60 and len(it.histogram) == K + 1
        assert sum(it.reasons.values()) == 60 * K
        assert list(it.pass_at) == [1, 2, 4, 8]
        assert it.pass_at_1 == pytest.approx(it.reasons[Reason.OK] / (60 * K))
        assert it.pass_at_k == pytest.approx(it.num_solvable / 60)
        assert it.num_wrong_selected is not None and it.num_wrong_selected <= (summary.num_wrong_labels or 0)
        assert it.training is not None and it.training.final_loss == 0.2
        previous = selected
    assert summary.wall_s["iterations/002/rollouts"] == 10.0
    assert type(summary).model_validate_json(summary.model_dump_json()) == summary


def test_unknown_labels_are_none_not_zero(tmp_path: Path) -> None:
    summary = summarize(build_run(tmp_path / "run", known_labels=False, num_iterations=1))
    assert summary.num_wrong_labels is None
    assert summary.iterations[0].num_wrong_selected is None
    assert summary.iterations[0].num_wrong_suspects is None


@pytest.mark.parametrize(
    ("lost", "num_iterations", "num_arms"),
    [
        (["iterations/003/eval"], 3, 8),
        (["iterations/003/eval", "iterations/003/model"], 3, 8),
        (["iterations/003/eval", "iterations/003/model", "iterations/003/corpus.jsonl"], 3, 8),
        (["iterations/003/selected.jsonl", "iterations/003/suspects.jsonl"], 3, 10),
        (["iterations/003", "baseline"], 2, 6),
        (["iterations", "baseline"], 0, 0),
        (["iterations", "baseline", "pool.jsonl", "metrics.jsonl"], 0, 0),
        (["baseline"], 3, 8),
    ],
)
def test_an_unfinished_run(tmp_path: Path, lost: list[str], num_iterations: int, num_arms: int) -> None:
    run = build_run(tmp_path / "run")
    for name in lost:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "pool.jsonl.partial").write_text('{"torn')
    summary = summarize(run)
    assert not summary.finished
    assert len(summary.iterations) == num_iterations
    assert len(summary.arms) == num_arms


def test_a_run_that_measures_nothing(tmp_path: Path) -> None:
    summary = summarize(build_run(tmp_path / "run", evaluations=(), baseline=False, max_rounds=0))
    assert summary.finished and summary.arms == () and summary.baseline is None


def test_a_stalled_loop_is_finished(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", num_iterations=2, baseline=False)
    for name in ("rollouts", "selected", "suspects"):
        shutil.copy(run / f"iterations/001/{name}.jsonl", run / f"iterations/002/{name}.jsonl")
    for name in ("model", "eval"):
        shutil.rmtree(run / "iterations/002" / name)
    assert summarize(run).finished


def test_torn_metrics_are_passed_over(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", num_iterations=1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"stage": "pool", "wall_s": 2}\n{"stage": "po')
    assert summarize(run).wall_s["pool"] == 12.0


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run here"):
        summarize(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "nano", "speed": 3}')
    with pytest.raises(RunDirError, match=r"speed: unknown key"):
        summarize(tmp_path)


def test_an_ablation_is_no_run_and_says_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "lab-ablation"
    run = build_run(folder / "full", num_iterations=1)
    recipe = json.loads((run / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "benchmarks": []}))
    with pytest.raises(RunDirError, match="an ablation, not a run; it is not finished") as caught:
        summarize(folder)
    assert str(caught.value).endswith(f"one of its runs: {run}")
    (folder / "ablation.md").write_text("| arm |")
    (folder / "no-refinement-data").mkdir()
    shutil.copy(run / "config.json", folder / "no-refinement-data")
    with pytest.raises(RunDirError) as caught:
        summarize(folder)
    assert f"{folder / 'ablation.md'} has its tables" in str(caught.value)
    assert str(caught.value).endswith(f"{run}, {folder / 'no-refinement-data'}")
    shutil.rmtree(run)
    shutil.rmtree(folder / "no-refinement-data")
    with pytest.raises(RunDirError, match="its runs, of which none has begun"):
        summarize(folder)
    (folder / "config.json").write_text('["recipe"]')
    with pytest.raises(RunDirError, match="not a config of this version"):
        summarize(folder)
