from __future__ import annotations

import copy
import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import REAL_DATA
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import Dataset, FileDataset, ToolworldDataset
from toolrefine.datasets import READERS, Quarantine, dataset_name, load_dataset, load_pool, open_quarantine
from toolrefine.datasets.prompts import load_prompts
from toolrefine.errors import DataError, RowError
from toolrefine.matching import schema_violation
from toolrefine.types import Sample

FIXTURES = Path(__file__).parent / "fixtures"

TOOL = {
    "name": "water",
    "parameters": {"type": "object", "properties": {"plant": {"type": "string"}}, "required": ["plant"]},
}


def row(**fields: Any) -> dict[str, Any]:
    target = [{"name": "water", "arguments": {"plant": "fern"}}]
    return {"tools": [TOOL], "messages": [{"role": "user", "content": "x"}], "target": target, **fields}


def fixture(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def write(path: Path, *rows: dict[str, Any] | bytes) -> FileDataset:
    path.write_bytes(b"\n".join(item if isinstance(item, bytes) else json.dumps(item).encode() for item in rows))
    return FileDataset(format="canonical", source=str(path))


def as_line(row: dict[str, Any] | bytes) -> str:
    return row.decode() if isinstance(row, bytes) else json.dumps(row)


def read_quarantine(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_hostile_file_costs_its_bad_rows_and_no_more(tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any] | bytes, str]] = [
        (b'{"id": "broken"', "not readable JSON"),
        (row(target=None), "target: missing"),
        (row(messages=None), "messages: missing"),
        (row(messages=[]), "messages: empty"),
        (row(target=[{"name": "burn", "arguments": {}}]), "There is no tool 'burn'"),
        (row(target=[{"name": "water", "arguments": {}}]), "required argument 'plant' is missing"),
        (row(target=[{"name": "water", "arguments": {"plant": 3}}]), "must be of type string, not number"),
        (row(target=[{"name": "water", "arguments": {"plant": "a", "x": 1}}]), "argument 'x' is unknown"),
        (b'{"id": "' + b"x" * 10_000_000 + b'"}', "longer than 8 MiB"),
        (b'{"id": "\xc3\x28"}', "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b"\x00\x01\x02", "not a JSON object"),
        (row(meta=3), "meta: must be an object"),
    ]
    rows: list[dict[str, Any] | bytes] = []
    for number, (item, _) in enumerate(bad):
        rows += [row(id=f"good-{number}"), item]
    config = write(tmp_path / "hostile.jsonl", *rows)
    pool = load_pool([config], tmp_path / "deep" / "quarantine.jsonl")
    assert [sample.id for sample in pool] == [f"good-{number}" for number in range(len(bad))]
    found = read_quarantine(tmp_path / "deep" / "quarantine.jsonl")
    assert [item["line"] for item in found] == [2 * number + 2 for number in range(len(bad))]
    assert {item["file"] for item in found} == {config.source}
    for item, (_, reason) in zip(found, bad, strict=True):
        assert reason in item["reason"]
        assert len(item["reason"]) <= 500
    texts = [None if reason in ("longer than 8 MiB", "not UTF-8") else as_line(item) for item, reason in bad]
    assert [item["text"] for item in found] == texts
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["quarantine.jsonl"]


def test_rows_that_are_left_out_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write(tmp_path / "a.jsonl", row(), row(id="bad", messages=3))
    with caplog.at_level(logging.INFO):
        load_pool([config])
        load_pool([config], tmp_path / "q.jsonl")
    said = f"left out: 1 bad rows, the first at {config.source}:2: messages: must be a list, not 3; "
    assert said + "data validate lists them" in caplog.text
    assert said + f"all are in {tmp_path / 'q.jsonl'}" in caplog.text


def test_no_more_than_the_start_of_a_long_bad_row_is_kept(tmp_path: Path) -> None:
    config = write(tmp_path / "a.jsonl", row(), row(id="long", messages=3, meta={"note": 5000 * "x"}))
    load_pool([config], tmp_path / "q.jsonl")
    [bad] = read_quarantine(tmp_path / "q.jsonl")
    assert len(bad["text"]) == 2000
    assert as_line(row(id="long", messages=3, meta={"note": 5000 * "x"})).startswith(bad["text"].removesuffix("..."))


def test_huge_lines_do_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "huge.jsonl").open("wb") as file:
        for _ in range(64):
            file.write(b"x" * 2**20)
    config = FileDataset(format="canonical", source=str(tmp_path / "huge.jsonl"))
    tracemalloc.start()
    assert list(load_dataset(config)) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_invalid_targets_may_be_kept(tmp_path: Path) -> None:
    config = write(tmp_path / "a.jsonl", row(target=[{"name": "burn", "arguments": {}}]))
    [sample] = load_pool([config.model_copy(update={"invalid_targets": "keep"})])
    assert sample.target.tool_calls[0].name == "burn"


