from __future__ import annotations

import json
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
