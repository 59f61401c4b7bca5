"""What a wire format is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from toolrefine.types import Outcome, Record, ToolCall

MAX_NESTING = 64
"""Lists and objects inside an argument, at most. Real tools stay below ten; more could not be stored as JSON."""

THOUGHT_OPEN = "<think>"
THOUGHT_CLOSE = "</think>"


class Parsed(Record):
    """What a text of a model turned out to say."""

    calls: tuple[ToolCall, ...] = ()
    """All calls of a readable text, the complete ones of a truncated text, none otherwise."""
    outcome: Outcome


class WireFormat(Protocol):
    """How calls are written in the text of a model."""

    @property
    def name(self) -> str:
        """Key in FORMATS."""
        ...

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write calls as a model should.

        Raises:
            DataError: a name that this format cannot write.
            ValueError: an argument that is not JSON.
        """
        ...

    def parse(self, text: str, truncated: bool = False) -> Parsed:
        """Read the text of a model; never raises, and takes time linear in the text.

        truncated says that the model hit its token limit. Such a text is TRUNCATED whatever it says: more calls could
        have followed.
        """
        ...


Reader = Callable[[str, list[ToolCall]], Outcome]
"""Reads an answer, adding each call to the list as soon as it is complete."""


def parse_answer(text: str, openers: tuple[str, ...], read: Reader, truncated: bool) -> Parsed:
    """Drop the thought before an answer, then read the answer. openers are what an answer with calls begins with."""
    calls: list[ToolCall] = []
    outcome = read(after_thought(text, openers), calls)
    if truncated:
        return Parsed(calls=tuple(calls), outcome=Outcome.TRUNCATED)
    return Parsed(calls=tuple(calls) if outcome is Outcome.CALLS else (), outcome=outcome)


def after_thought(text: str, openers: tuple[str, ...]) -> str:
    """Return the answer of a text: what follows </think>, nothing where a thought never ends, else all of it; stripped.

    The opening tag may be missing, because some chat templates put it into the prompt. So that </think> inside an
    argument is left alone, a text that begins like a call has no thought.
    """
    text = text.strip()
    if text.startswith(openers):
        return text
    _, closed, answer = text.partition(THOUGHT_CLOSE)
    if closed:
        return answer.strip()
    return "" if text.startswith(THOUGHT_OPEN) else text
