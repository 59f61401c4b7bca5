from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REAL_DATA
from data_samples import call, sample, write
from hypothesis import given
from hypothesis import strategies as st
from test_cli import run, run_json

from toolrefine.config import FileDataset
from toolrefine.curate.splitting import first_requests, split, tool_names
from toolrefine.datasets import load_dataset
from toolrefine.types import Message

pools = st.lists(st.frozensets(st.integers(0, 12).map(str), max_size=4), max_size=40)


@given(pools, st.floats(0, 1), st.integers(0, 3))
def test_no_tool_is_on_both_sides(tools: list[frozenset[str]], held_out: float, seed: int) -> None:
    parts = split(tools, held_out, seed)
    assert len(parts.parts) == len(tools)
    sides = {
        side: {name for part, names in zip(parts.parts, tools, strict=True) if part == side for name in names}
        for side in ("train", "held_out")
    }
    assert sides["train"].isdisjoint(sides["held_out"])
    assert (len(sides["train"]), len(sides["held_out"])) == (parts.num_names["train"], parts.num_names["held_out"])
    for part, names in zip(parts.parts, tools, strict=True):
        assert part != "dropped" or (names & sides["held_out"] and not names <= sides["held_out"])
    assert split(tools, held_out, seed) == parts


def test_components_are_held_out_whole_and_nothing_is_dropped() -> None:
    tools = [frozenset({f"{group}-{n % 3}", f"{group}-{(n + 1) % 3}"}) for group in range(20) for n in range(5)]
    parts = split(tools, 0.2, 0)
    assert (parts.count("held_out"), parts.count("dropped")) == (20, 0)
    assert len({split(tools, 0.2, seed).parts for seed in range(5)}) > 1


def test_one_large_component_is_cut_where_it_costs_little() -> None:
    # Two clusters of 50 samples each that one sample joins.
    tools = [frozenset({f"{side}-{n % 10}", f"{side}-{(n + 1) % 10}"}) for side in "ab" for n in range(50)]
    parts = split([*tools, frozenset({"a-0", "b-0"})], 0.5, 0)
    assert (parts.count("held_out"), parts.count("dropped")) == (50, 1)


def test_a_tool_that_all_share_cannot_be_split() -> None:
    parts = split([frozenset({"hub", str(n)}) for n in range(20)], 0.3, 0)
    assert (parts.count("train"), parts.count("dropped")) == (20, 0)


def test_samples_without_tools_are_divided_by_share() -> None:
    assert split([frozenset()] * 10, 0.3, 0).count("held_out") == 3


def test_split_writes_both_parts(tmp_path: Path) -> None:
    rows = [sample(f"s{n}", f"Question {n}", f"t{n % 10}", calls=[call(f"t{n % 10}")]) for n in range(50)]
    source = write(tmp_path / "in.jsonl", *rows)
    outs = [str(tmp_path / "train.jsonl.gz"), str(tmp_path / "held.jsonl")]
    options = ["--held-out", "0.2", "--out-train", outs[0], "--out-held-out", outs[1], "--seed", "1"]
    report = run_json("data", "split", source, *options)
    assert report["num_samples"] == {"train": 40, "held_out": 10, "dropped": 0}
    train, held_out = (list(load_dataset(FileDataset(source=out))) for out in outs)
    assert set().union(*tool_names(train)).isdisjoint(set().union(*tool_names(held_out)))
    assert sorted(s.id for s in (*train, *held_out)) == sorted(row.id for row in rows)
    first = [Path(out).read_bytes() for out in outs]
    assert "dropped   0 samples" in run("data", "split", source, *options).stdout
    assert [Path(out).read_bytes() for out in outs] == first


def test_a_pool_that_cannot_be_split_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *[sample(str(n), "Hi", "hub", calls=[call("hub")]) for n in range(5)])
    outs = ["--out-train", str(tmp_path / "a.jsonl"), "--out-held-out", str(tmp_path / "b.jsonl")]
    result = run("data", "split", source, *outs)
    assert result.exit_code == 2
    assert "cannot be split" in result.stderr
    assert "--apart requests" in result.stderr
    assert not list(tmp_path.glob("?.jsonl"))


def test_a_split_that_drops_most_says_what_to_do_instead(tmp_path: Path) -> None:
    pairs = [(f"t{one}", f"t{other}") for one in range(6) for other in range(one + 1)]
    rows = [sample(f"s{n}", "Hi", *{*pair}, calls=[call(pair[0])]) for n, pair in enumerate(pairs)]
    outs = ["--out-train", str(tmp_path / "a.jsonl"), "--out-held-out", str(tmp_path / "b.jsonl")]
    result = run("data", "split", write(tmp_path / "in.jsonl", *rows), *outs, "--held-out", "0.5")
    assert result.exit_code == 0
    assert "most samples share tools" in result.stderr and "--apart requests" in result.stderr


def test_where_all_samples_share_their_tools_conversations_are_kept_apart(tmp_path: Path) -> None:
    rows = [sample(f"s{n}", f"Question  {n % 20}", "hub", calls=[call("hub")]) for n in range(60)]
    later = Message(role="assistant", content="Which one?"), Message(role="user", content="The first.")
    rows[40:] = [row.model_copy(update={"messages": (*row.messages, *later)}) for row in rows[40:]]
    source = write(tmp_path / "in.jsonl", *rows)
    outs = [str(tmp_path / "train.jsonl"), str(tmp_path / "held.jsonl")]
    options = ["--held-out", "0.25", "--out-train", outs[0], "--out-held-out", outs[1], "--apart", "requests"]
    report = run_json("data", "split", source, *options)
    assert report["num_samples"] == {"train": 45, "held_out": 15, "dropped": 0}
    assert report["num_requests"] == {"train": 15, "held_out": 5, "dropped": 0}
    train, held_out = (first_requests(load_dataset(FileDataset(source=out))) for out in outs)
    assert {*train}.isdisjoint(held_out)
    assert run("data", "split", source, *options).stdout == (
        f"train     45 samples, 15 requests in {outs[0]}\nheld out  15 samples, 5 requests in {outs[1]}\n"
    )
    wrong = run("data", "split", source, *options[:-1], "rows")
    assert (wrong.exit_code, "--apart rows: must be one of tools, requests" in wrong.stderr) == (2, True)


def test_a_conversation_without_a_request_is_divided_by_share() -> None:
    silent = sample("s", "", "t").model_copy(update={"messages": (Message(role="assistant", content="Hi"),)})
    assert first_requests([silent]) == [frozenset()]


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data are not beside the project")
@pytest.mark.parametrize("held_out", [0.1, 0.3])
def test_real_data_lose_little(held_out: float) -> None:
    tools = tool_names(load_dataset(FileDataset(source=str(REAL_DATA / "dev_seen_tools.jsonl.gz"))))
    parts = split(tools, held_out, 0)
    assert parts.count("dropped") < 0.02 * len(tools)
    assert abs(parts.count("held_out") - held_out * len(tools)) < 0.05 * len(tools)
