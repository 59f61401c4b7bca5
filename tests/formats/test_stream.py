"""Answers that come in pieces."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SNIPPETS, calls_of_any_kind, rendered, tools_of

from toolrefine.formats import FORMATS, WireFormat
from toolrefine.formats.stream import AnswerStream
from toolrefine.types import Outcome, ToolCall

formats = pytest.mark.parametrize("wire", FORMATS.values(), ids=FORMATS.keys())

CALLS = (ToolCall(name="find", arguments={"a": {"b": [1, "é)}]"]}, "text": "x y"}), ToolCall(name="go"))


@formats
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_come_as_they_are_complete(wire: WireFormat, size: int) -> None:
    text = wire.render(CALLS)
    stream = AnswerStream(wire)
    given: list[ToolCall] = []
    for start in range(0, len(text), size):
        given += stream.feed(text[start : start + size])
        assert tuple(given) == wire.parse(text[: start + size], truncated=True).calls
    assert tuple(given) == CALLS
    assert stream.close() == wire.parse(text)


@formats
@given(calls=calls_of_any_kind)
def test_every_split_gives_the_calls_of_the_whole_text(wire: WireFormat, calls: list[ToolCall]) -> None:
    text, tools = rendered(wire, calls), tools_of(calls)
    whole = wire.parse(text, tools=tools)
    for cut in range(0, len(text) + 1, max(1, len(text) // 40)):
        stream = AnswerStream(wire, tools)
        given = [*stream.feed(text[:cut]), *stream.feed(text[cut:])]
        assert repr(tuple(given)) == repr(whole.calls)
        assert repr(stream.close()) == repr(whole)


@formats
@given(pieces=st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=3), max_size=12), truncated=st.booleans())
def test_a_closed_stream_is_the_whole_text(wire: WireFormat, pieces: list[str], truncated: bool) -> None:
    stream = AnswerStream(wire)
    for piece in pieces:
        stream.feed(piece)
    assert stream.close(truncated) == wire.parse("".join(pieces), truncated)


@formats
def test_a_long_stream_takes_linear_time(wire: WireFormat) -> None:
    start = time.process_time()
    stream = AnswerStream(wire)
    for _ in range(200_000):
        stream.feed(")}>")
    assert stream.close().outcome is not Outcome.CALLS
    assert time.process_time() - start < 5.0
