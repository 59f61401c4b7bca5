"""The canonical format: one sample a row, OpenAI-style tools and messages, the target as a list of calls.

{"id", "source", "tools": [{"type": "function", "function": {...}}], "messages": [...],
 "target": [{"name", "arguments"}], "target_text": "...", "meta": {...}}; an empty target means that no tool applies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.rows import read_calls, read_list, read_messages, read_text, read_tools
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of a row.

    Raises:
        RowError: says what is wrong with the row.
    """
    if "target" not in row:
        raise RowError("target: missing; a list of {name, arguments}, empty where no tool applies")
    calls = read_calls(read_list(row, "target"), "target")
    messages = read_messages(read_list(row, "messages"))
    if not messages:
        raise RowError("messages: empty")
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise RowError("meta: not an object")
    yield Sample(
        id=str(row.get("id") or where),
        messages=messages,
        tools=read_tools(read_list(row, "tools")),
        target=Message(role="assistant", tool_calls=calls, content="" if calls else read_text(row, "target_text")),
        source=read_text(row, "source"),
        meta=meta,
    )


def write_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row that read_row reads back."""
    return {
        "id": sample.id,
        "source": sample.source,
        "tools": [{"type": "function", "function": tool.model_dump()} for tool in sample.tools],
        "messages": [_write_message(message) for message in sample.messages],
        "target": [call.model_dump() for call in sample.target.tool_calls],
        "target_text": sample.target.content,
        "meta": sample.meta,
    }


def _write_message(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [{"type": "function", "function": call.model_dump()} for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn
