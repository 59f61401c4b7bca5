from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from conftest import REAL_DATA
from data_samples import call, conversation, sample, write
from test_cli import run, run_json

from toolrefine.config import FileDataset, PromptConfig
from toolrefine.datasets import READERS, load_dataset
from toolrefine.datasets.export import ROWS, ExportFormat, to_hermes_row, to_llamafactory_row, to_openai_row, to_trl_row
from toolrefine.types import Message, Sample

READ_BY: dict[ExportFormat, str] = {
    "canonical": "canonical",
    "openai": "openai",
    "trl": "trl",
    "llamafactory": "sharegpt",
    "hermes": "hermes",
}
TARGET_ALONE = ("canonical", "openai", "trl")


def read_back(one: Sample, to: ExportFormat) -> list[Sample]:
    return list(READERS[READ_BY[to]](json.loads(json.dumps(ROWS[to](one))), "here"))


def squeeze(messages: tuple[Message, ...]) -> list[Message]:
    return [message.model_copy(update={"content": " ".join(message.content.split())}) for message in messages]


@pytest.mark.parametrize("to", READ_BY)
def test_the_last_sample_of_a_row_is_the_sample(to: ExportFormat, samples: list[Sample]) -> None:
    for one in (*samples, conversation()):
        back = read_back(one, to)
        if to in TARGET_ALONE:
            assert len(back) == 1
            assert back[0].id == one.id
        assert back[-1].messages == one.messages
        assert back[-1].tools == one.tools
        assert back[-1].target.tool_calls == one.target.tool_calls


@pytest.mark.parametrize("to", ["openai", "trl", "llamafactory", "hermes"])
def test_no_call_gets_the_words_that_training_gives_it(to: ExportFormat) -> None:
    [silent] = read_back(sample("a", "Hi", "f"), to)
    assert silent.target.content == PromptConfig().no_call_text
    [worded] = read_back(sample("a", "Hi", "f", reply="No."), to)
    assert worded.target.content == "No."


def test_openai_learns_the_target_alone() -> None:
    messages = to_openai_row(conversation())["messages"]
    assert [message.get("weight") for message in messages if message["role"] == "assistant"] == [0, 0, None]
    assert messages[-1]["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "book", "arguments": '{"city": "Rome"}'}}
    ]


def test_trl_has_prompt_and_completion_with_arguments_as_objects() -> None:
    row = to_trl_row(conversation())
    assert row["completion"][0]["tool_calls"][0]["function"] == {"name": "book", "arguments": {"city": "Rome"}}
    assert [message["role"] for message in row["prompt"]] == [message.role for message in conversation().messages]
    assert [tool["function"]["name"] for tool in json.loads(row["tools"])] == ["weather", "book"]


def test_llamafactory_alternates_and_keeps_parallel_calls_and_results_together() -> None:
    row = to_llamafactory_row(conversation())
    assert row["system"] == "Be brief."
    assert [turn["from"] for turn in row["conversations"]] == [
        *("human", "function_call", "observation", "gpt", "human", "function_call"),
    ]
    values = [turn["value"] for turn in row["conversations"]]
    assert json.loads(values[1]) == [
        {"name": "weather", "arguments": {"city": "Rome"}},
        {"name": "weather", "arguments": {"city": "Oslo"}},
    ]
    assert json.loads(values[2]) == ['{"sky": "blue"}', "snow"]
    assert json.loads(values[5]) == {"name": "book", "arguments": {"city": "Rome"}}
    assert [tool["name"] for tool in json.loads(row["tools"])] == ["weather", "book"]


def test_llamafactory_starts_with_the_user_whatever_the_sample_does() -> None:
    odd = conversation()
    roles = ("assistant", "user", "user", "assistant", "assistant")
    messages = tuple(Message(role=role, content=f"turn {n}") for n, role in enumerate(roles))
    turns = to_llamafactory_row(odd.model_copy(update={"messages": messages}))["conversations"]
    assert [turn["from"] == "human" for turn in turns] == [True, False] * 4
    assert turns[2]["value"] == "turn 1\nturn 2"


