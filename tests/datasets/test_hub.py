from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from toolrefine.config import FileDataset
from toolrefine.datasets import load_pool
from toolrefine.errors import DataError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def load_dataset(name: str, split: str) -> list[dict[str, Any]]:
        if name != "garden/talk":
            raise FileNotFoundError(f"Dataset {name} doesn't exist\nsecond line")
        return [row for row in rows if row["split"] == split]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return rows


def test_rows_lose_the_nulls_that_arrow_adds(hub: list[dict[str, Any]]) -> None:
    schema = {"type": "object", "properties": {"plant": {"type": "string", "enum": None}, "day": None}}
    arguments = {"plant": "fern", "day": None}
    hub.append(
        {
            "split": "dev",
            "tools": [{"name": "water", "description": None, "parameters": schema}],
            "messages": [
                {"role": "user", "content": "x", "tool_calls": None},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "water", "arguments": arguments}]},
            ],
        }
    )
    hub.append({"split": "dev", "messages": [{"role": "user", "content": float("nan")}]})
    [sample] = load_pool([FileDataset(format="openai", source="hub:garden/talk", split="dev")])
    assert sample.id == "talk:1"
    assert sample.source == "talk"
    assert sample.target.tool_calls[0].arguments == {"plant": "fern"}
    assert sample.tools[0].parameters == {"type": "object", "properties": {"plant": {"type": "string"}}}


def test_what_cannot_be_loaded_is_a_data_error(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"hub:garden/none, split 'train': cannot be loaded: .*exist; check"):
        load_pool([FileDataset(format="openai", source="hub:garden/none")])
