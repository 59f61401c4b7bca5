from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import REAL_DATA
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import FileDataset
from toolrefine.datasets import load_dataset, load_pool
from toolrefine.datasets.export import write_samples
from toolrefine.datasets.toolworld import generate
from toolrefine.datasets.wrong_labels import SeenValues, is_right, make_wrong
from toolrefine.matching import schema_violation
from toolrefine.types import Message, Sample, Tool, ToolCall

HOWS = {"another_tool", "changed_value", "missing_value", "dropped_call", "needless_call"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> FileDataset:
    path = tmp_path_factory.mktemp("wrong") / "museum.jsonl"
    write_samples(path, generate("museum", 300, 3))
    with path.open("a") as out:
        out.write("broken\n")
    return FileDataset(format="canonical", source=str(path), wrong_label_rate=0.5, invalid_targets="keep")


def made(calls: list[dict[str, Any]], *tools: Tool, **fields: Any) -> Sample:
    target = Message(role="assistant", tool_calls=tuple(ToolCall(**call) for call in calls))
    return Sample(id="a", messages=(Message(role="user", content="x"),), tools=tools, target=target, **fields)


def test_a_share_of_the_targets_of_a_file_is_made_wrong_and_nothing_else(file: FileDataset) -> None:
    right = list(load_dataset(file.model_copy(update={"wrong_label_rate": 0.0})))
    spoilt = list(load_dataset(file))
    assert len(spoilt) == len(right) == 300
    labels = Counter(sample.meta["label"] for sample in spoilt)
    assert 120 <= 300 - labels["ok"] <= 180
    assert labels.keys() == {"ok", *(f"wrong:{how}" for how in HOWS)}
    for before, after in zip(right, spoilt, strict=True):
        assert is_right(after.target.tool_calls, before) == (after.meta["label"] == "ok")
        unchanged = {"target": before.target, "meta": before.meta}
        assert after.model_copy(update=unchanged) == before


def test_the_same_seed_makes_the_same_labels_wrong(file: FileDataset) -> None:
    spoilt = list(load_dataset(file))
    assert spoilt == list(load_dataset(file))
    assert spoilt != list(load_dataset(file.model_copy(update={"seed": 1})))


def test_wrong_labels_are_checked_like_those_of_the_file(file: FileDataset, tmp_path: Path) -> None:
    checked = load_pool([file.model_copy(update={"invalid_targets": "quarantine"})], tmp_path / "q.jsonl")
    assert checked == [s for s in load_dataset(file) if not schema_violation(s.target.tool_calls, s.tools)]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert len(reasons) == 301 - len(checked)
    assert "JSON" in reasons[-1]


def test_values_come_from_the_data_and_fit_the_tool(file: FileDataset) -> None:
    right = {sample.id: sample for sample in generate("museum", 300, 3)}
    seen = {json.dumps(v) for s in right.values() for c in s.target.tool_calls for v in c.arguments.values()}
    changed = [s for s in load_dataset(file) if s.meta["label"] == "wrong:changed_value"]
    for sample in changed:
        assert schema_violation(sample.target.tool_calls, sample.tools) is None
        values = {json.dumps(v) for call in sample.target.tool_calls for v in call.arguments.values()}
        enums = {
            json.dumps(v)
            for tool in sample.tools
            for schema in tool.parameters["properties"].values()
            for v in schema.get("enum", [True, False])
        }
        assert values <= seen | enums
    assert changed


TOOL = Tool(name="water", parameters={"type": "object", "properties": {"plant": {"type": "string", "default": "fern"}}})


@pytest.mark.parametrize(
    "sample",
    [
        made([]),
        made([{"name": "water", "arguments": {}}], TOOL),
        made([{"name": "water", "arguments": {"plant": "fern"}}], TOOL),  # its default: the same without it
        made([{"name": "gone", "arguments": {}}]),
    ],
)
def test_what_cannot_be_made_wrong_stays_as_it_is(sample: Sample) -> None:
    assert make_wrong(sample, Random(0), SeenValues([sample])) == sample


def test_what_an_alternative_allows_is_not_wrong() -> None:
    sample = made(
        [{"name": "water", "arguments": {"plant": "moss"}}], TOOL, alternatives=({"plant": ["moss", "fern", "ivy"]},)
    )
    others = made([{"name": "water", "arguments": {"plant": "ivy"}}], TOOL)
    assert make_wrong(sample, Random(0), SeenValues([sample, others])) == sample


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(
    schema=st.dictionaries(st.sampled_from(["type", "properties", "required", "enum"]), ODD, max_size=3),
    arguments=st.dictionaries(st.text(max_size=3), ODD, max_size=3),
    seed=st.integers(0, 99),
)
def test_odd_schemas_and_values_do_no_harm(schema: dict[str, Any], arguments: dict[str, Any], seed: int) -> None:
    tools = (Tool(name="a", parameters=schema), Tool(name="b", parameters={"properties": {"x": schema}}))
    for calls in ([], [{"name": "a", "arguments": arguments}], [{"name": "b", "arguments": {"x": arguments}}] * 2):
        sample = made(calls, *tools)
        wrong = make_wrong(sample, Random(seed), SeenValues([sample]))
        assert wrong == sample or not is_right(wrong.target.tool_calls, sample)


@pytest.mark.skipif(not REAL_DATA.exists(), reason="needs the real data beside the checkout")
def test_real_data_get_wrong_labels_of_every_kind() -> None:
    source = str(REAL_DATA / "train.jsonl.gz")
    spoilt = load_pool([FileDataset(source=source, limit=1000, wrong_label_rate=0.5, invalid_targets="keep")])
    assert {sample.meta["label"] for sample in spoilt} == {"ok", *(f"wrong:{how}" for how in HOWS)}
