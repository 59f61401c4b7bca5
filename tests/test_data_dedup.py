from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from conftest import REAL_DATA
from data_samples import call, conversation, sample, write
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run, run_json

from toolrefine.config import FileDataset
from toolrefine.curate.deduplication import NUM_HASHES, Cluster, band_rows, find_duplicates, min_hashes
from toolrefine.curate.words import words_of
from toolrefine.datasets import load_dataset
from toolrefine.types import Message, Sample

WORDS = [f"word{number}" for number in range(2000)]


def text(seed: int, num_words: int = 60) -> str:
    return " ".join(Random(seed).sample(WORDS, num_words))


def similarity(first: str, second: str) -> float:
    runs = [{tuple(words[n : n + 5]) for n in range(len(words) - 4)} for words in (words_of(first), words_of(second))]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


@given(st.integers(0, 10**6), st.integers(0, 59))
def test_the_share_of_equal_hashes_estimates_the_similarity(seed: int, num_changed: int) -> None:
    one = text(seed)
    other = " ".join([*one.split()[: 60 - num_changed], *text(seed + 1, 59).split()[:num_changed]])
    estimate = float(np.mean(min_hashes(one) == min_hashes(other)))
    exact = similarity(one, other)
    assert abs(estimate - exact) < 6 * (exact * (1 - exact) / NUM_HASHES) ** 0.5 + 0.02


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_let_a_pair_at_the_threshold_slip_seldom(threshold: float) -> None:
    rows = band_rows(threshold)
    assert (1 - threshold**rows) ** (NUM_HASHES / rows) <= 0.01
    assert NUM_HASHES % rows == 0


def test_case_width_and_white_space_do_not_make_a_difference() -> None:
    one = sample("a", "Book a table\nin Rome", "f", calls=[call("f", value="x", n=1)])
    same = sample("b", "ＢＯＯＫ  a table in rome ", "f", calls=[call("f", n=1.0, value="x")])
    assert find_duplicates([one, same]) == (2, [Cluster(kept=0, exact=(1,))])


@pytest.mark.parametrize(
    "other",
    [
        sample("b", "Book a table in Oslo", "f", calls=[call("f", value="x")]),
        sample("b", "Book a table in Rome", "f", "g", calls=[call("f", value="x")]),
        sample("b", "Book a table in Rome", "f", calls=[call("f", value="y")]),
    ],
    ids=["text", "tools", "target"],
)
def test_what_differs_in_anything_is_no_exact_duplicate(other: Sample) -> None:
    one = sample("a", "Book a table in Rome", "f", calls=[call("f", value="x")])
    assert find_duplicates([one, other], threshold=1.0)[1] in ([], [Cluster(kept=0, near=(1,))])
    assert not any(cluster.exact for cluster in find_duplicates([one, other])[1])


def test_near_duplicates_are_found_and_the_first_is_kept() -> None:
    near = text(1) + " indeed"
    rows = [sample("a", text(1), "f"), sample("b", text(2), "f"), sample("c", near, "f"), sample("d", text(1), "f")]
    assert find_duplicates(rows) == (4, [Cluster(kept=0, exact=(3,), near=(2,))])
    assert find_duplicates(rows, threshold=1.0) == (4, [Cluster(kept=0, exact=(3,))])


def test_other_calls_or_other_turns_are_no_near_duplicates() -> None:
    rows = [sample("a", text(1), "f"), sample("b", text(1), "f", calls=[call("f")])]
    whole = conversation()
    parts = [whole.model_copy(update={"messages": whole.messages[:length]}) for length in (2, 7)]
    asked_twice = (*rows[0].messages, Message(role="assistant", content="Well?"), Message(role="user", content="Yes."))
    rows.append(rows[0].model_copy(update={"messages": asked_twice}))
    assert find_duplicates([*rows, *parts]) == (5, [])


def test_many_copies_take_linear_time_and_all_are_found() -> None:
    rows = [sample(str(n), f"{text(n % 3)} {n}", "f") for n in range(3000)]
    num_samples, clusters = find_duplicates(rows)
    assert (num_samples, [cluster.kept for cluster in clusters]) == (3000, [0, 1, 2])
    assert sum(len(cluster.near) for cluster in clusters) == 2997


def test_nothing_has_no_duplicates() -> None:
    assert find_duplicates([]) == (0, [])


def test_dedup_writes_the_rest_and_names_the_clusters(tmp_path: Path) -> None:
    rows = [sample("a", text(1), "f"), sample("b", text(1) + " too", "f"), sample("c", text(3), "f")]
    source, out = write(tmp_path / "in.jsonl", *rows, rows[0]), tmp_path / "out.jsonl.gz"
    report = run_json("data", "dedup", source, str(out))
    assert (report["num_samples"], report["num_exact"], report["num_near"], report["num_kept"]) == (4, 1, 1, 2)
    assert report["clusters"] == [{"kept": "a", "exact": ["a"], "near": ["b"]}]
    assert [one.id for one in load_dataset(FileDataset(source=str(out)))] == ["a", "c"]
    first = out.read_bytes()
    assert "a: exact a; near b" in run("data", "dedup", source, str(out)).stdout
    assert out.read_bytes() == first


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data are not beside the project")
def test_copies_of_real_data_are_all_found() -> None:
    rows = list(load_dataset(FileDataset(source=str(REAL_DATA / "dev_seen_tools.jsonl.gz"))))
    clusters = find_duplicates(rows)[1]
    copies = [row.model_copy(update={"id": f"copy of {row.id}"}) for row in rows]
    again = find_duplicates([*rows, *copies])[1]
    assert sum(len(cluster.exact) for cluster in again) + sum(len(cluster.near) for cluster in again) == len(
        rows
    ) + sum(len(cluster.exact) + len(cluster.near) for cluster in clusters)