def test_invalid_targets_are_repaired_by_kind_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def calling(**arguments: Any) -> dict[str, Any]:
        return row(target=[{"name": "water", "arguments": arguments}])

    rows: list[dict[str, Any] | bytes] = [calling(plant=7), calling(plant="a", x=1), calling(), calling(plant=["a"])]
    policies = {"wrong_type": "repair", "unknown_argument": "keep"}
    config = FileDataset.model_validate(
        {**write(tmp_path / "a.jsonl", *rows).model_dump(), "invalid_targets": policies}
    )
    quarantine = Quarantine()
    calls = [sample.target.tool_calls[0].arguments for sample in load_dataset(config, quarantine)]
    assert calls == [{"plant": "7"}, {"plant": "a", "x": 1}]
    assert quarantine.num_rows == 2
    assert quarantine.invalid_targets == {
        "wrong_type": {"repaired": 1, "quarantined": 1},
        "unknown_argument": {"kept": 1},
        "missing_argument": {"quarantined": 1},
    }
    with caplog.at_level(logging.INFO):
        load_pool([config])
    assert "targets with wrong_type: 1 repaired, 1 quarantined" in caplog.text


def test_an_invalid_target_costs_its_sample_and_not_the_conversation(tmp_path: Path) -> None:
    calls = [{"name": "burn", "arguments": {}}], [{"name": "water", "arguments": {"plant": "fern"}}]
    turns = [
        turn for call in calls for turn in ({"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": call})
    ]
    config = write(tmp_path / "a.jsonl", {"id": "c", "tools": [TOOL], "messages": turns})
    with open_quarantine(tmp_path / "q.jsonl") as quarantine:
        samples = list(load_dataset(config.model_copy(update={"format": "openai"}), quarantine))
    assert [sample.id for sample in samples] == ["c/1"]
    [bad] = read_quarantine(tmp_path / "q.jsonl")
    assert bad["reason"].startswith("unknown_tool: the target of sample c/0 is invalid")
    assert quarantine.invalid_targets == {"unknown_tool": {"quarantined": 1}}


def test_ids_and_sources_are_filled_in(tmp_path: Path) -> None:
    config = write(tmp_path / "plants.v1.jsonl", row(), row(id=7, source="book"), row(id="", license="CC0"))
    pool = load_pool([config])
    assert [sample.id for sample in pool] == ["plants.v1:1", "7", "plants.v1:3"]
    assert [sample.source for sample in pool] == ["plants.v1", "book", "plants.v1"]
    assert pool[2].meta == {"license": "CC0"}


