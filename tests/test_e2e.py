"""The shipped model, end to end, through the command line."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_DATA, REPO

pytestmark = pytest.mark.e2e

SMALL = [
    "num_iterations=2",
    "datasets.0.size=64",
    "evaluation.datasets.0.size=32",
    "rollout.k=4",
    "rollout.chunk_size=16",
    "corpus.refine_per_sample=1",
    "evaluation.chunk_size=16",
    "sft.max_steps=6",
    "sft.checkpoint_steps=2",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "toolrefine", *arguments]


def train(recipe: str, run: Path, *overrides: str) -> Any:
    arguments = command("train", str(REPO / "recipes" / recipe), f"run={run}", *overrides, "--json")
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def data_files(run: Path) -> dict[str, bytes]:
    skip = {"metrics.jsonl"}
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*.jsonl")) if p.name not in skip}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    run = tmp_path_factory.mktemp("runs") / "whole"
    return run, train("demo.toml", run, *SMALL)


def test_the_loop_measures_every_arm(small_run: tuple[Path, Any]) -> None:
    run, result = small_run
    names = [arm["name"] for arm in result["arms"]]
    assert names[::2] == ["base", "plain SFT", "iteration 1", "iteration 2"]
    assert all(arm["n"] == 32 for arm in result["arms"])
    assert result["iterations"][0]["pass_at_k"] > result["iterations"][0]["pass_at_1"] > 0.1
    assert (run / "report.html").exists()


def test_three_kills_change_nothing(small_run: tuple[Path, Any], tmp_path: Path) -> None:
    whole, _ = small_run
    run = tmp_path / "killed"
    arguments = command("train", str(REPO / "recipes/demo.toml"), f"run={run}", *SMALL)
    moments = random.Random(time.time_ns())
    for _ in range(3):
        process = subprocess.Popen(arguments, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(6, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    train("demo.toml", run, *SMALL)
    assert data_files(run) == data_files(whole)


def test_a_hostile_pool_loses_only_its_bad_rows(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    good = tmp_path / "good.jsonl"
    subprocess.run(
        command("data", "convert", "museum", str(good), "--format", "toolworld", "--limit", "6"), check=True, cwd=REPO
    )
    rows = good.read_bytes().splitlines(keepends=True)
    called = next(row for row in map(json.loads, rows) if row["target"])
    called["target"][0]["arguments"] = {"surprise": 1}
    bad = [
        b'{"id": "torn", "mess\n',
        b'{"id": "no-target", "messages": [{"role": "user", "content": "x"}], "tools": []}\n',
        json.dumps({**called, "id": "contradiction"}).encode() + b"\n",
        b'{"id": "long", "text": "' + b"x" * 10_000_000 + b'"}\n',
        b'{"id": "\xff\xfe"}\n',
        b"[1, 2]\n",
    ]
    pool.write_bytes(b"".join(line for pair in zip(rows, bad, strict=True) for line in pair))
    dataset = [f"datasets=[{{format='canonical', source='{pool}'}}]"]
    result = train("demo.toml", tmp_path / "run", *SMALL[2:], *dataset, "num_iterations=1", "selection.policy=all")
    assert result["num_samples"] == 6
    quarantine = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in quarantine] == [2, 4, 6, 8, 10, 12]
    assert all(entry["reason"] and entry["file"] == str(pool) for entry in quarantine)


def test_own_data_from_a_file_to_a_measured_adapter(tmp_path: Path) -> None:
    """The commands in the header of recipes/own.toml, on conversations as OpenAI has them."""
    mine, pool, held_out = (tmp_path / f"{name}.jsonl" for name in ("my", "train", "held_out"))
    convert = ["data", "convert", "observatory", str(mine), "--format", "toolworld", "--to", "openai", "--limit", "60"]
    split = ["data", "split", str(mine), "--out-train", str(pool), "--out-held-out", str(held_out)]
    for arguments in (convert, split):
        subprocess.run(command(*arguments), check=True, cwd=REPO)
    small = ["model=nano", "num_iterations=1", "sft.max_steps=2", "sft.gradient_accumulation=1"]
    small += ["rollout.k=2", "rollout.max_new_tokens=64"]
    evaluation = [f"evaluation.datasets.0.source={held_out}", "evaluation.max_new_tokens=64"]
    result = train("own.toml", tmp_path / "run", f"datasets.0.source={pool}", *evaluation, *small)
    assert [arm["name"] for arm in result["arms"][::2]] == ["base", "iteration 1"]
    assert (Path(result["model"]["adapter"]) / "adapter_model.safetensors").exists()
    result = train("own.toml", tmp_path / "unmeasured", f"datasets.0.source={mine}", "datasets.0.limit=24", *small)
    assert result["num_samples"] == 24 and not result["arms"]


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real tool-calling data is not beside the checkout")
def test_the_loop_runs_on_real_data(tmp_path: Path) -> None:
    source = REAL_DATA / "train.jsonl.gz"
    overrides = [f"datasets.0.source={source}", "datasets.0.limit=24", "rollout.k=2", "sft.max_steps=2"]
    for number, name in enumerate(["dev_seen_tools", "dev_new_tools"]):
        path = REAL_DATA / f"{name}.jsonl.gz"
        overrides += [f"evaluation.datasets.{number}.source={path}", f"evaluation.datasets.{number}.limit=12"]
    result = train("real.toml", tmp_path / "run", *overrides, "num_iterations=1", "selection.policy=all")
    assert {arm["dataset"] for arm in result["arms"]} == {"dev_seen_tools", "dev_new_tools"}
