from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine import rundir
from toolrefine.config import Config
from toolrefine.errors import RunDirError
from toolrefine.rundir import (
    POOL,
    SOURCES,
    RunDir,
    Stage,
    differences,
    digest_of,
    keep_whole_chunks,
    open_run,
    read_records,
    to_line,
    write_json,
)
from toolrefine.types import Checkpoint, ToolCall

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


def test_a_full_disk_costs_one_chunk_at_most(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            run.stream(CALLS, 1, 9, numbered, 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert keep_whole_chunks(tmp_path / "calls.jsonl.partial", 1) == 2
    assert run.stream(CALLS, 1, 9, numbered, 9) == [call(n) for n in range(9)]


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


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("written_as", ["now", "before"])
def test_a_model_stands_where_its_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: bool, written_as: str
) -> None:
    def fit(partial: Path, final: Path) -> Checkpoint:
        return Checkpoint(model="base", adapter=str(final)) if adapter else Checkpoint(model=str(final))

    def model_of(run: str) -> tuple[str, str | None]:
        found = RunDir(Path(run)).model(lambda *_: pytest.fail("trained again"))
        return found.model, found.adapter

    def expected(folder: str) -> tuple[str, str | None]:
        return ("base", folder) if adapter else (folder, None)

    monkeypatch.chdir(tmp_path)
    trained = RunDir(Path("runs/r")).model(fit)
    assert (trained.model, trained.adapter) == expected("runs/r/model")
    if written_as == "before":
        write_json(Path("runs/r/model/checkpoint.json"), trained.model_dump())
    shutil.copytree("runs/r", "copy")
    assert model_of("copy") == expected("copy/model")
    monkeypatch.chdir(tmp_path / "runs")
    assert model_of("r") == expected("r/model")
    Path("r").rename("moved")
    assert model_of(f"{tmp_path}/runs/moved") == expected(f"{tmp_path}/runs/moved/model")


def test_an_unreadable_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text('{"name": "a"}\n{"nam": "b"}\n')
    with pytest.raises(RunDirError, match=r"calls\.jsonl:2: not a ToolCall"):
        RunDir(tmp_path).stage(CALLS, list)


def make_config(folder: Path, **changes: object) -> Config:
    dataset = {"format": "toolworld", "domain": "museum", "size": 3}
    return Config.model_validate({"model": "nano", "run": str(folder), "datasets": [dataset], **changes})


def test_a_changed_config_is_refused_by_key(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run(tmp_path, make_config(tmp_path)) as run:
            run.iteration(1).stage(CALLS, lambda: [call(1)])
    with (
        pytest.raises(RunDirError, match=r"seed \(was 0, now 1\), rollout.k \(was 8, now 4\)"),
        open_run(tmp_path, make_config(tmp_path, seed=1, rollout={"k": 4})),
    ):
        pass


def test_a_run_goes_on_with_other_settings_of_how_its_work_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sft = {"batch_size": 16, "gradient_accumulation": 1}
    with open_run(tmp_path, make_config(tmp_path, sft=sft)) as run:
        run.iteration(1).stage(CALLS, lambda: [call(1)])
    smaller = {"batch_size": 4, "gradient_accumulation": 4, "gradient_checkpointing": True}
    engine = {"max_batch_rows": 8, "prefix_cache_gb": 1.0}
    with open_run(tmp_path, make_config(tmp_path, sft=smaller, engine=engine)):
        pass
    assert "goes on with engine.max_batch_rows = 8 (was 128)" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["sft"]["batch_size"] == 4
    with (
        pytest.raises(RunDirError, match=r"sft.batch_size \* gradient_accumulation \(was 16, now 8\); "),
        open_run(tmp_path, make_config(tmp_path, sft={**smaller, "batch_size": 2}, engine=engine)),
    ):
        pass


def test_what_has_come_to_no_work_takes_another_config(tmp_path: Path) -> None:
    def fail() -> Iterator[ToolCall]:
        yield call(1)
        raise RuntimeError

    source, path = tmp_path / "rows.jsonl", tmp_path / "run"
    source.touch()
    with open_run(path, make_config(path)) as run:
        run.check_sources(POOL, [source])
        run.stage(POOL, list)
        with pytest.raises(RuntimeError):
            run.folder("held_out").stage(CALLS, fail)
        (run.iteration(0).path / "rollouts.jsonl.partial").touch()
    with open_run(path, make_config(path, seed=1)):
        assert json.loads((path / "config.json").read_text())["seed"] == 1
        assert {file.name for file in path.rglob("*") if file.is_file()} == {
            *("config.json", "env.json", "lock", "rollouts.jsonl.partial")
        }


@pytest.mark.parametrize("num_deleted", [0, 1, 2, 3])
def test_killed_while_its_config_is_replaced_it_is_the_old_run_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_deleted: int
) -> None:
    with open_run(tmp_path, make_config(tmp_path)) as run:
        run.stage(POOL, list)
        run.folder("held_out").stage(CALLS, list)
    deleted: list[Path] = []
    unlink = Path.unlink

    def unlink_or_die(path: Path, *_: object) -> None:
        if len(deleted) == num_deleted:
            raise KeyboardInterrupt
        deleted.append(path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_or_die)
        patch.setattr(rundir, "write_json", unlink_or_die)
        with pytest.raises(KeyboardInterrupt), open_run(tmp_path, make_config(tmp_path, seed=1)):
            pass
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    for seed in (0, 1):
        with open_run(tmp_path, make_config(tmp_path, seed=seed)) as run:
            run.stage(POOL, list)


@pytest.mark.parametrize(
    "work", ["answers.jsonl", "iterations/001/rollouts.jsonl.partial", "iterations/001/model.partial/x", "my-notes.txt"]
)
def test_work_that_is_not_whole_is_kept_with_its_config(tmp_path: Path, work: str) -> None:
    with open_run(tmp_path, make_config(tmp_path)) as run:
        run.stage(POOL, list)
    (tmp_path / work).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / work).write_text("{}")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunDirError, match="seed"), open_run(tmp_path, make_config(tmp_path, seed=1)):
        pass
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_folder_with_a_config_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    for _ in range(2):
        with pytest.raises(RunDirError, match="model_type"), open_run(tmp_path, make_config(tmp_path)):
            pass
    assert (tmp_path / "config.json").read_text() == '{"model_type": "qwen3"}'