def test_ids_are_unique_over_the_pool(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", row(id="a"), row(id="a"), row(id="a#2"))
    second = write(tmp_path / "b.jsonl", row(id="a"), row(id="a#2"))
    assert [sample.id for sample in load_pool([first, second])] == ["a", "a#2", "a#2#2", "a#3", "a#2#3"]


def test_offset_and_limit_count_rows_before_they_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | bytes] = [row(id="0"), b"broken", b"", row(id="2"), row(id="3"), row(id="4")]
    config = write(tmp_path / "a.jsonl", *rows).model_copy(update={"offset": 1, "limit": 3})
    pool = load_pool([config], tmp_path / "q.jsonl")
    assert [sample.id for sample in pool] == ["2", "3"]
    assert [item["line"] for item in read_quarantine(tmp_path / "q.jsonl")] == [2]


def test_an_empty_pool_says_why(tmp_path: Path) -> None:
    config = write(tmp_path / "a.jsonl", b"broken", b"broken")
    with pytest.raises(DataError, match=r"^a: no usable sample: 2 bad rows, the first at .*a\.jsonl:1: .*q\.jsonl"):
        load_pool([config], tmp_path / "q.jsonl")
    assert len(read_quarantine(tmp_path / "q.jsonl")) == 2
    with pytest.raises(DataError, match="no usable sample: no rows; check"):
        load_pool([config.model_copy(update={"offset": 9})])


def test_a_missing_source_leaves_no_quarantine(tmp_path: Path) -> None:
    configs = [
        write(tmp_path / "a.jsonl", b"broken"),
        FileDataset(format="openai", source=str(tmp_path / "none.jsonl")),
    ]
    with pytest.raises(DataError, match="no such file"):
        load_pool(configs, tmp_path / "q.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_toolworld_comes_through(tmp_path: Path) -> None:
    config = ToolworldDataset(format="toolworld", domain="observatory", size=20)
    pool = load_pool([config, config], tmp_path / "q.jsonl")
    assert len({sample.id for sample in pool}) == 40
    assert read_quarantine(tmp_path / "q.jsonl") == []


def test_wrong_labels_of_toolworld_are_checked_where_the_config_says_so(tmp_path: Path) -> None:
    config = ToolworldDataset(format="toolworld", domain="observatory", size=200, wrong_label_rate=0.3)
    kept = list(load_dataset(config))
    checked = load_pool([config.model_copy(update={"invalid_targets": "quarantine"})], tmp_path / "q.jsonl")
    assert len(kept) == 200
    assert checked == [sample for sample in kept if not schema_violation(sample.target.tool_calls, sample.tools)]
    lines = {item["line"] for item in read_quarantine(tmp_path / "q.jsonl")}
    assert {item["file"] for item in read_quarantine(tmp_path / "q.jsonl")} == {"observatory"}
    assert [kept[line - 1].meta["label"][:5] for line in lines] == ["wrong"] * (len(kept) - len(checked))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FileDataset(format="xlam", source="data/plants.v2.jsonl.gz"), "plants.v2"),
        (FileDataset(format="xlam", source="plants.json"), "plants"),
        (FileDataset(source="data/plants.v2.parquet"), "plants.v2"),
        (FileDataset(format="xlam", source="hub:garden/plants-2.5"), "plants-2.5"),
        (FileDataset(format="xlam", source="plants.json", name="mine"), "mine"),
        (ToolworldDataset(format="toolworld", domain="observatory", size=1), "observatory"),
    ],
)
def test_dataset_name(config: Dataset, name: str) -> None:
    assert dataset_name(config) == name


