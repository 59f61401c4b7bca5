"""The HTML report: whole, unfinished and hostile runs."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fake_run import build_run, completion, write
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.report import MAX_CHARACTERS, clip, write_report
from toolrefine.report.charts import element, spread, ticks
from toolrefine.report.words import judge, points, tell
from toolrefine.rundir import POOL, ROLLOUTS, SUSPECTS, evaluation_stage, read_records
from toolrefine.summary import Comparison, summarize
from toolrefine.types import EvalItem, Message

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html" and not (run / "report.html.partial").exists()
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert not {"src", "href", "onclick", "onload"} & page.attributes
    assert "nan" not in re.findall(r'"(nan|inf|-inf)"', text)
    return text


def test_a_whole_run(tmp_path: Path) -> None:
    text = report(build_run(tmp_path / "my run", evaluations=("museum", "observatory")))
    for heading in ("my run", "Held out: museum", "Held out: observatory", "Fixed and broken", "Label-noise suspects"):
        assert heading in text
    assert "iteration 3 + refinement" in text and "Accuracy over iterations" in text
    assert "wrong<br>labels" in text


@pytest.mark.parametrize(
    "lost",
    [
        ["iterations/003/eval", "iterations/003/model"],
        ["iterations/003/selected.jsonl", "iterations/003/suspects.jsonl", "iterations/003/corpus.jsonl"],
        ["iterations/001", "iterations/002", "iterations/003", "baseline"],
        ["iterations", "pool.jsonl", "metrics.jsonl", "env.json", "baseline", "held_out"],
        ["held_out"],
    ],
)
def test_an_unfinished_run(tmp_path: Path, lost: list[str]) -> None:
    run = build_run(tmp_path / "run")
    for name in lost:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = report(run)
    assert ("not finished" in text) == (lost != ["held_out"])


@pytest.mark.parametrize(("rounds", "known", "k"), [(0, True, 1), (0, False, 3), (2, False, 12)])
def test_other_runs(tmp_path: Path, rounds: int, known: bool, k: int) -> None:
    run = build_run(tmp_path / "run", baseline=False, known_labels=known, max_rounds=rounds, num_iterations=k % 5 or 5)
    text = report(run)
    assert ("+ refinement" in text) == (rounds > 0)
    assert ("wrong<br>labels" in text) == known


def test_without_evaluation_sets(tmp_path: Path) -> None:
    text = report(build_run(tmp_path / "run", evaluations=(), num_iterations=1))
    assert "Held out" not in text and "Selected for training" in text


def test_what_a_model_or_a_data_set_wrote_is_escaped(tmp_path: Path) -> None:
    run = build_run(tmp_path / "<b>run", num_iterations=1)
    evil = "</dd><script>alert(1)</script>&amp;\x00" + "x" * 5000
    pool = [
        sample.model_copy(update={"messages": (Message(role="user", content=evil),)})
        for sample in read_records(run / POOL.path, POOL.record)
    ]
    write(run / POOL.path, pool)
    folder = run / "iterations/001"
    groups = [
        group.model_copy(update={"completions": tuple(completion(text=evil) for _ in group.completions)})
        for group in read_records(folder / ROLLOUTS.path, ROLLOUTS.record)
    ]
    write(folder / ROLLOUTS.path, groups)
    suspects = [
        suspect.model_copy(update={"answer": Message(role="assistant", content=evil), "meta": {"label": evil}})
        for suspect in read_records(folder / SUSPECTS.path, SUSPECTS.record)
    ]
    assert suspects
    write(folder / SUSPECTS.path, suspects)
    stage = evaluation_stage("museum")
    items = [
        item.model_copy(
            update={
                "refinement": item.refinement.model_copy(
                    update={"rounds": tuple(completion(text=evil) for _ in item.refinement.rounds)}
                )
            }
        )
        for item in read_records(folder / stage.path, EvalItem)
    ]
    write(folder / stage.path, items)
    text = report(run)
    assert "<script" not in text and "<b>run" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in text
    assert "characters more)" in text and "x" * (MAX_CHARACTERS + 1) not in text


def test_the_words_say_when_an_interval_includes_zero(tmp_path: Path) -> None:
    comparison = Comparison(against="base", n=9, fixed=3, broken=2, difference=0.1111, low=-0.2, high=0.4)
    assert "includes zero, so this run does not show a difference" in judge(comparison)
    assert judge(comparison.model_copy(update={"low": 0.01})) == "+11.1 points (95\u00a0% interval +1.0 to +40.0)"


def test_the_words_follow_the_last_iteration(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run")
    summary = summarize(run)
    last = next(arm for arm in summary.arms if arm.name == "iteration 3")
    text = " ".join(tell(summary))
    assert text.startswith("On museum (n\u00a0=\u00a060), iteration 3 answers ")
    assert f"{100 * last.accuracy.accuracy:.1f}" in text and "Against plain SFT" in text and "Refinement fixes" in text
    assert "labels" in text
    for name in ("002", "003"):
        shutil.rmtree(run / "iterations" / name)
    assert tell(summarize(run))[0] == "This run is not finished: 1 of 3 iterations are trained so far."
    shutil.rmtree(run / "iterations/001")
    shutil.rmtree(run / "baseline")
    assert "No trained model has been measured on it yet." in tell(summarize(run))


@given(st.floats(-1, 1, allow_nan=False))
def test_points_have_a_sign_and_no_minus_zero(value: float) -> None:
    text = points(value)
    assert text == "0.0" or text[0] in "+\u2212"
    assert float(text.replace("\u2212", "-")) == pytest.approx(100 * value, abs=0.051)


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_ticks_cover_and_are_few(span: list[float]) -> None:
    low, high = span
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-6 and marks[-1] >= high - 1e-6
    assert 2 <= len(marks) <= 8 and marks == sorted(set(marks))


@given(st.lists(st.floats(0, 300), max_size=12))
def test_spread_keeps_the_gap_and_the_order(places: list[float]) -> None:
    moved = spread(places, 14)
    assert [sorted(range(len(places)), key=lambda i: moved[i])] == [sorted(range(len(places)), key=lambda i: places[i])]
    ordered = sorted(moved)
    assert all(b - a >= 14 - 1e-9 for a, b in pairwise(ordered))


def test_svg_is_escaped_and_text_is_clipped() -> None:
    assert element("text", "<a>", x=1.04, class_='"') == '<text x="1" class="&#34;">&lt;a&gt;</text>'
    assert clip("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS
    assert clip("x" * (MAX_CHARACTERS + 1)).endswith("(1 characters more)")
