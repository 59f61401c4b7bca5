"""A choice of an upstream's reply as a completion, and back into what a client reads."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from toolrefine.datasets.fields import read_calls
from toolrefine.engines.replies import token_logprobs
from toolrefine.errors import RowError
from toolrefine.formats import FORMATS, get_format
from toolrefine.formats.base import SURROGATE, Parsed
from toolrefine.server.chat_request import ChatRequest
from toolrefine.types import Completion, Outcome, ToolCall

PLAIN = ("pythonic", "xlam", "llama3_json", "llama4_pythonic")
"""Formats without marks of their own: what they read as calls is only that where it calls tools that there are."""

MARKED = tuple(name for name in FORMATS if name not in PLAIN)
OPENERS = ("{", "[", "<tool", "<function", "<|", "<\uff5c", "```", "functools")
"""What calls in a text begin with, all formats together."""

OWN_FIELDS = ("num_tokens", "mean_logprob")
"""What the model in this process tells of a choice beyond the OpenAI API; the policies ask for it."""

MAX_COUNT = 2**63
"""Numbers up to here are counts. Longer ones fit neither into floats nor, added, into JSON that can be written."""

_MAX_USAGE_DEPTH = 8

NO_CALL = Parsed(outcome=Outcome.NO_CALL)
_MAY_HOLD_CALLS = re.compile(r"[\[{<]")


class Answer(NamedTuple):
    """One choice."""

    choice: dict[str, Any]
    """As the upstream gave it, or with the calls found in its text."""
    completion: Completion
    """MALFORMED where it breaks tool_choice."""
    violation: str
    """How it breaks tool_choice; empty where it does not."""
    turn: dict[str, Any]
    """The answer as a turn of the conversation."""


def read_answer(choice: Any, request: ChatRequest, format_name: str, *, convert: bool) -> Answer | None:
    """A choice of a reply, None where it has no message."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    raw_calls = message.get("tool_calls")
    truncated = choice.get("finish_reason") == "length"
    if raw_calls:
        parsed = _read_tool_calls(raw_calls, truncated)
        if parsed.outcome is not Outcome.CALLS:
            text = "\n".join(filter(None, (text, json.dumps(raw_calls))))
    else:
        parsed = _read_text_calls(text, request, format_name, truncated)
        if convert and parsed.outcome is Outcome.CALLS and all(call.name in request.names for call in parsed.calls):
            choice = _with_calls(choice, parsed.calls)
            message = choice["message"]
    num_tokens, mean_logprob = measure_tokens(choice)
    completion = Completion(
        text=SURROGATE.sub("\ufffd", text),
        calls=parsed.calls,
        outcome=parsed.outcome,
        num_tokens=num_tokens,
        mean_logprob=mean_logprob,
    )
    turn: dict[str, Any] = {"role": "assistant", "content": completion.text}
    if parsed.outcome is Outcome.CALLS and message.get("tool_calls"):
        turn = {"role": "assistant", "content": message.get("content"), "tool_calls": message["tool_calls"]}
    violation = request.violation(completion)
    if violation:
        completion = completion.model_copy(update={"outcome": Outcome.MALFORMED})
    return Answer(choice, completion, violation, turn)


def read_text(text: str, names: Collection[str], format_name: str) -> tuple[Parsed, str]:
    """What a text says in a format, or under "auto" in any, and in which."""
    if not _MAY_HOLD_CALLS.search(text):
        return NO_CALL, ""
    if format_name != "auto":
        return get_format(format_name).parse(text), format_name
    malformed = False
    for name in (*MARKED, *PLAIN):
        parsed = FORMATS[name].parse(text)
        if parsed.outcome is Outcome.CALLS and (name in MARKED or all(call.name in names for call in parsed.calls)):
            return parsed, name
        malformed = malformed or (parsed.outcome is Outcome.MALFORMED and name in MARKED)
    malformed = malformed or _begins_python(text.lstrip(), names)
    return Parsed(outcome=Outcome.MALFORMED) if malformed else NO_CALL, ""


def may_begin_call(text: str) -> bool:
    """Whether what begins so may turn out to be calls."""
    text = text.lstrip()
    return any(text.startswith(opener) or opener.startswith(text) for opener in OPENERS)


def measure_tokens(choice: dict[str, Any]) -> tuple[int, float | None]:
    """The number of tokens of a choice, and their mean natural log-probability: 1 and None where nobody tells."""
    num_tokens, mean = (choice.get(field) for field in OWN_FIELDS)
    if isinstance(num_tokens, int) and isinstance(mean, float):
        return num_tokens, mean
    values = token_logprobs(choice)
    return (len(values), sum(values) / len(values)) if values else (1, None)


def add_usage(one: Any, other: Any, depth: int = 0) -> Any:
    """Two counts, or two objects of counts, added. What is no count, or nested too deeply, stays the first's."""
    if isinstance(one, dict) and isinstance(other, dict) and depth < _MAX_USAGE_DEPTH:
        return {key: add_usage(one.get(key), other.get(key), depth + 1) for key in {**one, **other}}
    if _is_count(one) and _is_count(other):
        return one + other
    return other if one is None else one


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_COUNT


def call_objects(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls as the OpenAI API writes them, with ids of their own."""
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in calls
    ]


def _read_tool_calls(raw: Any, truncated: bool) -> Parsed:
    try:
        # As strict about what is given as objects as about text, which arguments should be.
        calls = read_calls(raw if _is_plain(raw) else json.dumps(raw), "tool_calls")
    except (RowError, RecursionError):
        return Parsed(outcome=Outcome.TRUNCATED if truncated else Outcome.MALFORMED)
    return Parsed(calls=calls, outcome=Outcome.TRUNCATED if truncated else Outcome.CALLS)


def _is_plain(raw: Any) -> bool:
    """Whether calls are written as the OpenAI API writes them, so that their arguments alone need a strict reader."""
    if not isinstance(raw, list):
        return False
    functions = [call.get("function") if isinstance(call, dict) else None for call in raw]
    return all(
        isinstance(each, dict) and isinstance(each.get("arguments"), str) and str(each.get("name")).isascii()
        for each in functions
    )


def _read_text_calls(text: str, request: ChatRequest, format_name: str, truncated: bool) -> Parsed:
    """Calls that the upstream's own parser has not seen."""
    parsed, name = read_text(text, request.names, format_name)
    if parsed.outcome is Outcome.CALLS:
        tools = request.tools_named({call.name for call in parsed.calls})
        parsed = FORMATS[name].parse(text, tools=tools)  # some formats need the schema to tell text from numbers
    if truncated and parsed.outcome is not Outcome.NO_CALL:
        return Parsed(calls=parsed.calls, outcome=Outcome.TRUNCATED)
    return parsed


def _begins_python(answer: str, names: Collection[str]) -> bool:
    """Whether a text begins with a list of calls as Python writes them."""
    head, parenthesis, _ = answer[:200].partition("(")
    return bool(parenthesis) and head.startswith("[") and head.removeprefix("[").strip() in names


def _with_calls(choice: dict[str, Any], calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The choice with calls in place of its text."""
    message = {**choice["message"], "content": None, "tool_calls": call_objects(calls)}
    return {**choice, "message": message, "finish_reason": "tool_calls"}
