from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest
from fake_upstream import (
    DONE,
    GOOD,
    HANG,
    RESET,
    TEXT,
    USAGE,
    FakeUpstream,
    answer,
    ask,
    call,
    call_chunks,
    chunk,
    http,
    served,
    stream,
)
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.server.answers import may_begin_call
from toolrefine.server.chunks import StreamedChoice, deltas_of
from toolrefine.server.sse import EventReader, data_of, event_of

GOOD_ARGUMENTS, BAD_ARGUMENTS = '{"city": "Oslo"}', '{"limit": "many"}'


def run(*answers: Any, overrides: tuple[str, ...] = (), body: Any = None) -> tuple[bytes, FakeUpstream]:
    with served(FakeUpstream(*answers), *overrides) as server:
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=body or ask(stream=True), timeout=20)
        return reply.content, server.upstream


def chunks_of(text: bytes) -> list[dict[str, Any]]:
    events = [data_of(event) for event in EventReader(10**9).feed(text)]
    return [json.loads(event) for event in events if event not in (b"", b"[DONE]")]


def whole(text: bytes) -> dict[str, Any]:
    """The one choice of a stream, put together."""
    state = StreamedChoice(0)
    for each in chunks_of(text):
        for choice in each["choices"]:
            state.take(choice)
    return state.whole()


def arguments_of(text: bytes) -> list[Any]:
    return [json.loads(each["function"]["arguments"]) for each in whole(text)["message"].get("tool_calls", [])]


def test_a_draft_without_a_fault_is_streamed_as_the_upstream_wrote_it() -> None:
    events = [*call_chunks(GOOD_ARGUMENTS), USAGE]
    text, upstream = run(stream(*events))
    assert text == b"".join([*events, DONE])
    assert upstream.num_asked == 1


def test_a_faulty_call_is_never_seen_and_the_refined_one_is_streamed_whole() -> None:
    text, upstream = run(stream(*call_chunks(BAD_ARGUMENTS), USAGE), GOOD, body=ask(stream=True))
    assert arguments_of(text) == [{"city": "Rome"}]
    assert whole(text)["finish_reason"] == "tool_calls"
    assert b"many" not in text
    assert text.endswith(DONE)
    deltas = [choice["delta"] for each in chunks_of(text) for choice in each["choices"]]
    first = next(delta for delta in deltas if "tool_calls" in delta)["tool_calls"][0]
    assert (first["index"], first["id"], first["type"], first["function"]["name"]) == (0, "call_0", "function", "find")
    assert chunks_of(text)[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    assert upstream.asked[1].body["messages"][-2]["tool_calls"][0]["function"]["arguments"] == BAD_ARGUMENTS
    assert "stream" not in upstream.asked[1].body


def test_text_is_streamed_at_once_while_calls_wait() -> None:
    events = [chunk({"content": "Let me "}), 0.3, chunk({"content": "look."}), *call_chunks(BAD_ARGUMENTS)[1:]]
    upstream = FakeUpstream(stream(*events), [0.3, GOOD])
    times: list[tuple[float, bytes]] = []
    with (
        served(upstream, "limits.keepalive_s=0.1") as server,
        httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=ask(stream=True)) as reply,
    ):
        started = time.monotonic()
        times = [(time.monotonic() - started, piece) for piece in reply.iter_raw()]
    text = b"".join(piece for _, piece in times)
    assert next(when for when, piece in times if b"Let me" in piece) < 0.2
    assert text.count(b": keep-alive\n\n") >= 2
    assert arguments_of(text) == [{"city": "Rome"}]
    assert whole(text)["message"]["content"] == "Let me look."


def test_text_alone_is_handed_on_event_by_event() -> None:
    events = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk({"content": " you"})]
    text, _ = run(stream(*events, chunk({}, "stop")))
    assert text == b"".join([*events, chunk({}, "stop"), DONE])


