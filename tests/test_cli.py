from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, make_tiny_model
from typer.testing import CliRunner

from toolrefine.cli import app

DEMO = str(REPO / "recipes/demo.toml")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def world_file(tmp_path: Path) -> Path:
    path = tmp_path / "museum.jsonl.gz"
    run_json("data", "convert", "museum", str(path), "--format", "toolworld", "--limit", "12", "--seed", "3")
    return path


def test_help_answers_at_once() -> None:
    def seconds(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - started

    help_s = min(seconds("-m", "toolrefine.cli", "--help") for _ in range(3))
    bare_s = min(seconds("-c", "import typer, typer.rich_utils") for _ in range(3))
    assert help_s < 2.5 * bare_s


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "rich")
    code = f"import sys, toolrefine.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_convert_writes_what_the_generator_makes(world_file: Path, tmp_path: Path) -> None:
    with gzip.open(world_file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == [f"toolworld-museum-3-{n}" for n in range(12)]
    again = tmp_path / "again.jsonl"
    assert run_json("data", "convert", str(world_file), str(again))["num_samples"] == 12
    assert [json.loads(line) for line in again.read_text().splitlines()] == rows


def test_inspect_and_validate(world_file: Path, tmp_path: Path) -> None:
    counts = run_json("data", "inspect", str(world_file))
    assert counts["num_samples"] == sum(counts["kinds"].values()) == 12
    assert run_json("data", "validate", str(world_file)) == {"num_samples": 12, "findings": []}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\nnot json\n')
    result = run("data", "validate", str(bad))
    assert result.exit_code == 1
    assert f"{bad}:2:" in result.stdout
    assert "error" not in result.stderr


def test_evaluate_compare_and_show(world_file: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    options = ["--model", model, "--refine", "1", "--max-new-tokens", "8", "--compare", "vote:2"]
    measured = run_json("evaluate", str(world_file), *options, "--out", str(out))
    assert [arm["name"] for arm in measured["overall"]["arms"]] == ["draft", "refined", "vote:2"]
    assert (
        measured["overall"]["arms"][0]["accuracy"]["n"] == len((out / "answers.jsonl").read_text().splitlines()) == 12
    )
    assert "| all |" in (out / "result.md").read_text()
    assert run_json("show", str(out)) == {key: value for key, value in measured.items() if key != "folder"}
    assert "toolworld-museum-3-0" in run("show", str(out), "--transcripts", "12").stdout
    assert run("show", str(out), "--sample", "gone").exit_code == 2
    (unchanged, *_) = run_json("compare", str(out), str(out))["comparisons"]
    assert (unchanged["name"], unchanged["fixed"], unchanged["broken"], unchanged["p_value"]) == ("all", 0, 0, 1.0)
    refused = run("evaluate", str(world_file), *options, "seed=1", "--out", str(out))
    assert refused.exit_code == 2
    assert "seed (was 0, now 1)" in refused.stderr


def test_refine(world_file: Path, model: str, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "calls.jsonl"
    with gzip.open(world_file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        del row["target"]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{}\n")
    options = ["--data", str(prompts), "--model", model, "--out", str(out), "--max-new-tokens", "8"]
    counts = run_json("refine", *options)
    assert (counts["num_prompts"], counts["num_quarantined"]) == (12, 1)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    [bad] = map(json.loads, Path(f"{out}.quarantine.jsonl").read_text().splitlines())
    assert (bad["line"], bad["text"]) == (13, "{}")
    assert all(answer["num_rounds"] <= 2 for answer in answers)


def test_train_show_and_report(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["datasets.0.size=8", "evaluation.datasets.0.size=6", "rollout.k=2", "rollout.max_new_tokens=8"]
    small += ["evaluation.max_new_tokens=8", "selection.policy=all", "sft.max_steps=2", "num_iterations=1"]
    result = run_json("train", DEMO, f"model={model}", f"run={folder}", *small)
    assert [arm["name"] for arm in result["arms"]][::2] == ["base", "plain SFT", "iteration 1"]
    shown = run_json("show", str(folder))
    assert shown["arms"] == result["arms"]
    comparisons = {c["against"]: c for arm in shown["arms"] for c in arm["comparisons"] if arm["name"] == "iteration 1"}
    assert {"fixed", "broken", "difference", "low", "high"} <= comparisons["plain SFT"].keys()
    assert "<html" in Path(result["report"]).read_text()
    assert "toolworld-foundry" in run("show", str(folder), "--transcripts", "1").stdout


def test_suspects_of_a_file_with_planted_labels(model: str, world_file: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(
        f"""
        model = "{model}"
        run = "{folder}"
        [[datasets]]
        source = "{world_file}"
        wrong_label_rate = 0.5
        invalid_targets = "keep"
        [rollout]
        k = 2
        max_new_tokens = 8
        """
    )
    counts = run_json("suspects", str(recipe))
    lines = Path(counts["out"]).read_text().splitlines()
    assert counts["num_samples"] == 12
    assert len(lines) == counts["num_suspects"]
    assert counts["num_wrong_suspects"] <= counts["num_suspects"]
    assert 0 < counts["num_wrong_labels"] < 12
    shown = run("suspects", str(recipe), "--limit", "1")
    assert shown.exit_code == 0
    assert f"num_suspects       {len(lines)}" in shown.stdout
    assert ("of the completions" in shown.stdout) == bool(lines)
    assert not (folder / "iterations/001/model").exists()


@pytest.mark.parametrize("domain", ["museum", "spliced-7"])
@pytest.mark.parametrize(
    "verb",
    [
        ["data", "inspect", "{domain}"],
        ["data", "validate", "{domain}", "--format", "openai"],
        ["data", "convert", "{domain}", "{tmp}/out.jsonl"],
        ["data", "split", "{domain}", "--out-train", "{tmp}/a.jsonl", "--out-held-out", "{tmp}/b.jsonl"],
        ["data", "dedup", "{domain}", "{tmp}/out.jsonl"],
        ["data", "overlap", "{domain}", "--with", "{rows}"],
        ["calibrate", "--model", "nano", "--data", "{domain}", "--out", "{tmp}/policy.toml"],
    ],
)
def test_a_domain_without_its_format_is_told_which_it_needs(verb: list[str], domain: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "What is the capital of Peru, and how far is it from here to there on foot?"}\n')
    result = run(*[argument.format(domain=domain, tmp=tmp_path, rows=rows) for argument in verb])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {domain}: no such file; ")
    assert result.stderr.endswith(" needs --format toolworld\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.toml"], "nowhere.toml: no such recipe"),
        (["suspects", "nowhere.toml"], "nowhere.toml: no such recipe"),
        (["train", DEMO, "rollout.kk=3"], "rollout.kk: unknown key"),
        (["train", DEMO, "datasets.0.domain=moon", "run={tmp}"], "no domain 'moon'"),
        (["train", str(REPO / "recipes/real.toml"), "run={tmp}", "datasets.0.source=gone.jsonl"], "gone.jsonl"),
        (["train", str(REPO / "recipes/real.toml"), "run={tmp}", "datasets.0.source={empty}"], "no usable sample"),
        (["train", DEMO, "model=no/such", "run={tmp}"], "model=no/such: cannot be loaded"),
        (["show", "{tmp}"], "no run"),
        (["evaluate", "gone.jsonl", "--model", "nano"], "gone.jsonl: no such file"),
        (["evaluate", "museum", "--model", "nano"], "--format toolworld"),
        (["evaluate", "museum", "--model", "nano", "--format", "csv"], "format"),
        (["evaluate", "museum", "--model", "nano", "--format", "toolworld", "--compare", "most:3"], "rivals.0"),
        (["evaluate", "museum", "--model", "nano", "--format", "toolworld", "--categories", "live"], "--categories"),
        (["compare", "{tmp}", "{tmp}"], "no run of toolrefine evaluate"),
    ],
)
def test_a_wrong_request_gets_one_clear_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    places = {"tmp": str(tmp_path / "run"), "empty": str(empty)}
    result = run(*[argument.format(**places) if "{" in argument else argument for argument in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
