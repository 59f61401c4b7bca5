"""Requests and replies that mean harm: bounded time, and never an error of the server's own."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fake_upstream import (
    BAD,
    BROKEN,
    GOOD,
    TEXT,
    FakeUpstream,
    answer,
    ask,
    call,
    call_chunks,
    choice,
    completion,
    http,
    served,
    stream,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.engines import NO_ROOM
from toolrefine.server.answers import read_answer, read_text
from toolrefine.server.chat_request import ChatRequest, read_body
from toolrefine.server.errors import UpstreamError
from toolrefine.server.rounds import Rules, settle
from toolrefine.types import Outcome, ToolCall

NASTY = "(a+)+$"
KEYWORDS = [
    *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs", "enum", "const"),
    *("pattern", "patternProperties", "additionalProperties", "minimum", "maxLength", "default", "nullable"),
    *("definitions", "if", "then", "else", "dependentSchemas"),
]


def nested(depth: int, key: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", key: schema} if key == "items" else {key: [schema, schema]}
    return schema


def tool(parameters: Any, name: str = "find") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def with_city(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"city": schema}}


RECURSIVE = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, **with_city({"$ref": "#/$defs/a"})}
LARGE: dict[str, list[Any]] = {
    "recursive $ref": [tool(RECURSIVE), tool({"$ref": "#"})],
    "regex bomb": [tool(with_city({"type": "string", "pattern": NASTY})), tool({"patternProperties": {NASTY: {}}})],
    "10,000 tools": [tool(with_city({"type": "string"}), f"tool_{number}") for number in range(10_000)],
    "a name of 1 MB": [tool(with_city({"type": "string"}), "x" * 2**20), tool(with_city({}))],
    "nested 500 deep": [tool(with_city(nested(500)))],
    "2 ** 14 alternatives": [tool(with_city(nested(14, "anyOf")))],
    "an enumeration of 100,000": [tool(with_city({"enum": list(range(100_000))}))],
    "100,000 properties": [tool({"type": "object", "properties": {str(i): {} for i in range(100_000)}})],
    "100,000 required": [tool({"type": "object", "properties": {}, "required": ["x"] * 100_000})],
    "the same tool twice": [tool(with_city({"type": "string"})), tool({"type": "object"})],
}
LONG_ARGUMENTS = {"city": ["a" * 20] * 20_000}


@pytest.mark.parametrize("name", LARGE)
def test_tools_that_mean_harm_take_bounded_time(name: str) -> None:
    with served(FakeUpstream(answer(call(arguments={"city": "a" * 5000 + "!"})))) as server:
        started = time.monotonic()
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=ask(tools=LARGE[name]), timeout=60)
        assert time.monotonic() - started < 10
    assert reply.status_code == 200
    assert server.upstream.asked[0].body["tools"] == LARGE[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2 ** 14 alternatives", "unchanged"),  # its fault is found
        ("an enumeration of 100,000", "gated"),
        ("100,000 properties", "gated"),
    ],
)
def test_a_schema_too_large_for_its_arguments_is_not_checked(name: str, reason: str) -> None:
    with served(FakeUpstream(answer(call(arguments=LONG_ARGUMENTS)))) as server:
        started = time.monotonic()
        reply = httpx2.post(f"{server.url}/v1/chat/completions", json=ask(tools=LARGE[name]), timeout=60)
        assert time.monotonic() - started < 10
    assert reply.headers["x-toolrefine-stop-reason"] == reason


SLOW_TO_CHECK = [tool(with_city({"type": "array", "items": {"anyOf": [{"const": 0}] * 599 + [{}]}}))]


def slow_drafts(number: int) -> list[dict[str, Any]]:
    return [choice(call(arguments={"city": [1] * 3000}), index=index) for index in range(number)]


def test_a_request_that_takes_long_to_check_holds_up_no_other() -> None:
    with served(FakeUpstream(http(completion(*slow_drafts(25))))) as server, ThreadPoolExecutor(1) as pool:
        body = ask(tools=SLOW_TO_CHECK)
        asked = pool.submit(httpx2.post, f"{server.url}/v1/chat/completions", json=body, timeout=120)
        longest = 0.0
        while not asked.done():
            started = time.monotonic()
            assert httpx2.get(f"{server.url}/health", timeout=60).status_code == 200
            longest = max(longest, time.monotonic() - started)
        assert asked.result().status_code == 200
    assert longest < 2


def test_a_request_with_many_answers_that_take_long_to_check_leaves_room_for_another() -> None:
    settled = asyncio.run(settle_slowly(num_many=10, deadline=math.inf))
    assert settled[:3] == [("many", "gated"), ("one", "gated"), ("many", "gated")]
    assert len(settled) == 11


def test_drafts_that_are_not_checked_before_the_deadline_stand() -> None:
    settled = asyncio.run(settle_slowly(num_many=10, deadline=0.0))
    assert {reason for _, reason in settled} == {"deadline"}


async def settle_slowly(num_many: int, deadline: float) -> list[tuple[str, str]]:
    """Settle the answers to a request and the one to another, all slow to check: which came when, and why it ended."""
    rules = Rules(RefinementConfig(max_rounds=1, when="invalid"), PromptConfig(), convert=True)
    done: list[tuple[str, str]] = []

    async def finish(name: str, request: ChatRequest, draft: dict[str, Any]) -> None:
        settled = await settle(request, draft, refuse, rules, deadline)
        assert settled.num_rounds == 0
        done.append((name, settled.stop_reason))

    many, one = ChatRequest(ask(tools=SLOW_TO_CHECK)), ChatRequest(ask(tools=SLOW_TO_CHECK))
    works = [finish("many", many, draft) for draft in slow_drafts(num_many)]
    await asyncio.gather(*works, finish("one", one, *slow_drafts(1)))
    return done


async def refuse(body: dict[str, Any]) -> dict[str, Any]:
    raise UpstreamError(400, "too_deep", "too deep")


def test_defaults_of_a_tool_take_bounded_time() -> None:
    items = {"anyOf": [{"const": 0}] * 40 + [{}]}
    parameters = {str(number): {"type": "array", "items": items, "default": [1] * 200} for number in range(350)}
    started = time.process_time()
    assert len(read_tools([tool(parameters)])[0].parameters["properties"]) == 350
    assert time.process_time() - started < 2


def test_an_answer_is_checked_against_as_many_tools_as_can_be_read_in_time() -> None:
    names = [f"tool_{number}" for number in range(100)]
    tools = [tool(with_city({"enum": ["Rome"] * 3000}), name) for name in names]
    calls = tuple(ToolCall(name=name, arguments={}) for name in names)
    read = ChatRequest(ask(tools=tools)).tools_of([NO_ROOM.model_copy(update={"calls": calls})])
    assert [tool.name for tool in read] == names
    assert 0 < sum(bool(tool.parameters) for tool in read) < 50


def with_many_lists(number: int) -> bytes:
    return json.dumps(ask(tools=[tool({})])).encode().replace(b'"tools": [', b'"tools": [' + b"[], " * number)


@pytest.mark.parametrize(
    ("raw", "is_refined"),
    [
        (with_many_lists(100), True),
        (with_many_lists(4095), True),
        (with_many_lists(4096), False),
        (with_many_lists(500_000), False),
        (json.dumps(ask(messages=[{"role": "user", "content": "x" * 2_000_000}])).encode(), True),
    ],
    ids=["101 tools", "4096 tools", "4097 tools", "500,001 tools", "a long text"],
)
def test_a_request_with_too_many_tools_is_passed_on_as_it_is(raw: bytes, is_refined: bool) -> None:
    with served(FakeUpstream(GOOD)) as server:
        reply = httpx2.post(f"{server.url}/v1/chat/completions", content=raw, timeout=60)
    assert reply.status_code == 200
    assert ("x-toolrefine-rounds" in reply.headers) is is_refined
    assert server.upstream.asked[0].raw == raw


def test_what_takes_long_to_read_is_not_read() -> None:
    raw = with_many_lists(8_000_000)
    started = time.process_time()
    assert read_body(raw) is None
    assert time.process_time() - started < 0.5


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    """A schema, or what somebody who means harm takes for one."""
    kind = rng.random()
    if depth > 4 or kind < 0.2:
        return rng.choice([None, True, 3, "string", NASTY, [], {}, "#/$defs/a", 1e308, "\ud800", "x" * 1000, ["a", 1]])
    if kind < 0.35:
        return [random_schema(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice([*KEYWORDS, "city", ""]): random_schema(rng, depth + 1) for _ in range(rng.randrange(1, 6))}


@pytest.mark.parametrize("number_of_requests", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_tools_neither_fail_nor_lose_the_draft(number_of_requests: int) -> None:
    rng = random.Random(7)
    drafts = [GOOD, BAD, BROKEN, TEXT, answer(call(arguments={"city": [None, {"a": 1.5}]}))]
    upstream = FakeUpstream(GOOD)
    upstream.keeps = False
    slowest = 0.0
    with served(upstream) as server, httpx2.Client(timeout=60) as client:
        for number in range(number_of_requests):
            draft = drafts[number % len(drafts)]
            upstream.behave = lambda asked, draft=draft: draft if len(asked.body["messages"]) == 1 else http(b"", 500)
            tools = [tool(random_schema(rng)) for _ in range(rng.randrange(1, 4))]
            started = time.monotonic()
            body = json.dumps(ask(tools=tools)).encode()
            reply = client.post(f"{server.url}/v1/chat/completions", content=body)
            slowest = max(slowest, time.monotonic() - started)
            assert reply.status_code == 200
            assert (
                draft.endswith(reply.content)
                or reply.json()["choices"] == json.loads(draft.partition(b"\r\n\r\n")[2])["choices"]
            )
    assert slowest < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "id",
                    "logprobs",
                    "finish_reason",
                    "find",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(choice=JSON, later=JSON)
def test_hostile_choices_never_raise(choice: Any, later: Any) -> None:
    request = ChatRequest(ask(tool_choice="required"))
    read_answer(choice, request, "auto", convert=True)
    rules = Rules(RefinementConfig(max_rounds=2, when="always", accept="valid"), PromptConfig(), convert=True)

    async def reply(body: dict[str, Any]) -> dict[str, Any]:
        json.dumps(body)
        return later if isinstance(later, dict) else {"choices": [later], "usage": later}

    settled = asyncio.run(settle(request, choice, reply, rules, deadline=1e12))
    assert settled.choice == choice or settled.changed or settled.choice != settled.choice or _has_nan(choice)


def _has_nan(value: Any) -> bool:
    return "NaN" in json.dumps(value)


@given(
    text=st.text()
    | st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "[",
                "]",
                "{",
                "}",
                '"name"',
                '"arguments"',
                ":",
                "find(",
                ")",
                "<|python_tag|>",
                "[TOOL_CALLS]",
                "<think>",
                "</think>",
                "\ud800",
                "functools",
                ",",
            ]
        )
    ).map("".join)
)
def test_hostile_text_is_read_without_raising(text: str) -> None:
    for format_name in ("auto", "hermes", "pythonic", "qwen3_xml"):
        parsed, _ = read_text(text, {"find"}, format_name)
        assert parsed.outcome in Outcome


@pytest.mark.parametrize("text", ["[" * 10**6, "<tool_call>" * 10**5, "{" * 10**6, '{"a":' * 10**5, "find(" * 10**5])
def test_long_hostile_text_takes_bounded_time(text: str) -> None:
    started = time.monotonic()
    read_text(text, {"find"}, "auto")
    assert time.monotonic() - started < 10


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from(["tools", "messages", "tool_choice", "model", "n", "stream"]), JSON))
def test_hostile_bodies_are_read_without_raising(body: dict[str, Any]) -> None:
    read = read_body(json.dumps(body).encode())
    if read is not None and ChatRequest.can_refine(read):
        ChatRequest(read).tools_of([NO_ROOM])


@pytest.mark.parametrize("name", ["\ud800", " ", 3, None, [], {}])
def test_a_call_of_what_is_no_name_cannot_be_read(name: Any) -> None:
    choice = {"message": {"tool_calls": [{"function": {"name": name, "arguments": "{}"}}]}}
    found = read_answer(choice, ChatRequest(ask()), "auto", convert=True)
    assert found is not None
    assert found.completion.outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "arguments",
    ['{"city": "Rome"}', {"city": "Rome"}, ' {"city":\n"Rome"} '],
)
def test_arguments_are_read_as_text_or_objects(arguments: Any) -> None:
    choice = {"message": {"tool_calls": [{"function": {"name": "find", "arguments": arguments}}]}}
    found = read_answer(choice, ChatRequest(ask()), "auto", convert=True)
    assert found is not None
    assert found.completion.calls == (ToolCall(name="find", arguments={"city": "Rome"}),)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"city": "Rome", "city": "Oslo"}',
        '{"city": NaN}',
        '{"city": "\\ud800"}',
        {"city": "\ud800"},
        {"city": math.nan},
    ],
)
def test_arguments_are_read_strictly_as_text_and_as_objects(arguments: Any) -> None:
    choice = {"message": {"tool_calls": [{"function": {"name": "find", "arguments": arguments}}]}}
    found = read_answer(choice, ChatRequest(ask()), "auto", convert=True)
    assert found is not None
    assert found.completion.outcome is Outcome.MALFORMED


@given(raw=st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bodies_are_read_as_the_standard_library_reads_them(raw: bytes) -> None:
    try:
        expected = json.loads(b'{"value": ' + raw + b"}")
    except ValueError:
        expected = None
    assert repr(read_body(b'{"value": ' + raw + b"}")) == repr(expected)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"a": ' + "[" * 500 + "]" * 500 + "}", '{"a": "\u00e9"}'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_odd_bodies_are_read_too(text: str, encoding: str) -> None:
    assert read_body(text.encode(encoding)) == json.loads(text)


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[" * 200_000, b'{"tools"', b'{"tools": 1e999999}', b"nul\x00l"])
def test_a_body_that_is_no_json_reaches_the_upstream_as_it_is(raw: bytes) -> None:
    with served(FakeUpstream(http(b'{"error": 1}', 400))) as server:
        url = f"{server.url}/v1/chat/completions"
        reply = httpx2.post(url, content=raw, headers={"X-Toolrefine-Max-Rounds": "2"})
    assert (reply.status_code, server.upstream.asked[0].raw) == (400, raw)


def test_a_round_that_cannot_be_written_is_no_round() -> None:
    draft = json.loads(BAD.partition(b"\r\n\r\n")[2])["choices"][0]
    rules = Rules(RefinementConfig(when="invalid", accept="valid"), PromptConfig(), convert=True)
    settled = asyncio.run(settle(ChatRequest(ask()), draft, refuse, rules, 1e12))
    assert (settled.choice, settled.stop_reason, settled.failed) == (draft, "too_deep", True)


DEEP_USAGE = '{"x": ' * 600 + "1" + "}" * 600


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("usage", "later"),
    [
        (f'{{"x": {"9" * 400}}}', '{"x": 1.5}'),
        (f'{{"x": {"9" * 4300}}}', f'{{"x": {"9" * 4300}}}'),
        (f'{{"prompt_tokens": {"9" * 400}}}', f'{{"prompt_tokens": {"9" * 400}}}'),
        (DEEP_USAGE, DEEP_USAGE),
    ],
    ids=["no float", "no text", "no metric", "too deep"],
)
def test_a_usage_that_cannot_be_added_costs_no_answer(
    usage: str, later: str, streams: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def told(draft: bytes, usage: str) -> bytes:
        return http(draft.partition(b"\r\n\r\n")[2].rpartition(b', "usage"')[0] + f', "usage": {usage}}}'.encode())

    last = b'data: {"choices": [], "usage": ' + usage.encode() + b"}\n\n"
    draft = stream(*call_chunks('{"limit": "many"}'), last) if streams else told(BAD, usage)
    with served(FakeUpstream(draft, told(GOOD, later)), log_requests=True) as server, httpx2.Client() as client:
        caplog.set_level("INFO")
        reply = client.post(f"{server.url}/v1/chat/completions", json=ask(stream=streams))
        assert (reply.status_code, "Rome" in reply.text) == (200, True)
        assert usage.partition('"x"')[2].partition("}")[0] in reply.text
        assert client.get(f"{server.url}/health").status_code == 200
    assert "stop_reasons" in caplog.text  # its line in the log comes behind the metrics


def test_a_mistake_of_the_server_itself_costs_no_draft(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("a mistake")

    draft = json.loads(BAD.partition(b"\r\n\r\n")[2])["choices"][0]
    rules = Rules(RefinementConfig(when="invalid", accept="valid"), PromptConfig(), convert=True)
    settled = asyncio.run(settle(ChatRequest(ask()), draft, fail, rules, 1e12))
    assert (settled.choice, settled.stop_reason) == (draft, "internal_error")
    assert "the draft stands" in caplog.text


def test_the_document_holds_under_schemathesis() -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    with served(FakeUpstream(GOOD)) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for operation in schema.get_all_operations():

            @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.ok().as_strategy())
            def holds(case: Any) -> None:
                assert case.call(base_url=server.url).status_code < 500

            holds()