def test_text_that_turns_out_to_be_calls_is_streamed_as_calls() -> None:
    pieces = ["\n<tool", '_call>\n{"name": "find", "argu', 'ments": {"city": "Rome"}}\n</tool_call>']
    text, upstream = run(stream(*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop")))
    assert arguments_of(text) == [{"city": "Rome"}]
    assert (whole(text)["finish_reason"], whole(text)["message"]["content"]) == ("tool_calls", None)
    assert upstream.num_asked == 1


def test_text_that_only_begins_like_calls_comes_in_the_end() -> None:
    events = [chunk({"content": "["}), chunk({"content": "1] is the source."}), chunk({}, "stop")]
    text, _ = run(stream(*events))
    assert whole(text)["message"]["content"] == "[1] is the source."


@pytest.mark.parametrize("later", [http(b"", 500), RESET, http(b"{"), HANG, TEXT[:-5] + b"x" * 5])
def test_whatever_fails_in_a_later_round_the_draft_is_streamed(later: Any) -> None:
    events = call_chunks(BAD_ARGUMENTS)
    text, _ = run(stream(*events), later, overrides=("limits.deadline_s=0.5",))
    assert text == b"".join([*events, DONE])


def test_tool_choice_is_enforced_behind_text_that_is_sent() -> None:
    events = [chunk({"content": "I would rather not."}), chunk({}, "stop")]
    text, _ = run(stream(*events), GOOD, body=ask(stream=True, tool_choice="required"))
    assert arguments_of(text) == [{"city": "Rome"}]
    assert whole(text)["message"]["content"] == "I would rather not."


@pytest.mark.parametrize(
    "events",
    [
        [chunk({"content": "a"}), b"data: {broken\n\n", chunk({"content": "b"})],
        [b"data: [1, 2]\n\n", *call_chunks(BAD_ARGUMENTS)],
        [b'data: {"error": {"message": "no"}}\n\n'],
        [b"event: x\nid: 3\ndata: 1\n\n"],
        [chunk({"content": "a"}), b"data: {"],
    ],
)
def test_a_stream_that_cannot_be_read_is_handed_on_as_it_is(events: list[bytes]) -> None:
    text, upstream = run(stream(*events, done=False))
    assert text == b"".join(events)
    assert upstream.num_asked == 1


def test_what_waits_is_handed_on_where_a_stream_becomes_unreadable() -> None:
    events = [*call_chunks(BAD_ARGUMENTS)[:4], b"data: {broken\n\n"]
    text, _ = run(stream(*events, done=False))
    assert text == b"".join(events)


@pytest.mark.parametrize("end", [RESET, HANG])
def test_a_stream_that_breaks_off_ends_in_an_error_event(end: str) -> None:
    events = call_chunks(BAD_ARGUMENTS)[:3]
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ncontent-length: 99999\r\n\r\n"
    text, upstream = run([head, *events, 0.1, end], overrides=("limits.deadline_s=0.5",))
    assert text.startswith(b"".join(events))
    assert chunks_of(text)[-1]["error"]["type"] == "server_error"
    assert upstream.num_asked == 1


def test_an_upstream_that_ends_without_a_finish_reason_is_handed_on() -> None:
    events = call_chunks(BAD_ARGUMENTS)[:4]
    text, upstream = run(stream(*events))
    assert text == b"".join([*events, DONE])
    assert upstream.num_asked == 1


def test_an_upstream_that_never_closes_after_the_end_is_not_waited_for() -> None:
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ncontent-length: 99999\r\n\r\n"
    started = time.monotonic()
    text, _ = run([head, *call_chunks(BAD_ARGUMENTS), DONE, HANG], GOOD)
    assert arguments_of(text) == [{"city": "Rome"}]
    assert time.monotonic() - started < 5


def test_a_long_stream_is_handed_on_unrefined() -> None:
    events = [*(chunk({"content": "x" * 1000}) for _ in range(200)), *call_chunks(BAD_ARGUMENTS)]
    text, upstream = run(stream(*events), overrides=("limits.max_reply_mb=0.1",))
    assert text == b"".join([*events, DONE])
    assert upstream.num_asked == 1


def test_an_answer_of_another_kind_is_handed_on() -> None:
    text, _ = run(answer(call(arguments={"limit": "x"})))
    assert json.loads(text)["choices"]


def test_two_choices_of_a_stream_are_refined_apart() -> None:
    def of_choice(index: int, arguments: str) -> list[bytes]:
        function = {"name": "find", "arguments": arguments}
        return [
            chunk({"tool_calls": [{"index": 0, "id": f"c{index}", "function": function}]}, index=index),
            chunk({}, "tool_calls", index=index),
        ]

    text, upstream = run(stream(*of_choice(1, BAD_ARGUMENTS), *of_choice(0, GOOD_ARGUMENTS)), GOOD)
    states = [StreamedChoice(0), StreamedChoice(1)]
    for each in chunks_of(text):
        for choice in each["choices"]:
            states[choice["index"]].take(choice)
    calls = [state.whole()["message"]["tool_calls"][0]["function"]["arguments"] for state in states]
    assert [json.loads(each) for each in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert upstream.num_asked == 2


@given(pieces=st.lists(st.sampled_from(["a", "\n", "\r", "data: 1", "data: {}", "\r\n", "\n\n"]), max_size=30))
def test_events_are_cut_alike_however_they_come(pieces: list[str]) -> None:
    text = "".join(pieces).replace("\r", "").encode()
    whole, cut = EventReader(10**6), EventReader(10**6)
    together = whole.feed(text)
    apart = [event for index in range(len(text)) for event in cut.feed(text[index : index + 1])]
    assert together == apart
    assert b"".join(together) + whole.rest() == text


@given(
    text=st.text(max_size=20),
    calls=st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), st.integers()))),
    width=st.integers(1, 5),
)
def test_a_message_streamed_and_put_together_is_the_same(text: str, calls: Any, width: int) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [call(name, arguments, number) for number, (name, arguments) in enumerate(calls)]
    state = StreamedChoice(0)
    for delta in deltas_of(message, with_text=True):
        for part in [{"content": char} for char in delta.get("content", "")] or [delta]:
            state.take({"index": 0, "delta": json.loads(data_of(event_of(part)))})
    assert state.whole()["message"] == message


@given(
    chunks=st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda x: (
                st.lists(x)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "delta",
                            "content",
                            "tool_calls",
                            "index",
                            "function",
                            "name",
                            "arguments",
                            "id",
                            "finish_reason",
                            "logprobs",
                        ]
                    ),
                    x,
                )
            ),
            max_leaves=20,
        )
    )
)
def test_hostile_deltas_never_raise(chunks: list[Any]) -> None:
    state = StreamedChoice(0)
    for each in chunks:
        state.take(each if isinstance(each, dict) else {"delta": each})
    json.dumps(state.whole())


def test_text_is_held_only_where_it_may_begin_a_call() -> None:
    assert all(map(may_begin_call, ["", " ", "<", "<to", "\n[", "{", "func", "``"]))
    assert not any(map(may_begin_call, ["I", "<b>", "fungus", "`x`", "a {"]))
