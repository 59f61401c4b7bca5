from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_DATA
from test_cli import run

TOOL = {
    "name": "f",
    "description": "Does f.",
    "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
}


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "id": "a",
        "messages": [{"role": "user", "content": "Do f."}],
        "tools": [TOOL],
        "target": [{"name": "f", "arguments": {"x": "1"}}],
    }
    return good | changes


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def findings(tmp_path: Path, *lines: str, options: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    result = run("data", "validate", str(path), "--json", *options)
    return result.exit_code, json.loads(result.stdout)


ERRORS = {
    "not_json": "{not json",
    "bad_field": json.dumps(row(messages=3)),
    "duplicate_tool": json.dumps(row(tools=[TOOL, TOOL | {"description": "Other."}])),
    "unknown_tool": json.dumps(row(target=[{"name": "g"}])),
    "unknown_argument": json.dumps(row(target=[{"name": "f", "arguments": {"y": "1"}}])),
    "wrong_type": json.dumps(row(target=[{"name": "f", "arguments": {"x": 1}}])),
}
WARNINGS = {
    "no_description": row(tools=[TOOL | {"description": " "}]),
    "unknown_required": row(tools=[TOOL | {"parameters": TOOL["parameters"] | {"required": ["x", "z"]}}], target=[]),
    "parameters_no_object": row(tools=[TOOL | {"parameters": {"type": "array", "properties": {}}}], target=[]),
    "empty_user_turn": row(messages=[user(" "), user("Do f.")]),
    "no_user_turn": row(messages=[{"role": "system", "content": "Do f."}]),
    "no_tools": row(tools=[], target=[]),
    "repeated_call": row(target=[{"name": "f", "arguments": {}}] * 2),
    "orphan_result": row(messages=[user("Do f."), {"role": "tool", "content": "1"}, user("Again.")]),
    "invalid_context_call": row(
        messages=[user("Do g."), {"role": "assistant", "tool_calls": [{"name": "g"}]}, user("Do f.")]
    ),
}


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_has_a_place_and_a_way_to_mend_it(code: str, tmp_path: Path) -> None:
    status, found = findings(tmp_path, json.dumps(row(id="b")), ERRORS[code])
    assert status == 1
    assert [(f["code"], f["severity"], f["line"]) for f in found["findings"]] == [(code, "error", 2)]
    assert found["findings"][0]["mend"]
    assert found["num_samples"] == 1


@pytest.mark.parametrize("code", WARNINGS)
def test_a_warning_leaves_the_row_usable(code: str, tmp_path: Path) -> None:
    status, found = findings(tmp_path, json.dumps(row(id="b")), json.dumps(WARNINGS[code]))
    assert status == 0
    assert [(f["code"], f["severity"], f["line"]) for f in found["findings"]] == [(code, "warning", 2)]
    assert found["num_samples"] == 2
    assert findings(tmp_path, json.dumps(WARNINGS[code]), options=("--errors-only",))[1]["findings"] == []


def test_an_id_that_is_there_twice_names_both_lines(tmp_path: Path) -> None:
    status, found = findings(tmp_path, *[json.dumps(row(id=name)) for name in ("a", "b", "a")])
    [finding] = found["findings"]
    assert (status, finding["code"], finding["line"]) == (0, "duplicate_id", 3)
    assert "line 1" in finding["message"]


def test_a_format_that_cannot_be_found_is_one_finding(tmp_path: Path) -> None:
    status, found = findings(tmp_path, '{"a": 1}', "{", '{"a": 2}')
    assert status == 1
    assert [(f["code"], f["line"]) for f in found["findings"]] == [("unknown_format", 1), ("not_json", 2)]


def test_the_mend_of_a_field_names_the_format_that_was_found(tmp_path: Path) -> None:
    _, found = findings(tmp_path, json.dumps({"messages": "x", "tools": [TOOL]}))
    [finding] = found["findings"]
    assert finding["code"] == "bad_field"
    assert finding["mend"] == "Give the field the form that it has in --format openai."


@pytest.mark.parametrize("options", [[], ["--format", "canonical"], ["--errors-only"]])
@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.json", "[]")])
def test_a_file_without_rows_is_a_finding(name: str, content: str, options: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    result = run("data", "validate", str(path), *options)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{path}:1: error no_rows: there are no rows. ")
    assert result.stderr.endswith("0 usable samples, 1 findings to mend, 0 warnings\n")


def test_the_samples_of_a_row_report_its_tools_once(tmp_path: Path) -> None:
    answers = [user("One."), {"role": "assistant", "content": "1"}, user("Two."), {"role": "assistant", "content": "2"}]
    bare = TOOL | {"description": ""}
    _, found = findings(tmp_path, json.dumps({"messages": answers, "tools": [bare]}), options=("--format", "openai"))
    assert [f["code"] for f in found["findings"]] == ["no_description"]
    assert found["num_samples"] == 2


def test_text_has_one_line_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n{\n")
    result = run("data", "validate", str(path))
    assert result.stdout.startswith(f"{path}:2: error not_json: ")
    assert result.stderr.endswith("1 usable samples, 1 findings to mend, 0 warnings\n")


def test_the_tool_world_has_no_error() -> None:
    result = run("data", "validate", "observatory", "--format", "toolworld", "--limit", "200", "--errors-only")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data are not beside the project")
def test_real_data_have_calls_without_required_arguments() -> None:
    result = run("data", "validate", str(REAL_DATA / "train.jsonl.gz"), "--errors-only", "--limit", "500")
    assert result.exit_code == 1
    assert {line.split(" ")[2] for line in result.stdout.splitlines()} == {"missing_argument:", "unknown_argument:"}
