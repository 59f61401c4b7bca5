"""OpenAI's chat and fine-tuning format: {"messages": [...], "tools": [...]}.

Each assistant turn that calls tools or answers a user becomes a sample, save those with "weight": 0. Tools, calls and
arguments may be objects or JSON text. A row may have an id and a meta object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, id_of, list_of, object_of, read_calls, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.types import Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or has no assistant turn to learn.
    """
    tools = read_tools(row.get("tools"))
    conversation = read_messages(row.get("messages"))
    meta = row.get("meta")
    yield from conversation.samples(tools, id_of(row, where), meta if isinstance(meta, dict) else {})


def read_messages(
    value: Any, what: str = "messages", onto: Conversation | None = None, *, learn: bool = True
) -> Conversation:
    """A list of OpenAI messages, added onto a conversation where one is given; learn says whether to learn its answers.

    Raises:
        RowError: one does not fit the format, or there are too many.
    """
    conversation = onto or Conversation()
    for index, item in enumerate(list_of(value, what)):
        where = f"{what}[{index}]"
        turn = object_of(item, where)
        content = text_of(turn.get("content"), f"{where}.content")
        raw_calls = list_of(turn.get("tool_calls"), f"{where}.tool_calls")
        if raw_calls and turn.get("role") != "assistant":
            raise RowError(f"{where}: only assistant turns can have tool_calls")
        match turn.get("role"):
            case "system" | "developer":
                conversation.add("system", content)
            case "user":
                conversation.add("user", content)
            case "assistant":
                calls = read_calls(raw_calls, f"{where}.tool_calls")
                call_ids = [object_of(call, where).get("id") for call in raw_calls]
                conversation.add_answer(content, calls, call_ids, learn=learn and turn.get("weight") != 0)
            case "tool":
                call_id = turn.get("tool_call_id")
                conversation.add_result(content, call_id if isinstance(call_id, str) else None)
            case role:
                raise RowError(f"{where}.role: must be system, user, assistant or tool, not {brief(role)}")
    return conversation
