"""API-Bank's training rows (arXiv 2304.08244): {"instruction", "input", "output"}, all text.

The tools are JSON objects in the instruction or at the start of the input, with a bare map of parameters. The input
goes on with the dialogue so far: lines that begin with User:, AI: or `API-Request: [Name(key='value')]->result`. The
output is what comes next, a request or a reply, and alone is learned, because the turns before it are rows of their
own. The standing instructions are left out; what else the instruction says, such as the date, stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.conversation import Conversation
from toolrefine.datasets.fields import brief, filled_lines, id_of, sentences, take_objects, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.formats import get_format
from toolrefine.types import Outcome, Sample, ToolCall

_TURN = re.compile(r"^[ \t]*+(User|AI|API-Request):", re.MULTILINE)
_CUE = re.compile(r"^[ \t]*+Generate (?:API Request|AI Response|(?:the |a )?[Rr]esponse):\s*+\Z", re.MULTILINE)
_REQUEST = "API-Request: [ApiName(key1='value1', key2='value2', ...)]"
_TASK = re.compile(
    r"Generate an? (?:API request|AI response|response)"
    r"(?: in the format of \[ApiName\(key1='value1', key2='value2', \.\.\.\)\])?(?: based on [^.\n]*+)?\.?",
    re.IGNORECASE,
)
_INSTRUCTIONS = sentences(
    "Input: User: User's utterence AI: AI's response",
    "Input: User: User's utterance AI: AI's response",
    f"Expected output: {_REQUEST}",
    "Expected output: AI: AI's response",
    _REQUEST,
    "Available API descriptions:",
    "API descriptions:",
)


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of one row; where becomes its id if the row has none.

    Raises:
        RowError: the row does not fit the format, or a tool or a request cannot be read.
    """
    specs, context = take_objects(text_of(row.get("instruction"), "instruction"), "instruction")
    before, *turns = _TURN.split(_CUE.sub("", text_of(row.get("input"), "input").rstrip()))
    more, rest = take_objects(before, "input")
    context = _INSTRUCTIONS.sub("", _TASK.sub("", context))
    conversation = Conversation()
    if context := filled_lines(f"{context}\n{rest}"):
        conversation.add("system", context)
    for label, text in zip(turns[::2], turns[1::2], strict=True):
        _add_turn(conversation, label, text.strip())
    output = text_of(row.get("output") or row.get("expected_output"), "output").strip()
    if not output:
        raise RowError("output: missing")
    label, colon, text = output.partition(":")
    if not colon or label not in ("AI", "API-Request"):
        label, text = "API-Request" if output.startswith("[") else "AI", output
    if label == "AI":
        conversation.add_answer(text.strip())
    else:
        conversation.add_answer("", _read_requests(text, "output"))
    yield from conversation.samples(read_tools([*map(_named, specs), *map(_named, more)]), id_of(row, where), {})


def _add_turn(conversation: Conversation, label: str, text: str) -> None:
    match label:
        case "User":
            conversation.add("user", text)
        case "AI":
            conversation.add_answer(text, learn=False)
        case _:
            request, arrow, result = text.partition("]->")
            conversation.add_answer("", _read_requests(f"{request}]" if arrow else request, "input"), learn=False)
            if arrow:
                conversation.add_next_result(result.strip())


def _read_requests(text: str, what: str) -> tuple[ToolCall, ...]:
    parsed = get_format("pythonic").parse(text)
    if parsed.outcome is not Outcome.CALLS:
        raise RowError(f"{what}: its request cannot be read: {brief(text)}")
    return parsed.calls


def _named(spec: dict[str, Any]) -> dict[str, Any]:
    return {"name": spec.get("apiCode"), **spec}
