"""What a wire format is, and what all of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from toolrefine.errors import DataError
from toolrefine.types import Outcome, Record, Tool, ToolCall

MAX_NESTING = 64
"""Lists and objects inside an argument, at most. Real tools stay below ten; more could not be stored as JSON."""

SURROGATE = re.compile("[\ud800-\udfff]")

THOUGHT_OPEN = "<think>"
THOUGHT_CLOSE = "</think>"


class UnreadableError(ValueError):
    """A text sets out to be a call and is none."""


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

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read the text of a model; never raises, and takes time linear in the text.

        tools tell strings from other values where the format does not. truncated says that the model hit its token
        limit. Such a text is TRUNCATED whatever it says: more calls could have followed.
        """
        ...


Reader = Callable[[str, list[ToolCall]], Outcome]
"""Reads an answer, adding each call to the list once it is complete. Raises UnreadableError for a malformed answer."""


def parse_answer(text: str, openers: tuple[str, ...], read: Reader, truncated: bool) -> Parsed:
    """Drop the thought before an answer, then read the answer. openers are what an answer with calls begins with.

    What holds a lone surrogate is no Unicode text, and is malformed.
    """
    calls: list[ToolCall] = []
    outcome = Outcome.MALFORMED
    if not SURROGATE.search(text):
        with suppress(UnreadableError):
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


def looks_like_call(text: str) -> bool:
    """Whether a text sets out to be a call, or a list of calls, as plain JSON."""
    return text.startswith(("{", "[")) and '"name"' in text and ('"arguments"' in text or '"parameters"' in text)


def read_blocks(
    text: str,
    opener: str,
    read_block: Callable[[str, int], tuple[ToolCall, int]],
    calls: list[ToolCall],
    marks: tuple[str, ...],
    *,
    json_is_odd: bool = False,
) -> Outcome:
    """Read the answer of a format with blocks of one call each, adding each call once it is complete.

    read_block gets the text and the place behind the opener. A text without a block is MALFORMED if it holds one of
    the marks, which stand in blocks only, or where json_is_odd if it is a call in plain JSON.

    Raises:
        UnreadableError: from read_block.
    """
    position = 0
    while (opened := text.find(opener, position)) >= 0:
        call, position = read_block(text, opened + len(opener))
        calls.append(call)
    if calls:
        return Outcome.CALLS
    odd = any(mark in text for mark in marks) or (json_is_odd and looks_like_call(text))
    return Outcome.MALFORMED if odd else Outcome.NO_CALL


def expect(text: str, position: int, wanted: str) -> int:
    """Where the wanted text ends that follows here.

    Raises:
        UnreadableError: something else follows.
    """
    if not text.startswith(wanted, position):
        raise UnreadableError(f"no {wanted}")
    return position + len(wanted)


def read_until(text: str, position: int, closer: str) -> tuple[str, int]:
    """The text up to the closer, and where the closer ends.

    Raises:
        UnreadableError: there is no closer.
    """
    end = text.find(closer, position)
    if end < 0:
        raise UnreadableError(f"no {closer}")
    return text[position:end], end + len(closer)


def writable(text: str, forbidden: tuple[str, ...], what: str, format_name: str) -> str:
    """The text, if a format can write it.

    Raises:
        DataError: it holds something by which the format would end it, or has blanks around it.
    """
    if text != text.strip() or not text or any(mark in text for mark in forbidden):
        raise DataError(
            f"{what} {text!r} cannot be written in the {format_name} format; rename it, or choose another prompt.format"
        )
    return text
