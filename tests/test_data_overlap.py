from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import REPO
from data_samples import sample, write
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run, run_json

from toolrefine.curate.contamination import Benchmark, Item, load_items, user_texts
from toolrefine.curate.words import words_of

BENCH = REPO.parent / "shared" / "bench"
QUESTION = "Please find me a cheap hotel near the old harbour of Hamburg for two nights in May"


def hits(question: str | tuple[str, ...], said: str) -> list[str]:
    texts = (question,) if isinstance(question, str) else question
    return [found.words for found in Benchmark([Item("q", texts)]).overlaps([sample("a", said, "f")])]


def test_a_shared_run_of_13_words_is_an_overlap() -> None:
    said = "So: FIND me a cheap hotel, near the old harbour of Hamburg (for two) or three nights"
    assert hits(QUESTION, said) == ["find me a cheap hotel near the old harbour of hamburg for two"]
    assert hits(QUESTION, said.replace("two", "one")) == []


def test_a_question_of_8_to_12_words_must_occur_whole() -> None:
    question = "Find me a cheap hotel near the harbour"
    assert hits(question, f"Hello. {question}, please.") == [question.lower()]
    assert hits(question, "Hello. Find me a cheap hotel near the station.") == []


def test_a_short_question_must_be_a_whole_turn() -> None:
    assert hits("Book a table.", "Book a table!") == ["book a table"]
    assert hits("Book a table.", "Book a table in Rome") == []
    assert hits("Yes please.", "Yes, please") == []
    assert hits(("Book a table.", "Rome."), "Book a table.") == []


def test_boilerplate_of_the_benchmark_does_not_count() -> None:
    items = [Item(str(number), (f"{QUESTION} {number}",)) for number in range(11)]
    assert not list(Benchmark(items).overlaps([sample("a", QUESTION, "f")]))
    assert len(list(Benchmark(items[:10]).overlaps([sample("a", QUESTION, "f")]))) == 10


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(5, 20))
def test_exactly_shared_runs_of_n_words_are_found(seed: int, num_shared: int, n: int) -> None:
    random = Random(seed)
    ours, theirs = ([f"{who}{random.randrange(9)}" for _ in range(20)] for who in "ab")
    shared = [f"c{number}" for number in range(num_shared)]
    question, said = " ".join([*ours, *shared, *ours]), " ".join([*theirs, *shared, *theirs])
    found = list(Benchmark([Item("q", (question,))], n).overlaps([sample("a", said, "f")]))
    assert bool(found) == (num_shared >= n)


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"question": [[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]]}, ["u"]),
        ({"question": "user: one\nsystem: two\nuser: three\n"}, ["one\n", "three\n"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}], "tools": ["x"]}, ["u"]),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}, ["u"]),
        ({"role": "User", "text": "u"}, ["u"]),
        ({"role": "AI", "text": "a"}, []),
        ({"user": "<user>one</user><response>a</response><user>two</user>", "system": "s"}, ["one", "two"]),
        ({"instruction": "i", "input": "u", "output": "o"}, ["i", "u"]),
        ({"ground_truth": ["f"]}, []),
    ],
)
def test_the_users_texts_of_a_row(row: dict[str, Any], texts: list[str]) -> None:
    assert [text for text in user_texts(row) if text] == texts


def test_scripts_without_spaces_have_a_word_a_character() -> None:
    assert words_of("你好 Rome, été!") == ["你", "好", "rome", "été"]


def test_overlap_reports_pairs_and_the_share_of_items(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    questions = [{"id": "q0", "question": QUESTION}, {"id": "q1", "question": "Something else entirely, thank you"}]
    (folder / "BFCL_v3_simple.json").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "eval.json").write_text(json.dumps([{"Instructions": ["Do this now.", "Do that now."]}], indent=1))
    source = write(tmp_path / "in.jsonl", sample("a", f"Hi! {QUESTION}.", "f"), sample("b", "Do that now", "f"))
    report = run_json("data", "overlap", source, "--with", str(folder))
    assert (report["num_items"], report["num_items_hit"], report["share_hit"]) == (4, 2, 0.5)
    assert [(found["sample"], found["item"]) for found in report["overlaps"]] == [
        ("a", "BFCL_v3_simple.json:q0"),
        ("b", "eval.json:2#1"),
    ]
    shown = run("data", "overlap", source, "--with", str(folder / "BFCL_v3_simple.json"))
    assert "1 of 2 items (50.0%)" in shown.stdout


@pytest.mark.parametrize(("rows", "message"), [(None, "no such file"), ([{"answer": "x"}], "no user's text")])
def test_a_benchmark_that_cannot_be_used_is_one_sentence(rows: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    if rows:
        path.write_text(json.dumps(rows))
    result = run("data", "overlap", write(tmp_path / "in.jsonl", sample("a", "Hi", "f")), "--with", str(path))
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are not beside the project")
@pytest.mark.parametrize(
    ("part", "num_items"),
    [
        ("acebench/data_all/data_en", 1023),
        ("acebench/data_all/data_zh", 1017),
        ("apibank/toolrl_level1.json", 399),
        ("apibank/original/lv1-lv2-samples/level-1-given-desc", 213),
        ("toolalpaca", 214),
    ],
)
def test_every_item_of_a_real_benchmark_finds_itself(part: str, num_items: int) -> None:
    items = list(load_items(BENCH / part))
    assert len(items) == num_items
    benchmark = Benchmark(items)
    planted = [sample(item.id, text, "f") for item in items for text in item.texts]
    found = {overlap.item for overlap in benchmark.overlaps(planted)}
    # Not those that say too little, or nothing but what ten others say too.
    assert len(found) >= 0.97 * num_items - benchmark.num_too_short
