"""The loop with a scripted engine and a trainer that only takes notes."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from toolrefine import loop
from toolrefine.config import Config
from toolrefine.datasets.export import write_samples
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import RunDirError
from toolrefine.formats import get_format
from toolrefine.report.words import tell
from toolrefine.rundir import open_run
from toolrefine.summary import summarize
from toolrefine.types import Checkpoint, Example, Group, Prompt, Sample

Killed = type("Killed", (BaseException,), {})


class World:
    """A model that solves one sample more, of its 8 tries, with every iteration; and counts what it is asked."""

    def __init__(self, pool: Sequence[Sample]) -> None:
        self.targets = {sample.id: sample.target for sample in pool}
        self.places = {sample.id: place for place, sample in enumerate(pool)}
        self.asked: list[str] = []
        self.kill_at: int | None = None

    @contextmanager
    def open_engine(self, model: Checkpoint, *_: Any) -> Iterator[ScriptedEngine]:
        def answer(prompt: Prompt, index: int) -> str:
            self.asked.append(prompt.id)
            if self.kill_at is not None and len(self.asked) >= self.kill_at:
                raise Killed
            sample_id = prompt.id.partition("/round-")[0]
            skill = 4 + 4 * model.iteration
            target = self.targets[sample_id]
            if self.places[sample_id] >= skill or index % 2:
                return "[wrong_tool(a=1)]"
            return get_format("pythonic").render(target.tool_calls) if target.tool_calls else "no"

        yield ScriptedEngine(answer)

    def sft(
        self,
        partial: Path,
        final: Path,
        base: Checkpoint,
        corpus: Sequence[Example],
        config: Config,
        *,
        iteration: int,
        progress: Any,
        max_steps: int | None = None,
    ) -> Checkpoint:
        (partial / "training.json").write_text(json.dumps({"num_steps": max_steps or len(corpus)}))
        return Checkpoint(model=str(final), iteration=iteration)


def make_config(folder: Path, **changes: Any) -> Config:
    return Config.model_validate(
        {
            "model": "base",
            "run": str(folder),
            "num_iterations": 4,
            "baseline": True,
            "datasets": [{"format": "toolworld", "domain": "museum", "size": 10, "seed": 3}],
            "evaluation": {
                "datasets": [{"format": "toolworld", "domain": "museum", "size": 6, "seed": 3}],
                "chunk_size": 4,
            },
            "rollout": {"k": 4, "chunk_size": 3},
            **changes,
        }
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, samples: list[Sample]) -> World:
    world = World(samples)
    monkeypatch.setattr(loop, "open_engine", world.open_engine)
    monkeypatch.setattr(loop, "sft", world.sft)
    monkeypatch.setattr(loop, "check_template", lambda *_: None)
    return world


def train(config: Config) -> Checkpoint:
    with open_run(Path(config.run), config, may_grow=config.may_grow) as run:
        return loop.train(config, run)


def data_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jsonl") if p.name != "metrics.jsonl"}


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_selection_follows_the_model_and_the_loop_ends_when_it_stalls(world: World, tmp_path: Path) -> None:
    model = train(make_config(tmp_path))
    sizes = [count(tmp_path / f"iterations/{t:03d}/selected.jsonl") for t in (1, 2, 3, 4)]
    assert sizes == [4, 8, 10, 10]
    assert model.iteration == 3
    assert not (tmp_path / "iterations/004/model").exists()


def test_the_baseline_takes_as_many_steps_as_the_iterations(world: World, tmp_path: Path) -> None:
    train(make_config(tmp_path))
    steps = [
        json.loads((tmp_path / f"iterations/00{t}/model/training.json").read_text())["num_steps"] for t in (1, 2, 3)
    ]
    assert json.loads((tmp_path / "baseline/model/training.json").read_text())["num_steps"] == sum(steps)
    assert count(tmp_path / "baseline/corpus.jsonl") == 10


def test_a_finished_run_asks_nothing_again(world: World, tmp_path: Path) -> None:
    train(make_config(tmp_path))
    world.asked.clear()
    train(make_config(tmp_path))
    assert world.asked == []


@pytest.mark.parametrize("drafts", ["sampled", "greedy"])
@pytest.mark.parametrize("kill_at", [1, 7, 13, 40, 41, 77, 100, 150])
def test_killed_anywhere_it_ends_in_the_same_bytes(world: World, tmp_path: Path, kill_at: int, drafts: str) -> None:
    changes = {"corpus": {"drafts": drafts}}
    train(make_config(tmp_path / "whole", **changes))
    rollouts = data_files(tmp_path / "whole")["iterations/001/rollouts.jsonl"].splitlines()
    assert {b'"greedy":' in line for line in rollouts} == {drafts == "greedy"}
    world.asked.clear()
    world.kill_at = kill_at
    with pytest.raises(Killed):
        train(make_config(tmp_path / "killed", **changes))
    world.kill_at = None
    train(make_config(tmp_path / "killed", **changes))
    assert data_files(tmp_path / "killed") == data_files(tmp_path / "whole")


def test_a_run_that_has_ended_takes_more_iterations(world: World, tmp_path: Path) -> None:
    alone = {"baseline": False}
    train(make_config(tmp_path / "whole", **alone))
    for num_iterations in (1, 3, 3, 4):
        world.asked.clear()
        train(make_config(tmp_path / "grown", **alone, num_iterations=num_iterations))
    assert data_files(tmp_path / "grown") == data_files(tmp_path / "whole")
    assert summarize(tmp_path / "grown").num_iterations == 4
    with pytest.raises(RunDirError, match=r"num_iterations \(was 4, now 2\)"):
        train(make_config(tmp_path / "grown", **alone, num_iterations=2))


@pytest.mark.parametrize("changes", [{"baseline": True}, {"baseline": False, "sft": {"lr_span": "run"}}])
def test_a_run_that_depends_on_its_number_of_iterations_takes_no_more(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(make_config(tmp_path, **changes, num_iterations=1))
    with pytest.raises(RunDirError, match=r"num_iterations \(was 1, now 2\)"):
        train(make_config(tmp_path, **changes, num_iterations=2))


def test_suspects_come_before_any_training_which_goes_on_from_there(world: World, tmp_path: Path) -> None:
    train(make_config(tmp_path / "whole"))
    world.asked.clear()
    config = make_config(tmp_path / "asked")
    for _ in range(2):
        with open_run(Path(config.run), config) as run:
            suspects = loop.doubt(config, run)
    assert len(suspects) == count(tmp_path / "asked/iterations/001/suspects.jsonl") == 6
    assert len(world.asked) == 10 * 4
    assert not list((tmp_path / "asked").rglob("eval"))
    train(config)
    assert data_files(tmp_path / "asked") == data_files(tmp_path / "whole")


def test_changed_data_are_not_taken_for_those_that_were_read(
    world: World, samples: list[Sample], tmp_path: Path
) -> None:
    pool, held_out = tmp_path / "pool.jsonl", tmp_path / "held-out.jsonl"
    write_samples(pool, samples[:10])
    write_samples(held_out, samples[:6])
    files = {
        "datasets": [{"format": "canonical", "source": str(pool)}],
        "evaluation": {"datasets": [{"format": "canonical", "source": str(held_out)}]},
        "num_iterations": 1,
    }
    config = make_config(tmp_path / "run", **files)
    with open_run(Path(config.run), config) as run:
        loop.doubt(config, run)
    mended = pool.read_bytes().replace(b"{", b" {", 1)
    pool.write_bytes(mended)
    with pytest.raises(RunDirError, match=f"{pool}: changed since {tmp_path / 'run'}"):
        train(config)
    train(make_config(tmp_path / "again", **files))
    held_out.write_bytes(mended)
    with pytest.raises(RunDirError, match=f"{held_out}: changed since"):
        train(make_config(tmp_path / "again", **files))
    for path in (pool, held_out):
        path.unlink()
    train(make_config(tmp_path / "again", **files))


def test_waves_select_the_same_from_fewer_completions(world: World, tmp_path: Path) -> None:
    changes = {"corpus": {"refine_per_sample": 0}, "baseline": False, "evaluation": {}}

    def run(name: str, waves: Any) -> tuple[list[list[str]], int]:
        world.asked.clear()
        train(make_config(tmp_path / name, rollout={"k": 4, "chunk_size": 3, "waves": waves}, **changes))
        selections = sorted((tmp_path / name).rglob("selected.jsonl"))
        ids = [[json.loads(line)["sample_id"] for line in path.read_text().splitlines()] for path in selections]
        return ids, len(world.asked)

    (all_k, num_all), (in_waves, num_in_waves) = run("all", False), run("waves", "auto")
    assert in_waves == all_k
    assert num_in_waves < 0.7 * num_all


def test_the_template_is_checked_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(loop, "check_template", lambda *_: checked.append(1))
    train(make_config(tmp_path))
    train(make_config(tmp_path))
    assert checked == [1]


def test_an_unsolvable_pool_trains_nothing(world: World, tmp_path: Path) -> None:
    world.places = dict.fromkeys(world.places, 99)
    assert train(make_config(tmp_path)).iteration == 0
    summary = summarize(tmp_path)
    assert summary.finished
    assert tell(summary)[0] == "Nothing was trained: no sample of the pool was selected."


def test_no_rollouts_stay_in_memory_while_a_model_trains(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[weakref.ref[Group]] = []
    num_alive: list[int] = []

    def roll_out(*arguments: Any) -> list[Group]:
        found = original(*arguments)
        groups.extend(map(weakref.ref, found))
        return found

    def sft(*arguments: Any, **options: Any) -> Checkpoint:
        num_alive.append(sum(group() is not None for group in groups))
        return world.sft(*arguments, **options)

    original = loop.roll_out
    monkeypatch.setattr(loop, "roll_out", roll_out)
    monkeypatch.setattr(loop, "sft", sft)
    train(make_config(tmp_path))
    assert len(groups) == 4 * 10
    assert num_alive == [0, 0, 0, 0]  # the iterations, and the baseline after the last has stalled


@pytest.mark.parametrize("selection", [{"min_solvable": 0.5}, {"policy": "all"}])
def test_everything_selected_is_trained_on_once_though_nothing_is_solvable_yet(
    world: World, tmp_path: Path, selection: dict[str, Any]
) -> None:
    world.places = dict.fromkeys(world.places, 99)
    assert train(make_config(tmp_path, selection=selection)).iteration == 1
    assert count(tmp_path / "iterations/001/corpus.jsonl") >= 10
    assert not (tmp_path / "iterations/002/model").exists()
    summary = summarize(tmp_path)
    assert summary.finished
    assert tell(summary)[0].endswith("because no more samples had become solvable.")
    shutil.rmtree(tmp_path / "baseline")
    assert not summarize(tmp_path).finished
