"""A chat request with tools, as far as refinement has to understand it. What it does not understand passes through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.server.settings import SUFFIX
from toolrefine.types import Completion, Outcome, Tool

MARKS = (b'"tools"', SUFFIX.encode())
"""A body without any of these needs no reading."""

MAX_VALUES = 750_000
"""Brackets, commas and colons of a body that is read, at most. Reading holds up all requests, in a thread too."""

MAX_TOOLS = 4096
"""Tools of a request that is refined, at most."""

MAX_KNOWN = 16_384
"""Characters of a tool that is kept for later requests, at most."""

MAX_READ = 500_000
"""Characters of the tools of a request that are read, at most. What is beyond allows everything."""

MAX_AT_ONCE = 1_000_000
"""Characters of tools times characters of arguments that are checked without a thread, for all answers to a request."""

MIN_ARGUMENTS = 50
"""Characters that arguments count for at least: their tools have to be read too."""


def read_body(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of a body, None where it is something else: the upstream then says what it thinks of it.

    One of more values than MAX_VALUES is not read either.
    """
    if holds_too_much(raw):
        return None
    try:
        body = from_json(raw)
    except ValueError:
        try:  # slower, but reads half characters, other encodings and deep nesting
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, dict) else None


def holds_too_much(raw: bytes) -> bool:
    """Whether a body takes too long to read, which is not a question of its length: an image is one value."""
    return len(raw) > MAX_VALUES and sum(map(raw.count, (b"{", b"[", b",", b":"))) > MAX_VALUES


def without_suffix(body: dict[str, Any]) -> str | None:
    """The name of the model where a request asks for refinement by it."""
    model = body.get("model")
    if isinstance(model, str) and model.endswith(SUFFIX) and model != SUFFIX:
        return model.removesuffix(SUFFIX)
    return None


class ChatRequest:
    """The body of a request with tools."""

    def __init__(self, body: dict[str, Any]) -> None:
        """Take a body for which can_refine holds."""
        self.body = body
        self.streams = bool(body.get("stream"))
        options = body.get("stream_options")
        self.wants_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._specs = {name: spec for spec in body["tools"] if (name := _name_of(spec))}
        self._texts: dict[str, bytes] = {}
        self._tools: dict[str, Tool] = {}
        self._left_to_read = MAX_READ
        self._left_at_once = MAX_AT_ONCE
        self.long_check = asyncio.Lock()
        """Held while an answer to this request has its turn in a thread."""
        kind, self._chosen = _read_choice(body.get("tool_choice"))
        self._must_call = kind in ("required", "named")
        self._may_call_many = body.get("parallel_tool_calls") is not False

    @staticmethod
    def can_refine(body: dict[str, Any]) -> bool:
        """Whether there are tools and messages of a kind that is known here, not too many, and that may be called."""
        tools, messages = body.get("tools"), body.get("messages")
        return (
            isinstance(tools, list)
            and len(tools) <= MAX_TOOLS
            and any(map(_name_of, tools))
            and isinstance(messages, list)
            and bool(messages)
            and _read_choice(body.get("tool_choice"))[0] in ("auto", "required", "named")
        )

    @property
    def names(self) -> Collection[str]:
        """Of all tools."""
        return self._specs.keys()

    def tools_named(self, names: Collection[str]) -> tuple[Tool, ...]:
        """Some of the tools; their schemas are read when they are needed. One that cannot be read allows everything."""
        return tuple(self._tool(name) for name in self._specs if name in names)

    def tools_of(self, answers: Sequence[Completion]) -> tuple[Tool, ...]:
        """The tools that some answers call, or one where they call none."""
        return tuple(map(self._tool, self._called(answers)))

    def may_take_long(self, answers: Sequence[Completion]) -> bool:
        """Whether to check some answers in a thread. What is checked without adds up: a request has many answers."""
        num_arguments = sum(len(repr(call.arguments)) for answer in answers for call in answer.calls)
        num_tools = sum(len(self._text(name)) for name in self._called(answers))
        self._left_at_once -= num_tools * (MIN_ARGUMENTS + num_arguments)
        return self._left_at_once < 0

    def violation(self, answer: Completion) -> str:
        """How a readable answer breaks tool_choice or parallel_tool_calls, as a sentence; empty where it does not."""
        if answer.outcome not in (Outcome.CALLS, Outcome.NO_CALL):
            return ""
        called = [call.name for call in answer.calls]
        if self._must_call and not called:
            which = f"the tool {self._chosen!r}" if self._chosen else "at least one of the tools"
            return f"You must call {which}, but your answer calls none."
        if self._chosen:
            other = next((name for name in called if name != self._chosen), None)
            if other is not None:
                return f"You must call the tool {self._chosen!r}, not {other!r}."
        if len(called) > 1 and not self._may_call_many:
            return f"You must not make more than one call, but your answer makes {len(called)}."
        return ""

    def follow_up(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        """The request of a later round: the same, with these turns behind the conversation, for one whole answer."""
        dropped = ("n", "stream", "stream_options")
        body = {key: value for key, value in self.body.items() if key not in dropped}
        return {**body, "messages": [*self.body["messages"], *turns]}

    def _called(self, answers: Sequence[Completion]) -> list[str]:
        """The names of the tools that some answers call, or of one where they call none."""
        called = {call.name for answer in answers for call in answer.calls}
        return [name for name in self._specs if name in called] or [next(iter(self._specs))]

    def _text(self, name: str) -> bytes:
        if name not in self._texts:
            self._texts[name] = _write_tool(self._specs[name])
        return self._texts[name]

    def _tool(self, name: str) -> Tool:
        if name not in self._tools:
            text = self._text(name)
            self._left_to_read -= len(text)
            is_read = text and self._left_to_read >= 0
            self._tools[name] = _read_tool(self._specs[name], text) if is_read else Tool(name=name, parameters={})
        return self._tools[name]


def _write_tool(spec: Any) -> bytes:
    """A tool as JSON, empty where that is not possible."""
    try:
        return to_json(spec)
    except (ValueError, RecursionError):
        return b""


def _read_tool(spec: Any, text: bytes) -> Tool:
    """A tool, given as such and as JSON. One that cannot be read allows everything."""
    try:
        # Clients send the same tools again and again; long ones could fill the memory.
        return _known_tool(text) if len(text) <= MAX_KNOWN else read_tools([spec])[0]
    except (RowError, ValueError, RecursionError):
        return Tool(name=_name_of(spec), parameters={})


@lru_cache(maxsize=1024)
def _known_tool(text: bytes) -> Tool:
    return read_tools([from_json(text)])[0]


def _name_of(spec: Any) -> str:
    function = spec.get("function") if isinstance(spec, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name.strip() else ""


def _read_choice(value: Any) -> tuple[str, str]:
    """What tool_choice says, and the tool that it names; unknown kinds are left to the upstream."""
    if value is None or value in ("auto", "none", "required"):
        return value or "auto", ""
    if isinstance(value, dict) and value.get("type") == "function":
        name = _name_of(value)
        return ("named", name) if name else ("unknown", "")
    return "unknown", ""
