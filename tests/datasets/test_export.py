from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import FileDataset, ToolworldDataset
from toolrefine.datasets import load_pool
from toolrefine.datasets.canonical import read_row
from toolrefine.datasets.export import to_row, write_samples
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Message, Sample, Tool, ToolCall

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(lambda text: text.strip() != "")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)
calls = st.lists(st.builds(ToolCall, name=names, arguments=objects), max_size=3).map(tuple)
turns = (
    st.builds(Message, role=st.sampled_from(["system", "user"]), content=texts)
    | st.builds(Message, role=st.just("assistant"), content=texts, tool_calls=calls)
    | st.builds(Message, role=st.just("tool"), content=texts, tool_call_id=st.none() | st.just("call_0"))
)


def alternating(messages: list[Message]) -> tuple[Message, ...]:
    kept: list[Message] = []
    for message in messages:
        if not (kept and kept[-1].role == message.role == "assistant"):
            kept.append(message)
    return tuple(kept)


alternatives = st.dictionaries(texts, st.lists(values, max_size=2).map(tuple), max_size=2)


@st.composite
def with_alternatives(draw: st.DrawFn, samples: st.SearchStrategy[Sample]) -> Sample:
    sample = draw(samples)
    found = draw(st.lists(alternatives, max_size=len(sample.target.tool_calls)))
    return sample.model_copy(update={"alternatives": tuple(found)})


samples = st.builds(
    Sample,
    id=names.map(str.strip),
    messages=st.lists(turns, min_size=1, max_size=6).map(alternating),
    tools=st.lists(
        st.builds(Tool, name=names, description=texts, parameters=objects.map(arguments_schema)),
        max_size=3,
        unique_by=lambda tool: tool.name,
    ).map(tuple),
    target=st.builds(Message, role=st.just("assistant"), content=texts)
    | st.builds(Message, role=st.just("assistant"), tool_calls=calls),
    source=texts,
    meta=objects | st.just({"license": "CC0"}),
)


@given(with_alternatives(samples))
def test_a_row_reads_back_as_the_sample(sample: Sample) -> None:
    assert list(read_row(to_row(sample), "w")) == [sample]


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.jsonl.gz"])
def test_a_file_reads_back_as_the_samples(tmp_path: Path, name: str) -> None:
    world = load_pool([ToolworldDataset(format="toolworld", domain="observatory", size=40, wrong_label_rate=0.2)])
    assert write_samples(tmp_path / name, world) == 40
    config = FileDataset(format="canonical", source=str(tmp_path / name), invalid_targets="keep")
    assert load_pool([config]) == world
    first = (tmp_path / name).read_bytes()
    write_samples(tmp_path / name, world)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_interrupted_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl.gz"
    path.write_bytes(gzip.compress(b"old"))

    def broken() -> Iterator[Sample]:
        yield Sample(id="a", messages=(), tools=(), target=Message(role="assistant", content="x"))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_samples(path, broken())
    assert gzip.decompress(path.read_bytes()) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["pool.jsonl.gz"]
