from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO, make_tiny_model
from typer.testing import CliRunner

from toolrefine import __version__, engines, loop, results
from toolrefine.cli import app
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import open_engine
from toolrefine.models import PROMPT_FILE, save_prompt, trained_prompt
from toolrefine.types import Checkpoint

DEMO = str(REPO / "recipes/demo.toml")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/pool.jsonl.partial")


def test_a_full_disk_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "load_samples", full_disk)
    result = run("train", DEMO, f"run={tmp_path}")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: [Errno 28]")
    assert line.endswith("make room, and the same command goes on from here")


def test_a_full_gpu_is_told_with_what_takes_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full_gpu(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr(loop, "load_samples", full_gpu)
    result = run("train", DEMO, f"run={tmp_path}")
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: CUDA out of memory; ")
    assert "engine.max_batch_rows" in line and "sft.batch_size" in line


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

    help_s = min(seconds("-m", "toolrefine", "--help") for _ in range(3))
    bare_s = min(seconds("-c", "import typer, typer.rich_utils") for _ in range(3))
    assert help_s < 2.5 * bare_s


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "rich")
    code = f"import sys, toolrefine.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_version_and_short_help() -> None:
    assert run("--version").stdout == f"toolrefine {__version__}\n"
    for verb in ([], ["train"], ["data"], ["data", "inspect"]):
        short = run(*verb, "-h")
        assert short.exit_code == 0
        assert short.stdout == run(*verb, "--help").stdout


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
    out = tmp_path / "all answers"
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
    again = run("evaluate", str(world_file), *options, "--out", str(out)).stdout
    assert f"again    toolrefine show '{out}'\n" in again
    (unchanged, *_) = run_json("compare", str(out), str(out))["comparisons"]
    assert (unchanged["name"], unchanged["fixed"], unchanged["broken"], unchanged["p_value"]) == ("all", 0, 0, 1.0)
    refused = run("evaluate", str(world_file), *options, "seed=1", "--out", str(out))
    assert refused.exit_code == 2
    assert "seed (was 0, now 1)" in refused.stderr


def test_evaluations_of_a_run_s_models_have_folders_of_their_own(
    world_file: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["runs/tiny/iterations/001", "runs/tiny/iterations/002", "runs/tiny/baseline", "all/full/iterations/001"]
    places += ["mine/iterations/001"]
    for place in places:
        shutil.copytree(model, Path(place) / "model")
    for folder in ("runs/tiny", "all", "all/full"):
        Path(folder, "config.json").touch()
    for place in places:
        options = ["--model", f"{place}/model", "--limit", "1", "--max-new-tokens", "2"]
        assert run("evaluate", str(world_file), *options).exit_code == 0
    assert {path.name for path in Path("evals").iterdir()} == {
        *(f"museum-tiny-{name}" for name in ("001", "002", "baseline")),
        *("museum-all-full-001", "museum-model"),
    }


def test_evaluate_refuses_other_rows_in_the_same_file(world_file: Path, model: str, tmp_path: Path) -> None:
    rows, options = tmp_path / "rows.jsonl", ["--model", model, "--max-new-tokens", "4", "--out", str(tmp_path / "out")]
    with gzip.open(world_file) as lines:
        first, *others = lines
    rows.write_bytes(first)
    assert run_json("evaluate", str(rows), *options)["overall"]["arms"][0]["accuracy"]["n"] == 1
    rows.write_bytes(b"".join(others))
    refused = run("evaluate", str(rows), *options)
    assert refused.exit_code == 2
    assert f"{rows}: changed since {tmp_path / 'out'} has read it" in refused.stderr


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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EngineConfig, PromptConfig]]:
    """The settings of the engines that are opened."""
    found: list[tuple[EngineConfig, PromptConfig]] = []

    def note(checkpoint: Checkpoint, engine: EngineConfig, prompt: PromptConfig) -> Any:
        found.append((engine, prompt))
        return open_engine(checkpoint, engine, prompt)

    for module in (engines, results):
        monkeypatch.setattr(module, "open_engine", note)
    return found


@pytest.mark.parametrize("verb", ["refine", "calibrate"])
def test_settings_follow_as_key_and_value(
    verb: str, world_file: Path, model: str, opened: list[tuple[EngineConfig, PromptConfig]], tmp_path: Path
) -> None:
    command = [verb, "--model", model, "--data", str(world_file), "--limit", "2", "--out", str(tmp_path / "out")]
    settings = ["engine.max_batch_rows=16", "engine.trust_remote_code=true", "prompt.refine=Again.", "max_new_tokens=4"]
    assert run(*command, "--style", "system", *settings).exit_code == 0
    assert opened == [
        (EngineConfig(max_batch_rows=16, trust_remote_code=True), PromptConfig(style="system", refine="Again."))
    ]
    wrong = run(*command, "engine.max_batch_row=16", "stop=never")
    assert wrong.exit_code == 2
    near = "engine.max_batch_row: unknown key, did you mean engine.max_batch_rows?"
    assert wrong.stderr.startswith(f"error: {near}; stop: unknown key")
    assert len(opened) == 1