CALL = {"id": "a", "type": "function", "function": {"name": "water", "arguments": '{"plant": "fern"}'}}
TURNS = [
    {"role": "system", "content": "x"},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "ok", "tool_call_id": "a"},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "y", "weight": 1},
]
BARE_TOOL = {
    "name": "water",
    "description": "x",
    "parameters": {"plant": {"type": "List[int], optional", "default": 1}},
}
GOOD_ROWS: dict[str, dict[str, Any]] = {
    "canonical": row(id="a", source="x", license="x", target_text="x", meta={"a": 1}, messages=TURNS),
    "openai": {"id": "a", "meta": {"a": 1}, "tools": [{"type": "function", "function": TOOL}], "messages": TURNS},
    "toolace": {
        "system": f"Today is Monday. {json.dumps([TOOL])}. Go.",
        "conversations": [
            {"from": "user", "value": "x"},
            {"from": "assistant", "value": '[water(plant="fern"), water(plant="ivy")]'},
            {"from": "tool", "value": '["a", {"b": 1}]'},
            {"from": "user", "value": "x"},
            {"from": "assistant", "value": "y"},
        ],
    },
    "xlam": {"id": 1, "query": "x", "tools": [BARE_TOOL], "answers": [{"name": "water", "arguments": {"plant": "a"}}]},
}
GOOD_ROWS |= {name: fixture(name)[0] for name in READERS if name not in GOOD_ROWS}
FRAGMENTS = [
    "",
    "'",
    '"',
    "{",
    "}",
    "[",
    "\\",
    "\n\nUSER:",
    "<tool_call>",
    "</tools>",
    "<functioncall>",
    "Action:",
    "]->",
]

json_values = st.recursive(
    st.sampled_from(
        [None, True, 0, -1.5, "", "user", "assistant", "water", "[f(a=1)]", "[f(", '[{"name": "f"}]', "[{"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "type", "a"]), inner),
    max_leaves=4,
)


def damage(value: Any, data: st.DataObject) -> Any:
    """The value with a random part of it replaced by a random value, dropped, or written as JSON text.

    Of text a few characters are replaced as well.
    """
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        changed = copy.copy(value)
        if data.draw(st.integers(0, 5)):
            changed[key] = damage(value[key], data)
        else:
            del changed[key]
        return changed
    if isinstance(value, str) and data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(value)))
        return value[:start] + data.draw(st.sampled_from(FRAGMENTS)) + value[start + data.draw(st.integers(0, 3)) :]
    if data.draw(st.booleans()):
        return json.dumps(value)
    return data.draw(json_values)


@pytest.mark.parametrize("format_name", READERS)
def test_good_rows_are_good(format_name: str) -> None:
    assert list(READERS[format_name](GOOD_ROWS[format_name], "w"))


@pytest.mark.parametrize("format_name", READERS)
@given(data=st.data())
def test_a_reader_yields_samples_or_raises_row_error(format_name: str, data: st.DataObject) -> None:
    row = GOOD_ROWS[format_name]
    for _ in range(data.draw(st.integers(1, 3))):
        row = damage(row, data)
        if not isinstance(row, dict):
            return
    try:
        samples = list(READERS[format_name](row, "w"))
    except RowError as error:
        assert str(error)
        return
    assert samples
    for sample in samples:
        assert sample.id
        assert sample.messages
        assert sample.target.role == "assistant"
        assert Sample.model_validate_json(sample.model_dump_json()) == sample
        schema_violation(sample.target.tool_calls, sample.tools)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real data is not beside the repository")
@pytest.mark.parametrize(
    ("name", "num_rows", "num_bad"), [("train", 11_851, 49), ("dev_seen_tools", 600, 1), ("dev_new_tools", 323, 0)]
)
def test_real_data(tmp_path: Path, name: str, num_rows: int, num_bad: int) -> None:
    config = FileDataset(format="canonical", source=str(REAL_DATA / f"{name}.jsonl.gz"))
    pool = load_pool([config], tmp_path / "q.jsonl")
    bad = read_quarantine(tmp_path / "q.jsonl")
    assert len(pool) + len(bad) == num_rows
    assert len(bad) == num_bad
    assert len({sample.id for sample in pool}) == len(pool)


def test_a_prompt_has_the_id_of_its_sample(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "tools": [], "target": []}
    path = tmp_path / "ho.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "own"}) + "\n", encoding="utf-8")
    prompts, num_bad = load_prompts(path, tmp_path / "bad.jsonl")
    samples = load_pool([FileDataset(format="canonical", source=str(path))])
    assert [prompt.id for prompt in prompts] == [sample.id for sample in samples] == ["ho:1", "own"]
    assert num_bad == 0
