from __future__ import annotations

from typing import Any

import pytest

from toolrefine.datasets.trl import read_row
from toolrefine.errors import RowError

USER = {"role": "user", "content": "x"}
TEXT = {"role": "assistant", "content": "y"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("prompt", "completion", "kinds"),
    [
        ([USER], [TEXT], ["no_call"]),
        ([USER, TEXT, USER, CALL, USER], [CALL], ["single"]),
        ([USER, TEXT], [CALL], ["single"]),
        ([USER], [CALL, USER, TEXT], ["single", "no_call"]),
    ],
)
def test_the_completion_alone_is_learned(prompt: list[Any], completion: list[Any], kinds: list[str]) -> None:
    samples = list(read_row({"prompt": prompt, "completion": completion, "tools": [{"name": "f"}]}, "w"))
    assert [sample.kind for sample in samples] == kinds


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": [USER]}, "completion: missing"),
        ({"prompt": [USER, CALL], "completion": [CALL]}, "no assistant turn to learn"),
        ({"prompt": [USER, TEXT], "completion": [TEXT]}, "no assistant turn to learn"),
        ({"prompt": [USER], "completion": [{"role": "robot"}]}, r"completion\[0\].role"),
        ({"prompt": [7], "completion": [TEXT]}, r"prompt\[0\]: must be an object"),
    ],
)
def test_what_does_not_fit_is_a_row_error(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        list(read_row(row, "w"))
