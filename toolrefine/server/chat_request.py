"""A chat request with tools, as far as refinement has to understand it. What it does not understand passes through."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from typing import Any

from pydantic_core import from_json, to_json

from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.server.settings import SUFFIX
from toolrefine.types import Completion, Outcome, Tool

MARKS = (b'"tools"', SUFFIX.encode())
"""A body without any of these needs no reading."""

MAX_KNOWN = 16_384
"""Characters of a tool that is kept for later requests, at most."""

MAX_SCHEMA_WORK = 100_000_000
"""Characters of a schema times characters of the arguments, at most: a schema out of a thousand alternatives, each an
enumeration, is tried on every item of a list. What is beyond passes unchecked."""


def read_body(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of a body, None where it is something else: the upstream then says what it thinks of it."""
    try:
        body = from_json(raw)
    except ValueError:
        try:  # slower, but reads half characters, other encodings and deep nesting
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, dict) else None


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
        self._tools: dict[str, Tool] = {}
        self._sizes: dict[str, int] = {}
        kind, self._chosen = _read_choice(body.get("tool_choice"))
        self._must_call = kind in ("required", "named")
        self._may_call_many = body.get("parallel_tool_calls") is not False

    @staticmethod
    def can_refine(body: dict[str, Any]) -> bool:
        """Whether there are tools and messages of a kind that is known here, and the tools may be called."""
        tools, messages = body.get("tools"), body.get("messages")
        return (
            isinstance(tools, list)
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
        """The tools that some answers call, or one where they call none.

        A tool whose schema is too large to check these arguments against allows everything.
        """
        called = self.tools_named({call.name for answer in answers for call in answer.calls})
        return tuple(map(partial(self._checkable, answers), called or (self._tool(next(iter(self._specs))),)))

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

    def _tool(self, name: str) -> Tool:
        if name not in self._tools:
            self._tools[name], self._sizes[name] = _read_tool(name, self._specs[name])
        return self._tools[name]

    def _checkable(self, answers: Sequence[Completion], tool: Tool) -> Tool:
        calls = [call for answer in answers for call in answer.calls if call.name == tool.name]
        size = sum(len(repr(call.arguments)) for call in calls)
        too_large = self._sizes[tool.name] * size > MAX_SCHEMA_WORK
        return Tool(name=tool.name, parameters={}) if too_large else tool


def _read_tool(name: str, spec: Any) -> tuple[Tool, int]:
    """A tool, and the length of its schema as JSON. One that cannot be read allows everything."""
    try:
        text = to_json(spec)
        # Clients send the same tools again and again; long ones could fill the memory.
        tool = _known_tool(text) if len(text) <= MAX_KNOWN else read_tools([spec])[0]
    except (RowError, ValueError, RecursionError):
        return Tool(name=name, parameters={}), 0
    return tool, len(text)


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
