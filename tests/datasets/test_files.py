from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from toolrefine.datasets import files
from toolrefine.datasets.files import MAX_ROW_BYTES, Row, read_file
from toolrefine.errors import DataError, RowError


def lines_of(path: Path) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    for row in read_file(path):
        try:
            found.append((row.line, row.read()))
        except RowError as error:
            found.append((row.line, str(error)))
    return found


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xe2\x80\xa8"}\n{"a": 3}')
    assert lines_of(path) == [(1, {"a": 1}), (4, {"a": "\u2028"}), (5, {"a": 3})]


def test_gzipped_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert lines_of(path) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not readable JSON"),
        (b"[1]", "not a JSON object"),
        (b"nonsense", "not a JSON object"),
        (b'{"a": 1} {"b": 2}', "goes on after its JSON object, at character 9"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at position 8"),
        (b'{"a": NaN}', "not readable JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a":' * 5000, "not readable JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not readable JSON"),
        (b'{"a": "' + b"x" * MAX_ROW_BYTES + b'"}', "longer than 8 MiB"),
    ],
)
def test_a_bad_line_costs_no_other(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n' + line)
    first, bad, good, last = lines_of(path)
    assert (first, good) == ((1, {"a": 1}), (3, {"a": 3}))
    assert bad[0] == 2 and reason in str(bad[1])
    assert last[0] == 4 and reason in str(last[1])


def test_a_line_of_just_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = b'{"a": "' + b"x" * (MAX_ROW_BYTES - 9) + b'"}'
    path.write_bytes(line + b"\n" + line)
    assert [isinstance(row, dict) for _, row in lines_of(path)] == [True, True]


@pytest.mark.parametrize("block", [7, 64, 2**20])
@pytest.mark.parametrize(
    "item",
    [
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}",
        '{"a": "]}", "b\\"}": ' + '{"\\\\": "[", "]": ' * 3000 + '"é"' + "}" * 3001,
    ],
    ids=["digits", "lists", "objects"],
)
def test_an_item_that_cannot_be_read_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: str, block: int
) -> None:
    monkeypatch.setattr(files, "_BLOCK", max(block, len(item) // 50))
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"a": 1}}, {item},\n{{"a": 2}}]', encoding="utf-8")
    first, bad, last = lines_of(path)
    assert (first, last) == ((1, {"a": 1}), (2, {"a": 2}))
    assert bad[0] == 1 and "not readable JSON" in str(bad[1])


@pytest.mark.parametrize("end", ["", "]" * 9_999, ']"'])
def test_a_deep_item_without_an_end_ends_the_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"a": 1}}, {"[" * 10_000}{end}')
    rows = read_file(path)
    assert next(rows).read() == {"a": 1}
    with pytest.raises(DataError, match="from here on"):
        list(rows)


@pytest.mark.parametrize("block", [1, 2, 7, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None) -> None:
    monkeypatch.setattr(files, "_BLOCK", block)
    items = [{"a": 'é ] } \\"'}, {}, 123, {"b": [[], {"c": 1.5e10}]}, "x"] * 30
    path = tmp_path / "rows.json"
    path.write_text("\n " + json.dumps(items, indent=indent) + "\n", encoding="utf-8")
    found = list(read_file(path))
    assert [json.loads(row.text or "") for row in found] == items
    text = path.read_text(encoding="utf-8").split("\n")
    for row in found:
        assert row.text is not None and row.text.split("\n")[0] in text[row.line - 1]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert lines_of(path) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("block", [3, 2**20])
@pytest.mark.parametrize(
    ("text", "good", "problem"),
    [
        ('[{"a": 1},\n{"a": }]', 1, ":2: the list cannot be read from here on"),
        ('[{"a": 1}', 1, ":1: the list cannot be read from here on"),
        ("[", 0, ":1: the list cannot be read from here on"),
        ('[{"a": 1}]\n[{"a": 2}]', 1, "more behind the end of the list"),
        ("[" * 100_000, 0, "cannot be read from here on"),
    ],
)
def test_a_broken_list_is_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str, good: int, problem: str
) -> None:
    monkeypatch.setattr(files, "_BLOCK", max(block, len(text) // 100))
    path = tmp_path / "rows.json"
    path.write_text(text)
    found: list[Row] = []
    with pytest.raises(DataError, match=problem):
        found.extend(read_file(path))
    assert len(found) == good


def test_a_list_in_another_encoding_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_file(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_file(tmp_path / name))


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        list(read_file(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.gz", "rows.parquet.gz"])
def test_other_kinds_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"not a \.json, \.jsonl"):
        list(read_file(tmp_path / name))


@pytest.mark.parametrize("content", [b"plain text", gzip.compress(b'{"a": 1}\n' * 9999)[:-20]])
def test_damaged_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_file(path))
