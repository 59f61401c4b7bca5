from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from toolrefine.config import FileDataset
from toolrefine.datasets import READERS, load_dataset, load_pool
from toolrefine.datasets.detect import NUM_ROWS, detect_format
from toolrefine.errors import DataError

FIXTURES = Path(__file__).parent / "fixtures"
PLAIN = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}], "tools": "[]"}


@pytest.mark.parametrize("name", READERS)
def test_a_format_is_known_by_its_rows(name: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    with caplog.at_level(logging.INFO):
        assert detect_format(rows, READERS, "data") == name
    assert f"data: format {name}: " in caplog.text


def test_broken_rows_and_rows_in_two_formats_alike_do_not_matter(tmp_path: Path) -> None:
    good = (FIXTURES / "hermes.jsonl").read_text().splitlines()[0]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["broken", json.dumps(PLAIN), json.dumps({"conversations": [7]}), "[]", good]))
    ids = [sample.id for sample in load_dataset(FileDataset(source=str(path)))]
    assert ids == ["a:2", "parallel"]


def test_rows_behind_the_first_ones_are_read_too(tmp_path: Path) -> None:
    [row, _] = (FIXTURES / "xlam.jsonl").read_text().splitlines()
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([row] * (2 * NUM_ROWS)))
    assert len(load_pool([FileDataset(source=str(path))])) == 2 * NUM_ROWS


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "none of its first rows is a JSON object"),
        ([{"question": "x", "answer": "y"}], "have the keys answer, question; set format to one of canonical, openai"),
        ([PLAIN, PLAIN], "its format is not known: the first 2 rows have the keys conversations, tools"),
        ([{"instruction": "Translate.", "input": "x", "output": "y"}], "have the keys input, instruction, output"),
        ([{"prompt": "x", "completion": "y"}], "have the keys completion, prompt"),
        (
            [{"messages": [], "target": []}, {"messages": []}],
            r"show canonical in 1 \(the keys messages and target\) and openai in 1 \(the keys messages\); set format",
        ),
        ([{"messages": [], "query": "x", "tools": [], "answers": []}], "openai in 1 .* and xlam in 1 "),
    ],
)
def test_what_is_not_clear_is_a_data_error(rows: list[dict[str, object]], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        detect_format(rows, READERS, "data")


def test_an_empty_file_has_no_rows_rather_than_no_format(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="no usable sample: no rows"):
        load_pool([FileDataset(source=str(path))])