def test_a_model_is_asked_as_it_was_trained(
    model: str, world_file: Path, opened: list[tuple[EngineConfig, PromptConfig]], tmp_path: Path
) -> None:
    trained = PromptConfig(style="system", refine="Again.")
    copied, rows, options = tmp_path / "copied", str(world_file), ["--limit", "2", "--max-new-tokens", "4"]
    shutil.copytree(model, copied)
    save_prompt(copied, trained)
    commands = [
        ["evaluate", rows, "--model", str(copied), *options],
        ["evaluate", rows, "--model", model, "--adapter", str(copied), "--limit", "3"],
        ["refine", "--data", rows, "--model", str(copied), *options],
        ["calibrate", "--data", rows, "--model", str(copied), *options],
    ]
    for number, command in enumerate(commands):
        result = run(*command, "--out", str(tmp_path / f"out-{number}"))
        assert opened.pop()[1] == trained, result.output
        assert "is used with prompt.style=system, as it was trained" in result.stderr
    for given in (["--style", "template"], ["prompt.style=template"]):
        result = run(*commands[2], *given, "--out", str(tmp_path / "again"))
        assert opened.pop()[1] == trained.model_copy(update={"style": "template"})
        said = f"{copied} was trained with prompt.style=system, and is used with prompt.style=template"
        assert result.stderr.count(said) == 1
    (copied / PROMPT_FILE).write_text('{"style": "none"}')
    refused = run(*commands[2], "--out", str(tmp_path / "again"))
    assert refused.exit_code == 2
    assert f"{copied / PROMPT_FILE}: not the prompt settings of a model: style" in refused.stderr
    assert refused.stderr.endswith("delete it\n")


def test_training_on_says_where_it_asks_otherwise(model: str, tmp_path: Path) -> None:
    small = ["datasets.0.size=6", "rollout.k=2", "rollout.max_new_tokens=4", "evaluation.datasets=[]", "baseline=false"]
    small += ["selection.policy=all", "sft.max_steps=1", "num_iterations=2", "selection.stop_when_stalled=false"]
    first = run("train", DEMO, f"model={model}", f"run={tmp_path / 'first'}", *small, "prompt.style=system")
    assert first.exit_code == 0, first.output
    assert "trained with prompt" not in first.stderr
    trained = tmp_path / "first/iterations/002/model"
    assert trained_prompt(Checkpoint(model=str(trained)))["style"] == "system"
    on = run("train", DEMO, f"model={trained}", f"run={tmp_path / 'on'}", *small)
    assert f"{trained} was trained with prompt.style=system, and is used with prompt.style=template" in on.stderr


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


def test_serve_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toolrefine.server.run", None)
    result = run("serve", "--model", "nano")
    assert result.exit_code == 2
    assert result.stderr.endswith("; pip install '.[serve]' in the checkout\n")


def test_a_run_that_trains_nothing_says_why(model: str, tmp_path: Path) -> None:
    small = [f"run={tmp_path}", "datasets.0.size=2", "rollout.k=1", "rollout.max_new_tokens=1"]
    small += ["evaluation.datasets=[]", "selection.policy=solvable"]
    for command in (["train", DEMO, f"model={model}", *small], ["show", str(tmp_path)]):
        assert "Nothing was trained: no sample of the pool was selected.\n" in run(*command).stdout


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


def test_a_mistyped_command_does_not_stand_in_the_way_of_the_right_one(
    model: str, world_file: Path, tmp_path: Path
) -> None:
    small = [f"run={tmp_path / 'run'}", "datasets.0.size=4", "rollout.k=1", "rollout.max_new_tokens=4"]
    right = [*small, "selection.policy=all", "sft.max_steps=1", "num_iterations=1", "baseline=false"]
    held_out = 'evaluation.datasets=[{{source="{}", limit=2}}]'
    for wrong in (
        ["model=no/such", *right],
        [f"model={model}", *right, "datasets.0.domain=moon"],
        [f"model={model}", *right, held_out.format(tmp_path / "gone.jsonl")],
        [f"model={model}", *right, held_out.format(world_file), "engine.device=cuda:99"],
    ):
        assert run("train", DEMO, *wrong).exit_code == 2
    assert run("train", DEMO, f"model={model}", *right, held_out.format(world_file)).exit_code == 0
    assert "was 1, now 2" in run("train", DEMO, f"model={model}", *right, "rollout.k=2").stderr


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
        (
            ["evaluate", "museum", "--model", "nano", "--format", "toolworld", "--compare", "votes:3"],
            "--compare votes:3: must",
        ),
        (["evaluate", "museum", "--model", "nano", "--format", "toolworld", "--categories", "live"], "--categories"),
        (["evaluate", "museum", "--model", "nano", "--format", "toolworld", "--mode", "prompt"], "--mode prompt: mus"),
        (["evaluate", "apibank", "--model", "nano"], "give them as --data DIR, see docs/apibank.md"),
        (["evaluate", "toolalpaca", "--model", "nano"], "give them as --data DIR, see docs/toolalpaca.md"),
        (["evaluate", "acebench", "--model", "nano", "--export-bfcl", "{tmp}"], "--export-bfcl: acebench is not bfcl"),
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
