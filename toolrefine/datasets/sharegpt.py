"""ShareGPT as LLaMA-Factory extends it: {"conversations": [{"from", "value"}, ...], "tools": ..., "system": ...}.

Turns are from human, gpt, function_call and observation. tools is JSON text. A function_call is JSON text too: one call
or a list of them; an observation is what it returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, id_of, parse_json, read_calls, share_gpt_turns, split_results, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.types import Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or has no assistant turn to learn.
    """
    tools = read_tools(row.get("tools"))
    conversation = Conversation()
    if system := text_of(row.get("system"), "system"):
        conversation.add("system", system)
    num_calls = 0
    for what, speaker, value in share_gpt_turns(row.get("conversations")):
        match speaker:
            case "system":
                conversation.add("system", text_of(value, f"{what}.value"))
            case "human" | "user":
                conversation.add("user", text_of(value, f"{what}.value"))
            case "gpt" | "assistant":
                conversation.add_answer(text_of(value, f"{what}.value"))
            case "function_call":
                listed = parse_json(value, f"{what}.value") if isinstance(value, str) else value
                calls = read_calls(listed if isinstance(listed, list) else [listed], f"{what}.value")
                if not calls:
                    raise RowError(f"{what}.value: holds no call")
                conversation.add_answer("", calls)
                num_calls = len(calls)
            case "observation":
                text = text_of(value, f"{what}.value")
                # The result of a lone call may be a list of its own.
                for result in split_results(text, num_calls) if num_calls > 1 else [text]:
                    conversation.add_next_result(result)
            case role:
                raise RowError(
                    f"{what}.from: must be system, human, gpt, function_call or observation, not {brief(role)}"
                )
    yield from conversation.samples(tools, id_of(row, where), {})
