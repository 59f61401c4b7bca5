"""No verb overwrites what it reads, and where a file cannot be written is told before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from data_samples import call, sample, write
from test_cli import run, run_json

API = {
    "openapi": "3.1.0",
    "info": {"title": "a", "version": "1"},
    "paths": {"/a": {"get": {"operationId": "a", "summary": "Does a."}}},
}

VERBS = {
    "convert": ["data", "convert", "{rows}", "{out}"],
    "dedup": ["data", "dedup", "{rows}", "{out}"],
    "split, train": ["data", "split", "{rows}", "--out-train", "{out}", "--out-held-out", "{new}"],
    "split, held out": ["data", "split", "{rows}", "--out-train", "{new}", "--out-held-out", "{out}"],
    "tools": ["data", "tools", "{api}", "--out", "{out}"],
    # Not one step of work, or the model would be missed.
    "refine": ["refine", "--model", "no/such", "--data", "{rows}", "--out", "{out}"],
    "calibrate": ["calibrate", "--model", "no/such", "--data", "{rows}", "--out", "{out}"],
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Paths by name, all of them in one folder; out is up to the test, and new is not there yet."""
    rows, api = tmp_path / "rows.jsonl", tmp_path / "api.json"
    write(rows, *[sample(f"s{n}", f"Question {n}", f"t{n}", calls=[call(f"t{n}")]) for n in range(20)])
    api.write_text(json.dumps(API))
    return {"rows": str(rows), "api": str(api), "new": str(tmp_path / "new.jsonl"), "tmp": str(tmp_path)}


def refused(arguments: list[str], places: dict[str, str]) -> str:
    """The one sentence of a wrong request, which has left every file as it was."""
    folder = Path(places["tmp"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = run(*[argument.format(**places) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return str(result.stderr)


@pytest.mark.parametrize("path", ["{source}", "{tmp}/../{name}/{file}", "{tmp}/link", "{tmp}/hard"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_source_is_never_overwritten(verb: str, path: str, places: dict[str, str]) -> None:
    source, folder = Path(places["api" if verb == "tools" else "rows"]), Path(places["tmp"])
    (folder / "link").symlink_to(source)
    (folder / "hard").hardlink_to(source)
    out = path.format(source=source, tmp=folder, name=folder.name, file=source.name)
    assert f"would overwrite {source}, which is read" in refused(VERBS[verb], {**places, "out": out})


@pytest.mark.parametrize(
    ("verb", "ending"),
    [
        ("convert", ".quarantine.jsonl"),
        ("convert", ".partial"),
        ("refine", ".quarantine.jsonl"),
        ("calibrate", ".answers.jsonl"),
    ],
)
def test_nor_is_it_by_what_stands_beside_an_output(verb: str, ending: str, places: dict[str, str]) -> None:
    source = Path(places["rows"]).rename(places["new"] + ending)
    assert "which is read" in refused(VERBS[verb], {**places, "rows": str(source), "out": places["new"]})


def test_a_policy_is_read_too(places: dict[str, str]) -> None:
    policy = Path(places["tmp"], "policy.toml")
    policy.write_text("[refinement]\n")
    arguments = [*VERBS["refine"], "--policy", str(policy)]
    assert "which is read" in refused(arguments, {**places, "out": str(policy)})


def test_two_outputs_are_two_files(places: dict[str, str]) -> None:
    out = "{tmp}/../{name}/new.jsonl".format(**places, name=Path(places["tmp"]).name)
    assert "give them different names" in refused(VERBS["split, train"], {**places, "out": out})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{tmp}", "a folder; name a file to write"),
        ("{rows}/out.jsonl", "is no folder; name another place"),
        ("{rows}/deep/out.jsonl", "is no folder; name another place"),
        ("{tmp}/" + 250 * "x", "name too long"),
        ("{tmp}/pipe", "no plain file; name a file to write"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_place_is_told_before_any_work(verb: str, place: str, message: str, places: dict[str, str]) -> None:
    os.mkfifo(Path(places["tmp"], "pipe"))
    out = place.format(**places)
    found = refused(VERBS[verb], {**places, "out": out})
    assert found.startswith(f"error: {out}")
    assert message in found.lower()


def test_so_is_a_bad_place_for_the_files_of_bfcl(places: dict[str, str]) -> None:
    arguments = ["evaluate", "bfcl", "--model", "no/such", "--export-bfcl", "{rows}"]
    assert "is no folder; name another place" in refused(arguments, places)


@pytest.mark.parametrize("verb", ["convert", "dedup", "split, train", "tools"])
def test_folders_are_made(verb: str, places: dict[str, str]) -> None:
    out = Path(places["tmp"], "deep", "er", "out.jsonl")
    run_json(*[argument.format(**places, out=out) for argument in VERBS[verb]])
    assert out.stat().st_size > 0
    assert not [*out.parent.glob("*.partial")]


def test_what_an_interrupted_attempt_has_left_is_no_obstacle(places: dict[str, str]) -> None:
    Path(places["new"] + ".partial").write_text("half a li")
    run_json(*[argument.format(**places, out=places["new"]) for argument in VERBS["convert"]])
    assert len(Path(places["new"]).read_text().splitlines()) == 20
