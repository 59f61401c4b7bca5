from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import Config
from toolrefine.errors import RunDirError
from toolrefine.rundir import RunDir, Stage, differences, keep_whole_chunks, open_run, read_records, to_line
from toolrefine.types import ToolCall

CALLS = Stage("calls.jsonl", ToolCall)


def call(number: int) -> ToolCall:
    return ToolCall(name=f"tool_{number}", arguments={"n": number, "ü": "line\nbreak"})


def numbered(skip: int, chunk_size: int, total: int) -> Iterator[list[ToolCall]]:
    for start in range(skip, total, chunk_size):
        yield [call(n) for n in range(start, min(start + chunk_size, total))]


@given(total=st.integers(0, 12), chunk_size=st.integers(1, 5), cut=st.integers(0, 2000))
def test_a_stream_cut_anywhere_ends_in_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, total: int, chunk_size: int, cut: int
) -> None:
    whole, torn = RunDir(tmp_path_factory.mktemp("whole")), RunDir(tmp_path_factory.mktemp("torn"))
    whole.stream(CALLS, chunk_size, total, numbered, total)
    expected = (whole.path / "calls.jsonl").read_bytes()
    (torn.path / "calls.jsonl.partial").write_bytes(expected[:cut])
    records = torn.stream(CALLS, chunk_size, total, numbered, total)
    assert (torn.path / "calls.jsonl").read_bytes() == expected
    assert records == [call(n) for n in range(total)]


def test_a_torn_line_is_dropped_and_whole_chunks_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"".join(to_line(call(n)) for n in range(5)) + b'{"name": "to')
    assert keep_whole_chunks(path, 2) == 4
    assert [r.name for r in read_records(path, ToolCall)] == [f"tool_{n}" for n in range(4)]


def test_a_complete_stage_is_read_and_not_built_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.stage(CALLS, lambda: [call(1)]) == [call(1)]
    assert run.stage(CALLS, lambda: pytest.fail("built again")) == [call(1)]


def test_a_failed_stage_leaves_no_final_file(tmp_path: Path) -> None:
    def build() -> Iterator[ToolCall]:
        yield call(1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        RunDir(tmp_path).stage(CALLS, build)
    assert not (tmp_path / "calls.jsonl").exists()


def test_an_unreadable_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text('{"name": "a"}\n{"nam": "b"}\n')
    with pytest.raises(RunDirError, match=r"calls\.jsonl:2: not a ToolCall"):
        RunDir(tmp_path).stage(CALLS, list)


def make_config(folder: Path, **changes: object) -> Config:
    dataset = {"format": "toolworld", "domain": "museum", "size": 3}
    return Config.model_validate({"model": "nano", "run": str(folder), "datasets": [dataset], **changes})


def test_a_changed_config_is_refused_by_key(tmp_path: Path) -> None:
    with open_run(tmp_path, make_config(tmp_path)):
        pass
    with open_run(tmp_path, make_config(tmp_path)):
        pass
    with (
        pytest.raises(RunDirError, match=r"seed \(was 0, now 1\), rollout.k \(was 8, now 4\)"),
        open_run(tmp_path, make_config(tmp_path, seed=1, rollout={"k": 4})),
    ):
        pass


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with open_run(tmp_path, config), pytest.raises(RunDirError, match="another process"), open_run(tmp_path, config):
        pass


def test_a_run_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(RunDirError, match="not be written to"), open_run(tmp_path, make_config(tmp_path)):
        pass


json_trees = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(old=json_trees, new=json_trees)
def test_differences_are_empty_exactly_for_equal_trees(old: object, new: object) -> None:
    same_apart_from_absent_nulls = strip_nulls(old) == strip_nulls(new)
    assert (not list(differences(old, new))) == same_apart_from_absent_nulls


def strip_nulls(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: strip_nulls(value) for key, value in tree.items() if value is not None}
    return [strip_nulls(item) for item in tree] if isinstance(tree, list) else tree


def test_metrics_name_the_stage_and_its_time(tmp_path: Path) -> None:
    RunDir(tmp_path).iteration(1).stage(CALLS, list)
    event = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert event["stage"] == "iterations/001/calls"
    assert event["wall_s"] >= 0
