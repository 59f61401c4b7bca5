"""ToolBench (arXiv 2307.16789), as ToolLLaMA was trained on it: {"id", "conversations": [{"from", "value"}, ...]}.

Turns are from system, user, assistant and function. The system prompt ends in the tools, a list as Python writes it. An
assistant turn is `Thought: ... Action: NAME Action Input: {...}`. A call of the tool Finish ends the task: its
final_answer is the reply, and giving up is a turn that is not learned, so Finish is no tool here. The rest of the
prompt, which explains all that, is left out. Where the id says "Step 3: ..." the earlier steps are rows of their own,
and the last turn alone is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, id_of, list_of, object_of, parse_value, share_gpt_turns, text_of
from toolrefine.datasets.tool_schema import parse_tools, read_tools
from toolrefine.errors import RowError
from toolrefine.types import Sample, Tool, ToolCall

FINISH = "Finish"

_APIS = re.compile(r"access (?:to|of) the following (?:APIs|tools|functions):\s*+(?=\[)")
_PROMPT = "You are AutoGPT"
_ACTION = re.compile(r"(?:\A|\n)[ \t]*+Action:(?P<name>[^\n]*+)(?:\n\s*+Action Input:(?P<arguments>.*+))?", re.DOTALL)
_THOUGHT = re.compile(r"^[ \t]*+Thought:[ \t]*+", re.MULTILINE)
_STEP = re.compile(r"Step [0-9]++:")


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The samples of one row; where becomes their id if the row has none.

    Raises:
        RowError: the row does not fit the format, or its tools or a call cannot be read.
    """
    row_id = id_of(row, where)
    turns = list_of(row.get("conversations"), "conversations")
    tools: tuple[Tool, ...] = ()
    conversation = Conversation()
    for number, (what, speaker, value) in enumerate(share_gpt_turns(turns), 1):
        text = text_of(value, f"{what}.value")
        match speaker:
            case "system":
                tools, context = split_system(text)
                if context:
                    conversation.add("system", context)
            case "user":
                conversation.add("user", text.strip().removesuffix("Begin!").rstrip())
            case "assistant":
                learn = number == len(turns) or not _STEP.match(row_id)
                _add_answer(conversation, text, what, learn)
            case "function":
                conversation.add_next_result(text)
            case role:
                raise RowError(f"{what}.from: must be system, user, assistant or function, not {brief(role)}")
    yield from conversation.samples(tools, row_id, {})


def split_system(system: str) -> tuple[tuple[Tool, ...], str]:
    """The tools in a system prompt, Finish aside, and what it says before ToolBench's own instructions.

    Raises:
        RowError: there is no list of tools in it, or it cannot be read.
    """
    found = list(_APIS.finditer(system))
    if not found:
        raise RowError("system: holds no list of tools")
    tools = read_tools(parse_tools(system[found[-1].end() :], "system"))
    before, _, _ = system.partition(_PROMPT)
    return tuple(tool for tool in tools if tool.name != FINISH), before.strip() if _PROMPT in system else ""


def _add_answer(conversation: Conversation, text: str, what: str, learn: bool) -> None:
    action = _ACTION.search(text)
    thought = _THOUGHT.sub("", text[: action.start()] if action else text).strip()
    if action is None:
        conversation.add_answer(thought, learn=learn)
        return
    name, written = action["name"].strip(), action["arguments"]
    if not name or written is None:
        raise RowError(f"{what}.value: its call cannot be read: {brief(text)}")
    arguments = object_of(parse_value(written, f"{what}.value: Action Input") if written.strip() else {}, what)
    if name != FINISH:
        conversation.add_answer(thought, [ToolCall(name=name, arguments=arguments)], learn=learn)
        return
    answer = text_of(arguments.get("final_answer"), f"{what}.value: final_answer").strip()
    conversation.add_answer(answer, learn=learn and answer != "")
