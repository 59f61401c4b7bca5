"""Hermes function calling (NousResearch/hermes-function-calling-v1 on the hub): {"conversations": [{"from", "value"}]}.

Turns are from system, human, gpt and tool. Tools stand in <tools> tags of the system prompt, in a field tools, or in
both; calls in <tool_call> tags of a gpt turn, one or more a turn; results in <tool_response> tags. All three are
written as JSON or as Python writes dicts. The tools and the standing instructions leave the system prompt, because both
come from the model's own chat template here; what else it says stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import (
    brief,
    filled_lines,
    id_of,
    list_of,
    parse_value,
    read_calls,
    sentences,
    share_gpt_turns,
    text_of,
)
from toolrefine.datasets.tool_schema import parse_tools, read_tools
from toolrefine.errors import RowError
from toolrefine.types import Sample, ToolCall

_CALL_SCHEMA = re.compile(
    r"Use the following pydantic model json schema for each tool call you will make:\s*+"
    r"\{[^{}]*+(?:\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}[^{}]*+)*+\}"
)
_CALL_FORMAT = re.compile(
    r"For each function call,? return a json object with function name and arguments within "
    r"<tool_call>\s*+</tool_call> (?:XML )?tags(?: as follows| with the following schema)?:\s*+"
    r"(?:<tool_call>[^<]*+(?:<(?:args-dict|function-name|args-json-object)>[^<]*+)*+</tool_call>)?"
)
# What begins as JSON does, up to the first < outside of its texts, which may hold a closing tag.
_JSON = re.compile(r'\s*+\[?\s*+\{\s*+(?=")(?:[^"<]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_INSTRUCTIONS = sentences(
    "# Tools You may call one or more functions to assist with the user query.",
    "You are a function calling AI model.",
    "You are provided with function signatures within <tools> </tools> XML tags.",
    "You are provided with function signatures within <tools> </tools> XML tags:",
    "You may call one or more functions to assist with the user query.",
    "Don't make assumptions about what values to plug into functions.",
    "Here are the available tools:",
)


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or its tools or a call cannot be read.
    """
    listed = row.get("tools")
    tools: list[Any] = parse_tools(listed, "tools") if isinstance(listed, str) else list_of(listed, "tools")
    conversation = Conversation()
    for what, speaker, value in share_gpt_turns(row.get("conversations")):
        text = text_of(value, f"{what}.value")
        match speaker:
            case "system":
                more, context = split_system(text, what)
                tools = [*tools, *more]
                if context:
                    conversation.add("system", context)
            case "human" | "user":
                conversation.add("user", text)
            case "gpt" | "assistant":
                conversation.add_answer(*_read_answer(text, what))
            case "tool":
                results, rest = _take_blocks(text, "tool_response", what)
                for result in results or [rest]:
                    conversation.add_next_result(result)
            case role:
                raise RowError(f"{what}.from: must be system, human, gpt or tool, not {brief(role)}")
    yield from conversation.samples(read_tools(tools), id_of(row, where), {})


def split_system(system: str, what: str) -> tuple[list[Any], str]:
    """The tools in a system prompt, and what else it says beside the standing instructions.

    Raises:
        RowError: the tools cannot be read.
    """
    # The instructions go first, since they name the tags that stand around tools and calls.
    for pattern in (_CALL_SCHEMA, _CALL_FORMAT, _INSTRUCTIONS):
        system = pattern.sub("", system)
    blocks, rest = _take_blocks(system, "tools", what)
    return [tool for block in blocks for tool in parse_tools(block, f"{what}.value: <tools>")], filled_lines(rest)


def _read_answer(text: str, what: str) -> tuple[str, tuple[ToolCall, ...]]:
    blocks, rest = _take_blocks(text, "tool_call", what)
    if "</tool_call>" in rest:
        raise RowError(f"{what}.value: its calls cannot be read: {brief(text)}")
    values = [parse_value(block, f"{what}.value: <tool_call>") for block in blocks]
    calls = [call for value in values for call in (value if isinstance(value, list) else [value])]
    if blocks and not calls:
        raise RowError(f"{what}.value: <tool_call>: holds no call")
    return rest.strip(), read_calls(calls, f"{what}.value: <tool_call>")


def _take_blocks(text: str, tag: str, what: str) -> tuple[list[str], str]:
    """The contents of all <tag>...</tag> blocks, and the text without them."""
    opener, closer = f"<{tag}>", f"</{tag}>"
    blocks: list[str] = []
    rest, position = [], 0
    while (start := text.find(opener, position)) >= 0:
        behind = start + len(opener)
        found = _JSON.match(text, behind) if tag != "tool_response" else None  # results are text of any kind
        end = text.find(closer, found.end() if found else behind)
        if end < 0:
            raise RowError(f"{what}.value: {opener} is not closed")
        rest.append(text[position:start])
        blocks.append(text[start + len(opener) : end].strip())
        position = end + len(closer)
    return blocks, "".join([*rest, text[position:]])