def test_a_config_is_not_replaced_under_another_process(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, make_config(tmp_path)),
        pytest.raises(RunDirError, match="another process"),
        open_run(tmp_path, make_config(tmp_path, seed=1)),
    ):
        pass
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_a_stage_is_not_taken_for_one_of_other_files(tmp_path: Path) -> None:
    run, source = RunDir(tmp_path / "run"), tmp_path / "rows.jsonl"
    stages = [(run, CALLS), (run.folder("held_out"), CALLS)]
    for content in ("a failed attempt", "read"):
        source.write_text(content)
        for folder, stage in stages:
            folder.check_sources(stage, [source])
    for folder, stage in stages:
        folder.stage(stage, list)
        os.utime(source, (0, 0))  # what counts is the content
        folder.check_sources(stage, [source])
    source.write_text("else")
    for folder, stage in stages:
        with pytest.raises(
            RunDirError, match=rf"rows\.jsonl: changed since .*{run.path}.*delete that folder, or choose another"
        ):
            folder.check_sources(stage, [source])
    source.unlink()
    for folder, stage in stages:
        folder.check_sources(stage, [source])


def test_a_stage_of_an_earlier_version_has_no_note_and_is_trusted(tmp_path: Path) -> None:
    run, source = RunDir(tmp_path / "run"), tmp_path / "rows.jsonl"
    run.stage(CALLS, list)
    source.write_text("else")
    run.check_sources(CALLS, [source])
    assert not (run.path / SOURCES).exists()


def test_what_is_no_file_has_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [digest_of(path) for path in (tmp_path, tmp_path / "pipe", tmp_path / "gone")] == ["", "", ""]


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with open_run(tmp_path, config), pytest.raises(RunDirError, match="another process"), open_run(tmp_path, config):
        pass


def test_a_run_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    refused = pytest.raises(RunDirError, match=r"not be written to: .*; choose another")
    with refused, open_run(tmp_path, make_config(tmp_path)):
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
