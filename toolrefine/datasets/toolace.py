"""ToolACE (arXiv 2409.00920, Team-ACE/ToolACE on the hub): {"system": ..., "conversations": [{"from", "value"}, ...]}.

The system prompt holds the tools as a JSON list, with parameters of type "dict", among instructions on how to write
calls. Assistant turns are text or `[Tool Name(argument=value), ...]`; tool turns are a JSON list with a result a call.
Every assistant turn becomes a sample. The list and the instructions leave the system prompt, because both come from
the model's own chat template here; what else it says stays. The few rows that describe their tools in XML, HTML or
LaTeX are quarantined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, id_of, share_gpt_turns, split_results, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.formats import get_format
from toolrefine.types import Outcome, Sample, Tool, ToolCall

_LIST = re.compile(r"\[\s*+(?:\{\s*+\"|\])")
# Each candidate costs a scan of what follows it, so a text full of them must not be tried at all of them.
_MAX_LISTS_TRIED = 8
_INSTRUCTIONS = (
    "You are an expert in composing functions.",
    "You are given a question and a set of possible functions.",
    "Based on the question, you will need to make one or more function/tool calls to achieve the purpose.",
    "If none of the function can be used, point it out.",
    "If the given question lacks the parameters required by the function, also point it out.",
    "You should only return the function call in tools call sections.",
    "Here is a list of functions in JSON format that you can invoke:",
    "Should you decide to return the function call(s).",
    "Put it in the format of [func1(params_name=params_value, params_name2=params_value2...), func2(params)]",
    "NO other text MUST be included.",
)


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id.

    Raises:
        RowError: the row does not fit the format, its tools are not given as JSON, or a call cannot be read.
    """
    tools, context = split_system(text_of(row.get("system"), "system"))
    conversation = Conversation()
    if context:
        conversation.add("system", context)
    calls: tuple[ToolCall, ...] = ()
    for what, speaker, value in share_gpt_turns(row.get("conversations")):
        text = text_of(value, f"{what}.value")
        match speaker:
            case "system":
                conversation.add("system", text)
            case "user":
                conversation.add("user", text)
            case "assistant":
                text, calls = _read_answer(text, tools, what)
                conversation.add_answer(text, calls)
            case "tool":
                for number, result in enumerate(split_results(text, len(calls))):
                    conversation.add_result(result, f"call_{number}")
            case role:
                raise RowError(f"{what}.from: must be system, user, assistant or tool, not {brief(role)}")
    yield from conversation.samples(tools, id_of(row, where), {})


def split_system(system: str) -> tuple[tuple[Tool, ...], str]:
    """The tools in a system prompt, and what else it says beside the standing instructions.

    Raises:
        RowError: there is no JSON list of tools in it.
    """
    for number, start in enumerate(_LIST.finditer(system)):
        if number == _MAX_LISTS_TRIED:
            break
        try:
            _, end = json.JSONDecoder().raw_decode(system, start.start())
        except (ValueError, RecursionError):
            continue
        tools = read_tools(system[start.start() : end])
        rest = " ".join((system[: start.start()] + system[end:].removeprefix(".")).split())
        for instruction in _INSTRUCTIONS:
            rest = rest.replace(instruction, "")
        return tools, " ".join(rest.split())
    raise RowError("system: holds no JSON list of tools")


def _read_answer(text: str, tools: tuple[Tool, ...], what: str) -> tuple[str, tuple[ToolCall, ...]]:
    parsed = get_format("pythonic").parse(text)
    if parsed.outcome is Outcome.CALLS:
        return "", parsed.calls
    # A call in some other notation must not pass for an answer in words.
    odd = text.lstrip().startswith(("[", "{", "(", "<")) and any(tool.name in text for tool in tools)
    if odd or parsed.outcome is not Outcome.NO_CALL:
        raise RowError(f"{what}: its calls cannot be read: {brief(text)}")
    return text, ()
