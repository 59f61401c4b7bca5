"""TRL's conversational prompt-completion format: {"prompt": [...], "completion": [...], "tools": [...]}.

Both lists hold OpenAI messages. The assistant turns of the completion are learned, those of the prompt are context.
TRL's other conversational format, {"messages", "tools"}, is what toolrefine.datasets.openai reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.fields import id_of
from toolrefine.datasets.openai import read_messages
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.types import Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or its completion has no assistant turn to learn.
    """
    for key in ("prompt", "completion"):
        if row.get(key) is None:
            raise RowError(f"{key}: missing")
    conversation = read_messages(row["prompt"], "prompt", learn=False)
    read_messages(row["completion"], "completion", conversation)
    yield from conversation.samples(read_tools(row.get("tools")), id_of(row, where), {})
