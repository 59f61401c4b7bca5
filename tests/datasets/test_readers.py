"""Every row of every format's fixture is kept or quarantined with a reason."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from toolrefine.config import FileDataset
from toolrefine.datasets import READERS, Quarantine, load_dataset
from toolrefine.errors import RowError

FIXTURES = Path(__file__).parent / "fixtures"

NOTHING_TO_LEARN = "no assistant turn to learn"
ROWS: dict[str, list[str | list[str]]] = {
    "apibank": [
        ["apibank:1"],
        ["apibank:2"],
        ["apibank:3"],
        ["apibank:4"],
        "output: its request cannot be read",
        "instruction: object 1 is not readable JSON",
        "missing_argument: the target of sample apibank:7",
    ],
    "canonical": [["canonical:1"], "messages: empty"],
    "glaive": [
        ["glaive:1/0", "glaive:1/1"],
        ["glaive:2"],
        ["glaive:3"],
        ["glaive:4"],
        "chat: the call cannot be read",
        "system: object 2 is not readable JSON",
        "chat: must begin with USER: or ASSISTANT:",
    ],
    "hermes": [
        ["parallel"],
        ["turns/0", "turns/1"],
        ["field"],
        "conversations[1].value: <tool_call> is not closed",
        "conversations[1].value: <tool_call>: neither JSON nor a Python literal",
        "unknown_tool: the target of sample no tool",
    ],
    "openai": [["openai:1"], NOTHING_TO_LEARN],
    "sharegpt": [
        ["one/0", "one/1"],
        ["parallel"],
        ["plain"],
        "conversations[1].value: not readable JSON",
        "conversations[1].from: must be system, human, gpt, function_call or observation, not 'bing'",
        "wrong_type: the target of sample bad type",
    ],
    "toolace": [["toolace:1"], "conversations[1]: its calls cannot be read"],
    "toolbench": [
        ["chat/0", "chat/1"],
        ["Step 4: Weather in Bonn?"],
        ["Step 2: A joke?"],
        NOTHING_TO_LEARN,
        "system: holds no list of tools",
        "conversations[2].value: Action Input: neither JSON nor a Python literal",
        "unknown_tool: the target of sample unknown",
    ],
    "trl": [
        ["trl:1"],
        ["trl:2"],
        ["trl:3"],
        "prompt: not readable JSON",
        NOTHING_TO_LEARN,
        "outside_enum: the target of sample trl:6",
    ],
    "xlam": [["1"], "answers: not readable JSON"],
}
"""Format -> for each row of its fixture the ids of the samples, or how the reason begins."""


@pytest.mark.parametrize("detected", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_every_row_is_kept_or_quarantined(name: str, detected: bool) -> None:
    written = io.StringIO()
    quarantine = Quarantine(written)
    source = str(FIXTURES / f"{name}.jsonl")
    config = FileDataset.model_validate({"format": "auto" if detected else name, "source": source})
    ids = [sample.id for sample in load_dataset(config, quarantine)]
    reasons = {item["line"]: item["reason"] for item in map(json.loads, written.getvalue().splitlines())}
    assert ids == [sample_id for row in ROWS[name] if isinstance(row, list) for sample_id in row]
    assert [line for line, row in enumerate(ROWS[name], 1) if isinstance(row, str)] == list(reasons)
    for line, reason in reasons.items():
        assert reason.startswith(str(ROWS[name][line - 1]))


def conversation(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **fields}


HOSTILE = {
    "apibank": lambda text: {"instruction": text, "input": f"User: x\n{text}", "output": f"API-Request: [{text}"},
    "glaive": lambda text: {"system": text, "chat": f"USER: x\n\nASSISTANT: {text}"},
    "hermes": lambda text: conversation(("system", text), ("human", text), ("gpt", text), tools=text),
    "sharegpt": lambda text: conversation(("human", text), ("function_call", text), tools=text),
    "toolbench": lambda text: conversation(("system", f"access to the following APIs: [{text}"), ("user", text)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "unit",
    [
        *("{", '{"a":', "[{", "} ", "}\n{", " \n", "\n\nUSER: ", "\n\nASSISTANT:", '<functioncall>{"name": "'),
        *(
            "<tools>",
            "<tool_call>",
            "</tool_call>",
            "<tools></tools>",
            "Use the following pydantic model json schema {",
        ),
        *("access to the following APIs: [", "\nAction: a", "\nAction Input: {", "User: ", "\nAPI-Request: [f(a=']->"),
        *("'", "\\'", "You are ", "Generate a response based on "),
    ],
)
def test_a_hostile_row_takes_linear_time(name: str, unit: str) -> None:
    row = HOSTILE[name](unit * (200_000 // len(unit)))
    started = time.perf_counter()
    try:
        list(READERS[name](row, "w"))
    except RowError as error:
        assert len(str(error)) < 1000
    assert time.perf_counter() - started < 2
