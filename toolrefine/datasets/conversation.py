"""A conversation that is being read, and the samples that it yields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from toolrefine.errors import RowError
from toolrefine.types import Message, Sample, Tool, ToolCall

MAX_TURNS = 512
"""Turns of a row, at most: each assistant turn becomes a sample that holds all turns before it."""


class Conversation:
    """Turns in order.

    Consecutive assistant turns become one, since together they are what was answered. Calls are numbered within their
    turn, call_0, call_1, and so on; results refer to these numbers.
    """

    def __init__(self, max_turns: int | None = MAX_TURNS) -> None:
        self.messages: list[Message] = []
        self._max_turns = max_turns
        self._not_learned: set[int] = set()
        self._call_ids: dict[str, str] = {}

    def add(self, role: Literal["system", "user"], content: str) -> None:
        """Add a turn that is no answer and no result."""
        self._append(Message(role=role, content=content))

    def add_answer(
        self, content: str, calls: Sequence[ToolCall] = (), call_ids: Sequence[object] = (), *, learn: bool = True
    ) -> None:
        """Add an assistant turn; call_ids are the names that the results will call its calls by.

        Behind a turn that is not to be learned it becomes one with that, and is learned if its calls are the target.
        """
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant":
            if len(self.messages) - 1 in self._not_learned:
                learn = learn and bool(calls) and not last.tool_calls
                self._not_learned.remove(len(self.messages) - 1)
            self.messages.pop()
            content = "\n".join(filter(None, (last.content, content)))
            calls, num_earlier = (*last.tool_calls, *calls), len(last.tool_calls)
        else:
            num_earlier = 0
        for number, call_id in enumerate(call_ids, num_earlier):
            if isinstance(call_id, str):
                self._call_ids[call_id] = f"call_{number}"
        self._append(Message(role="assistant", content=content, tool_calls=tuple(calls)))
        if not learn:
            self._not_learned.add(len(self.messages) - 1)

    def add_result(self, content: str, call_id: str | None) -> None:
        """Add what a call returned."""
        call_id = None if call_id is None else self._call_ids.get(call_id, call_id)
        self._append(Message(role="tool", content=content, tool_call_id=call_id))

    def add_next_result(self, content: str) -> None:
        """Add what the first call of the last answer returned that has no result yet."""
        num_results = 0
        for message in reversed(self.messages):
            if message.role == "assistant":
                call_id = f"call_{num_results}" if num_results < len(message.tool_calls) else None
                return self.add_result(content, call_id)
            num_results += message.role == "tool"
        return self.add_result(content, None)

    def samples(self, tools: tuple[Tool, ...], row_id: str, meta: dict[str, Any]) -> Iterator[Sample]:
        """One sample for each assistant turn to learn that calls tools or answers a user.

        A text that follows a result reports it and is no choice between calling and not calling, so it is context
        only; a greeting before the first user turn is, too. The target is the turn's calls, or its text where it
        makes none. The id is the row's, followed by the number of the sample where there are several.

        Raises:
            RowError: there is no such turn, or one says nothing.
        """
        targets = [index for index in range(1, len(self.messages)) if self._is_target(index)]
        if not targets:
            raise RowError("no assistant turn to learn that calls tools or answers a user")
        for number, index in enumerate(targets):
            answer = self.messages[index]
            if not answer.tool_calls and not answer.content.strip():
                raise RowError(f"turn {index + 1}, of the assistant, has neither text nor calls")
            yield Sample(
                id=row_id if len(targets) == 1 else f"{row_id}/{number}",
                messages=tuple(self.messages[:index]),
                tools=tools,
                target=Message(role="assistant", tool_calls=answer.tool_calls) if answer.tool_calls else answer,
                meta=meta,
            )

    def _is_target(self, index: int) -> bool:
        answer, before = self.messages[index], self.messages[:index]
        if answer.role != "assistant" or index in self._not_learned:
            return False
        if answer.tool_calls:
            return any(message.role == "user" for message in before)
        return before[-1].role == "user"

    def _append(self, message: Message) -> None:
        if self._max_turns is not None and len(self.messages) >= self._max_turns:
            raise RowError(f"more than {self._max_turns} turns")
        self.messages.append(message)
