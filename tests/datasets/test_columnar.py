from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from toolrefine.config import FileDataset
from toolrefine.datasets import READERS, columnar, load_dataset
from toolrefine.datasets.files import read_file
from toolrefine.errors import DataError, RowError

FIXTURES = Path(__file__).parent / "fixtures"


def table_of(rows: list[dict[str, Any]]) -> pyarrow.Table:
    keys = dict.fromkeys(key for row in rows for key in row)
    return pyarrow.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows])


def write(path: Path, table: pyarrow.Table) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=700)
        return path
    new = pyarrow.ipc.new_stream if path.stem == "stream" else pyarrow.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table)
    return path


NAMES = ["a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("file_name", NAMES)
@pytest.mark.parametrize("name", [name for name in READERS if name != "trl"])
def test_every_format_may_come_in_columns(tmp_path: Path, name: str, file_name: str) -> None:
    source = FIXTURES / f"{name}.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    path = write(tmp_path / file_name, table_of(rows))
    expected = list(load_dataset(FileDataset(source=str(source), name="x")))
    assert list(load_dataset(FileDataset(source=str(path), name="x"))) == expected


@pytest.mark.parametrize("file_name", NAMES)
def test_rows_are_numbered_and_lose_the_nulls_that_arrow_adds(tmp_path: Path, file_name: str) -> None:
    rows: list[dict[str, Any]] = [{"a": number} if number % 2 else {"b": {"c": 1}} for number in range(2000)]
    found = list(read_file(write(tmp_path / file_name, table_of(rows))))
    assert [row.line for row in found] == list(range(1, 2001))
    assert [row.read() for row in found] == rows


@pytest.mark.parametrize("file_name", NAMES)
def test_a_bad_row_costs_no_other(tmp_path: Path, file_name: str) -> None:
    text = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(pyarrow.string())
    numbers = pyarrow.array([1.0, 2.0, float("nan")])
    first, second, third = read_file(write(tmp_path / file_name, pyarrow.table({"text": text, "number": numbers})))
    assert first.read() == {"text": "a", "number": 1.0}
    for row in (second, third):
        with pytest.raises(RowError):
            row.read()


@pytest.mark.parametrize("kind", ["struct", "list", "large_list", "map"])
def test_a_bad_row_costs_no_other_where_it_is_nested(tmp_path: Path, kind: str) -> None:
    def nested(text: Any) -> Any:
        fields = pyarrow.struct([("text", text), ("more", pyarrow.list_(text)), ("n", pyarrow.int64())])
        by_kind = {
            "struct": fields,
            "list": pyarrow.list_(fields),
            "large_list": pyarrow.large_list(fields),
            "map": pyarrow.map_(text, pyarrow.large_list(text)),
        }
        return by_kind[kind]

    def value(text: bytes) -> Any:
        fields = {"text": text, "more": [text, b"x"], "n": 1}
        return fields if kind == "struct" else [(text, [text])] if kind == "map" else [fields]

    values = [value(text) for text in (b"a", b"\xff", b"c")]
    column = pyarrow.array(values, nested(pyarrow.binary())).view(nested(pyarrow.string()))
    first, second, third = read_file(write(tmp_path / "file.arrow", pyarrow.table({"a": column})))
    assert "a" in str(first.read())
    with pytest.raises(RowError, match="cannot be read"):
        second.read()
    assert "c" in str(third.read())


@pytest.mark.parametrize("file_name", NAMES)
def test_two_columns_of_one_name_are_not_read_as_one(tmp_path: Path, file_name: str) -> None:
    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["c", "d"])]
    path = write(tmp_path / file_name, pyarrow.Table.from_arrays(columns, names=["a", "a"]))
    for row in read_file(path):
        with pytest.raises(RowError, match="duplicate field names"):
            row.read()


def test_one_batch_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = columnar._records

    def records(batch: pyarrow.RecordBatch) -> Any:
        sizes.append(batch.num_rows)
        return read(batch)

    monkeypatch.setattr(columnar, "_records", records)
    path = write(tmp_path / "a.parquet", pyarrow.table({"a": list(range(2000))}))
    rows = read_file(path)
    next(rows)
    assert len(sizes) == 1
    assert len(list(rows)) == 1999
    assert max(sizes) <= 256


@pytest.mark.parametrize("suffix", columnar.SUFFIXES)
@pytest.mark.parametrize("content", [None, b"", b"PAR1 nonsense PAR1", b"ARROW1\0\0 nonsense", b"{}" * 9999])
def test_what_is_no_such_file_is_a_data_error(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"a{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="no such file" if content is None else "not a readable"):
        list(read_file(path))


@pytest.mark.parametrize("file_name", NAMES)
def test_a_damaged_file_is_a_data_error(tmp_path: Path, file_name: str) -> None:
    path = write(tmp_path / file_name, pyarrow.Table.from_pylist([{"a": "x" * number} for number in range(3000)]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not a readable"):
        list(read_file(path))


@pytest.mark.parametrize("name", ["file.arrow", "stream.arrow"])
@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.binary()])
@pytest.mark.parametrize("offset", [-1, 2**31 - 1])
def test_offsets_that_lead_out_of_a_file_are_a_data_error(tmp_path: Path, name: str, kind: Any, offset: int) -> None:
    offsets = struct.pack("<4i", 0, 1, 2, 3)
    path = write(
        tmp_path / name, pyarrow.table({"a": pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary()).view(kind)})
    )
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<4i", 0, 1, offset, 3)))
    with pytest.raises(DataError, match="not a readable"):
        list(read_file(path))


def test_a_column_whose_name_is_no_text_is_a_data_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pyarrow.table({"some_column": ["a"]}))
    path.write_bytes(path.read_bytes().replace(b"some_column", b"some_colum\xff"))
    with pytest.raises(DataError, match="not a readable"):
        list(read_file(path))
