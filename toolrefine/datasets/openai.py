"""OpenAI's fine-tuning format: {"messages": [...], "tools": [...]}, calls in assistant turns as tool_calls.

Each assistant turn that calls a tool becomes a sample, and so does each that answers a user in text: there the model
declines to call. Texts after a tool result report that result and are no choice between tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolrefine.datasets.rows import read_list, read_messages, read_tools
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample, Tool


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """A sample for each assistant turn that decides about tools.

    Raises:
        RowError: says what is wrong with the row.
    """
    messages = read_messages(read_list(row, "messages"))
    tools = read_tools(read_list(row, "tools"))
    yield from split_turns(str(row.get("id") or where), messages, tools, source="openai")


def split_turns(
    sample_id: str, messages: Sequence[Message], tools: tuple[Tool, ...], *, source: str
) -> Iterator[Sample]:
    """A sample for each assistant turn that calls a tool or answers a user without one, with the history before it.

    Raises:
        RowError: there is no such turn.
    """
    decisions = [
        index
        for index, message in enumerate(messages)
        if message.role == "assistant" and index > 0 and (message.tool_calls or messages[index - 1].role == "user")
    ]
    if not decisions:
        raise RowError("messages: no assistant turn that calls a tool or answers a user")
    for number, index in enumerate(decisions):
        target = messages[index]
        if target.tool_calls:
            target = Message(role="assistant", tool_calls=target.tool_calls)
        yield Sample(
            id=f"{sample_id}/{number}" if len(decisions) > 1 else sample_id,
            messages=tuple(messages[:index]),
            tools=tools,
            target=target,
            source=source,
        )
