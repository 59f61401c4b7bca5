"""toolrefine's own format, one sample a row, as toolrefine.datasets.export writes it.

{"id", "source", "license", "tools", "messages", "target", "target_text", "alternatives", "meta"}: tools and messages
as OpenAI has them, target a list of {"name", "arguments"} that is empty where no tool applies, target_text the reply in
that case, alternatives for each call an object {argument: [values that are right beside the target's]}.
Only messages and target are required.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.fields import id_of, list_of, object_of, read_calls, text_of
from toolrefine.datasets.openai import read_messages
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of one row; where becomes its id if the row has none. Its license goes into meta.

    Raises:
        RowError: the row does not fit the format.
    """
    for key in ("messages", "target"):
        if row.get(key) is None:
            raise RowError(f"{key}: missing")
    messages = tuple(read_messages(row["messages"]).messages)
    if not messages:
        raise RowError("messages: empty")
    calls = read_calls(row["target"], "target")
    reply = text_of(row.get("target_text"), "target_text")
    meta = dict(object_of(row.get("meta") or {}, "meta"))
    if isinstance(row.get("license"), str) and row["license"]:
        meta["license"] = row["license"]
    yield Sample(
        id=id_of(row, where),
        messages=messages,
        tools=read_tools(row.get("tools")),
        target=Message(role="assistant", content="" if calls else reply, tool_calls=calls),
        alternatives=_read_alternatives(row.get("alternatives"), len(calls)),
        source=text_of(row.get("source"), "source"),
        meta=meta,
    )


def _read_alternatives(value: Any, num_calls: int) -> tuple[dict[str, tuple[Any, ...]], ...]:
    items = list_of(value, "alternatives")
    if len(items) > num_calls:
        raise RowError(f"alternatives: {len(items)} of them for {num_calls} calls")
    return tuple(
        {
            name: tuple(list_of(values, f"alternatives[{index}].{name}"))
            for name, values in object_of(item, f"alternatives[{index}]").items()
        }
        for index, item in enumerate(items)
    )