def test_hermes_has_tools_calls_and_results_in_tags() -> None:
    row = to_hermes_row(conversation())
    roles = [turn["from"] for turn in row["conversations"]]
    assert roles == ["system", "human", "gpt", "tool", "gpt", "human", "gpt"]
    system, _, calls, results, *_ = (turn["value"] for turn in row["conversations"])
    assert json.loads(system.split("<tools>\n")[1].split("\n</tools>")[0]) == json.loads(row["tools"])
    assert system.endswith("Be brief.")
    assert calls.count("<tool_call>") == calls.count("</tool_call>") == 2
    assert results.split("\n") == [
        *("<tool_response>", '{"sky": "blue"}', "</tool_response>"),
        *("<tool_response>", "snow", "</tool_response>"),
    ]


@pytest.mark.parametrize("to", READ_BY)
def test_convert_writes_what_auto_reads(to: ExportFormat, tmp_path: Path) -> None:
    out, back = tmp_path / "out.jsonl.gz", tmp_path / "back.jsonl"
    report = run_json("data", "convert", write(tmp_path / "in.jsonl", conversation()), str(out), "--to", to)
    assert report == {"num_samples": 1, "num_bad_rows": 0, "out": str(out)}
    with gzip.open(out, "rt") as lines:
        assert len(lines.readlines()) == 1
    assert run_json("data", "convert", str(out), str(back))["num_samples"] >= 1


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("convert", ["{out}/1.jsonl"]),
        ("dedup", ["{out}/1.jsonl"]),
        ("split", ["--out-train", "{out}/1.jsonl", "--out-held-out", "{out}/2.jsonl", "--held-out", "0.5"]),
    ],
)
def test_what_is_right_beside_the_target_is_kept(verb: str, options: list[str], tmp_path: Path) -> None:
    known = {tool: ({"value": (tool, 1)},) for tool in ("find", "book")}
    rows = [
        sample(tool, f"Please {tool}", tool, calls=[call(tool, value="x")]).model_copy(update={"alternatives": more})
        for tool, more in known.items()
    ]
    out = tmp_path / "out"
    out.mkdir()
    run_json("data", verb, write(tmp_path / "in.jsonl", *rows), *(option.format(out=out) for option in options))
    written = [one for path in out.glob("*.jsonl") for one in load_dataset(FileDataset(source=str(path)))]
    assert {one.id: one.alternatives for one in written} == known


def test_bad_rows_are_listed_beside_the_output(tmp_path: Path) -> None:
    source = Path(write(tmp_path / "in.jsonl", conversation()))
    source.write_text("{\n" + source.read_text())
    assert run_json("data", "convert", str(source), str(tmp_path / "out.jsonl"))["num_bad_rows"] == 1
    [bad] = map(json.loads, (tmp_path / "out.jsonl.quarantine.jsonl").read_text().splitlines())
    assert bad["line"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{rows}", "--to", "csv"], "--to csv: must be one of canonical"),
        (["{rows}", "--format", "csv"], "format"),
        (["{empty}"], "no usable sample"),
        (["{tmp}/gone.jsonl"], "no such file"),
    ],
)
def test_a_wrong_request_writes_nothing(options: list[str], message: str, tmp_path: Path) -> None:
    places = {"rows": write(tmp_path / "in.jsonl", sample("a", "Hi", "f")), "tmp": str(tmp_path)}
    places["empty"] = str(tmp_path / "empty.jsonl")
    Path(places["empty"]).touch()
    source, *rest = [option.format(**places) for option in options]
    result = run("data", "convert", source, str(tmp_path / "out.jsonl"), *rest)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data are not beside the project")
@pytest.mark.parametrize("to", READ_BY)
def test_real_data_survive(to: ExportFormat) -> None:
    for one in load_dataset(FileDataset(source=str(REAL_DATA / "dev_new_tools.jsonl.gz"))):
        back = read_back(one, to)[-1]
        assert back.tools == one.tools
        assert back.target == one.target
        # The reader of Hermes evens out the white space around tags.
        assert squeeze(back.messages) == squeeze(one.messages)
