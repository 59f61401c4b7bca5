"""The chunks of a streamed answer: put together into whole choices, split into what goes on at once and what waits."""

from __future__ import annotations

import json
from typing import Any

from toolrefine.server.answers import OPENERS, OWN_FIELDS, may_begin_call

CHUNK_FIELDS = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
LONGEST_OPENER = max(map(len, OPENERS))


class StreamedChoice:
    """One choice of a stream while it comes."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.held: list[dict[str, Any]] = []
        """Parts of the stream's choices that wait until the calls are settled."""
        self.has_sent_text = False
        self._text: list[str] = []
        self._begin = ""
        self._calls: dict[int, dict[str, str]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._logprobs: list[Any] = []
        self._own: dict[str, Any] = {}
        self._holds_text = True

    def take(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Keep a delta; returns the part of it that goes on at once, empty where all of it waits."""
        given = choice.get("delta")
        delta: dict[str, Any] = given if isinstance(given, dict) else {}
        passed = dict(delta)
        self._keep_logprobs(choice.get("logprobs"))
        calls = passed.pop("tool_calls", None)
        if isinstance(calls, list) and calls:
            self._keep_calls(calls)
            self.held.append(self._waiting(choice, {"tool_calls": calls}, alone=not passed))
        text = passed.get("content")
        if isinstance(text, str) and text:
            self._text.append(text)
            passed = self._pass_text(choice, passed)
        self._own |= {field: choice[field] for field in OWN_FIELDS if field in choice}
        if choice.get("finish_reason") is not None:
            self.finish_reason = str(choice["finish_reason"])
        return passed if any(value is not None for value in passed.values()) else {}

    def whole(self) -> dict[str, Any]:
        """The choice as an answer that is not streamed has it."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._calls:
            message["tool_calls"] = [self._whole_call(index) for index in sorted(self._calls)]
        choice = {"index": self.index, "message": message, "finish_reason": self.finish_reason, **self._own}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return choice

    def _waiting(self, choice: dict[str, Any], delta: dict[str, Any], *, alone: bool) -> dict[str, Any]:
        """A part that waits. What a choice has beside its delta goes with the part that is sent first."""
        beside = {key: value for key, value in choice.items() if key not in ("delta", "index")} if alone else {}
        return {"index": self.index, "delta": delta, **beside, "finish_reason": None}

    def _pass_text(self, choice: dict[str, Any], passed: dict[str, Any]) -> dict[str, Any]:
        """Hold a text for as long as it may be calls that the upstream has not parsed."""
        if self._holds_text and len(self._begin) < LONGEST_OPENER:
            self._begin = (self._begin + passed["content"]).lstrip()[:LONGEST_OPENER]
        if self._holds_text and may_begin_call(self._begin):
            text = passed.pop("content")
            self.held.append(self._waiting(choice, {"content": text}, alone=not passed))
            return passed
        if self._holds_text:
            self._holds_text = False
            texts = [part["delta"]["content"] for part in self.held if "content" in part["delta"]]
            self.held = [part for part in self.held if "content" not in part["delta"]]
            passed["content"] = "".join([*texts, passed["content"]])
        self.has_sent_text = True
        return passed

    def _keep_calls(self, deltas: list[Any]) -> None:
        for delta in deltas:
            if not isinstance(delta, dict):
                continue
            index = delta.get("index")
            if not isinstance(index, int):  # some servers number nothing: an id begins a call
                index = max(self._calls, default=-1) + bool(delta.get("id") or not self._calls)
            call = self._calls.setdefault(index, {"id": "", "name": ""})
            given = delta.get("function")
            function = given if isinstance(given, dict) else {}
            call["id"] = call["id"] or str(delta.get("id") or "")
            call["name"] += str(function.get("name") or "")
            arguments = function.get("arguments") or ""
            pieces = self._arguments.setdefault(index, [])
            pieces.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def _whole_call(self, index: int) -> dict[str, Any]:
        call = self._calls[index]
        function = {"name": call["name"], "arguments": "".join(self._arguments[index])}
        return {"id": call["id"], "type": "function", "function": function}

    def _keep_logprobs(self, logprobs: Any) -> None:
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        self._logprobs += content if isinstance(content, list) else []


def deltas_of(message: dict[str, Any], *, with_text: bool) -> list[dict[str, Any]]:
    """The deltas in which a whole message is streamed: its text, then each call with its arguments in one piece."""
    deltas: list[dict[str, Any]] = []
    if with_text and isinstance(message.get("content"), str) and message["content"]:
        deltas.append({"content": message["content"]})
    calls = message.get("tool_calls")
    for index, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            continue
        start = {"name": function.get("name"), "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, "id": call.get("id"), "type": "function", "function": start}]})
        arguments = function.get("arguments") or "{}"
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        deltas.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    return deltas
