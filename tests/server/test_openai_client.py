"""The official client, with its strict types, against the server."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_upstream import (
    BAD,
    GOOD,
    HANG,
    TEXT,
    TOOL,
    USAGE,
    FakeUpstream,
    ask,
    call_chunks,
    chunk,
    http,
    served,
    stream,
)

openai = pytest.importorskip("openai", reason="the openai package is not installed")

MODELS = http(b'{"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}')


def client(url: str, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True, **options)


def test_the_plain_client() -> None:
    with served(FakeUpstream(BAD, GOOD), "report=true") as server, client(server.url) as ours:
        answer = ours.chat.completions.create(**ask())
    message = answer.choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Rome"}
    assert answer.usage.total_tokens == 24
    assert answer.toolrefine["rounds"] == 1


def test_its_headers() -> None:
    with served(FakeUpstream(BAD, GOOD)) as server, client(server.url) as ours:
        raw = ours.chat.completions.with_raw_response.create(**ask(), extra_headers={"X-Toolrefine-Max-Rounds": "1"})
        assert raw.headers["x-toolrefine-changed"] == "true"
        assert [model.id for model in _models(server.upstream, ours)] == ["m"]


def _models(upstream: FakeUpstream, ours: openai.OpenAI) -> list[openai.types.Model]:
    upstream.answers = [MODELS]
    return list(ours.models.list())


def test_the_async_client() -> None:
    async def run(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", _strict_response_validation=True) as ours:
            answers = await asyncio.gather(*(ours.chat.completions.create(**ask()) for _ in range(20)))
        return [answer.choices[0].message.tool_calls[0].function.arguments for answer in answers]

    upstream = FakeUpstream(GOOD)
    upstream.behave = lambda asked: GOOD if len(asked.body["messages"]) > 1 else BAD
    with served(upstream) as server:
        found = asyncio.run(run(server.url))
    assert list(map(json.loads, found)) == [{"city": "Rome"}] * 20


@pytest.mark.parametrize("refined", [False, True])
def test_streaming(refined: bool) -> None:
    arguments = '{"limit": "many"}' if refined else '{"city": "Rome"}'
    events = [chunk({"content": "One moment. "}), *call_chunks(arguments), USAGE]
    with served(FakeUpstream(stream(*events), [0.3, GOOD]), "limits.keepalive_s=0.1") as server:
        options = {"stream_options": {"include_usage": True}, "parallel_tool_calls": True}
        with client(server.url) as ours, ours.chat.completions.stream(**ask(), **options) as events_of_client:
            kinds = {event.type for event in events_of_client}
            answer = events_of_client.get_final_completion()
    message = answer.choices[0].message
    assert message.content == "One moment. "
    assert [json.loads(each.function.arguments) for each in message.tool_calls] == [{"city": "Rome"}]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage.total_tokens == (24 if refined else 12)
    assert {"content.delta", "tool_calls.function.arguments.delta"} <= kinds


def test_its_errors() -> None:
    with served(FakeUpstream(http(b"{}", 429, retry_after="3")), api_key="k") as server, client(server.url) as ours:
        with pytest.raises(openai.RateLimitError):
            ours.chat.completions.create(**ask())
        with pytest.raises(openai.AuthenticationError):
            ours.with_options(api_key="wrong").chat.completions.create(**ask())
        with pytest.raises(openai.BadRequestError, match="X-Toolrefine"):
            ours.chat.completions.create(**ask(), extra_headers={"X-Toolrefine-When": "never"})


def test_a_stream_that_breaks_off_is_an_error_of_its() -> None:
    hanging = FakeUpstream([stream()[0], *call_chunks("{}")[:2], HANG])
    with (
        served(hanging, "limits.deadline_s=0.3") as server,
        client(server.url) as ours,
        pytest.raises(openai.APIError, match="deadline"),
    ):
        list(ours.chat.completions.create(**ask(), stream=True))


def test_fields_that_are_unknown_here_reach_the_upstream() -> None:
    fields = {
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "stop": ["x"],
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_object"},
        "temperature": 0.5,
    }
    with served(FakeUpstream(BAD, GOOD)) as server, client(server.url) as ours:
        ours.chat.completions.create(**ask(tools=[TOOL]), **fields, extra_body={"chat_template_kwargs": {"x": 1}})
    first, second = (asked.body for asked in server.upstream.asked)
    assert {**fields, "chat_template_kwargs": {"x": 1}}.items() <= first.items()
    assert {key: value for key, value in second.items() if key != "messages"} == {
        key: value for key, value in first.items() if key != "messages"
    }


def test_plain_text_in_both_ways() -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with served(FakeUpstream(TEXT)) as server, client(server.url) as ours:
        assert ours.chat.completions.create(**plain).choices[0].message.content == "Hello there."
        server.upstream.answers = [stream(chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop"))]
        pieces = [each.choices[0].delta.content or "" for each in ours.chat.completions.create(**plain, stream=True)]
    assert pieces == ["Hel", "lo", ""]
