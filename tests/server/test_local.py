from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn

from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines.transformers import TransformersEngine
from toolrefine.matching import schema_violation
from toolrefine.server.app import build_app
from toolrefine.server.local import LocalModel
from toolrefine.server.run import open_upstream, upstream_of
from toolrefine.server.settings import load_settings
from toolrefine.types import Checkpoint, Completion, Sample, ToolCall


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine.load(Checkpoint(model="nano"), EngineConfig(), PromptConfig())


@contextmanager
def served(engine: TransformersEngine, *overrides: str) -> Iterator[tuple[str, LocalModel]]:
    config = load_settings(None, {"model": "nano", "log_requests": False}, overrides)
    model = LocalModel(engine, "nano", max_new_tokens=64, max_wait_s=0.05)
    model._engine.close = lambda: None  # the next test needs it
    settings = uvicorn.Config(build_app(config, upstream_of(model)), port=0, log_level="critical", access_log=False)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1", model
    finally:
        server.should_exit = True
        thread.join()


def request_of(sample: Sample, **more: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": tool.model_dump()} for tool in sample.tools]
    messages = [{"role": message.role, "content": message.content} for message in sample.messages]
    return {"model": "nano", "messages": messages, "tools": tools, "temperature": 0, **more}


def chat(url: str, body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/chat/completions", json=body, timeout=60)


def test_requests_that_come_together_are_answered_in_one_batch_as_the_engine_would(
    engine: TransformersEngine, samples: list[Sample]
) -> None:
    from toolrefine.engines import SamplingParams
    from toolrefine.types import Prompt

    params = SamplingParams(temperature=0.0, max_new_tokens=64)
    prompts = [Prompt(id=sample.id, messages=sample.messages, tools=sample.tools) for sample in samples[:8]]
    expected = [group[0].calls if group[0].outcome == "calls" else () for group in engine.sample(prompts, 1, params)]
    with served(engine, "refinement.max_rounds=0") as (url, model), ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda sample: chat(url, request_of(sample)), samples[:8]))
        assert model.num_batches < 8
    for reply, calls in zip(replies, expected, strict=True):
        message = reply.json()["choices"][0]["message"]
        found = [call["function"] for call in message.get("tool_calls") or []]
        assert [(call["name"], json.loads(call["arguments"])) for call in found] == [
            (call.name, call.arguments) for call in calls
        ]


def test_the_official_client_streams_from_it(engine: TransformersEngine, samples: list[Sample]) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with served(engine) as (url, _), openai.OpenAI(base_url=url, api_key="k", _strict_response_validation=True) as ours:
        whole = ours.chat.completions.create(**request_of(samples[0]))
        options = {"stream_options": {"include_usage": True}}
        with ours.chat.completions.stream(**request_of(samples[0]), **options) as stream:
            streamed = stream.get_final_completion()
        assert [model.id for model in ours.models.list()] == ["nano"]
    calls, same_calls = (each.choices[0].message.tool_calls or [] for each in (whole, streamed))
    assert [call.function.arguments for call in calls] == [call.function.arguments for call in same_calls]
    assert whole.usage.total_tokens == streamed.usage.total_tokens > 0


def test_an_unsure_answer_is_refined(engine: TransformersEngine, samples: list[Sample]) -> None:
    with served(engine, "refinement.when='uncertain'", "refinement.min_logprob=0") as (url, _):
        reply = chat(url, request_of(samples[0]))
    assert int(reply.headers["x-toolrefine-rounds"]) >= 1


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        (("refinement.max_rounds=0",), {"constrain": True}),
        (("refinement.max_rounds=0", "refinement.constrain=true"), {}),
        (("refinement.max_rounds=1", "refinement.how='constrain'"), {}),
    ],
)
def test_answers_can_be_kept_to_their_tools(
    engine: TransformersEngine, samples: list[Sample], overrides: tuple[str, ...], own: dict[str, Any]
) -> None:
    body = request_of(samples[0], temperature=2.0, n=8, seed=1)

    def faults(reply: httpx2.Response) -> list[str | None]:
        called = [choice["message"].get("tool_calls") or [] for choice in reply.json()["choices"]]
        calls = [
            [ToolCall(**{**c["function"], "arguments": json.loads(c["function"]["arguments"])}) for c in each]
            for each in called
        ]
        return [schema_violation(each, samples[0].tools) for each in calls]

    with served(engine, "refinement.max_rounds=0") as (url, _):
        assert any(faults(chat(url, body)))
    with served(engine, *overrides) as (url, _):
        assert not any(faults(chat(url, {**body, **own})))


def test_seeds_decide_and_choices_differ(engine: TransformersEngine, samples: list[Sample]) -> None:
    body = {**request_of(samples[3], temperature=2.0, n=4, seed=7), "tool_choice": "none"}
    with served(engine) as (url, _):
        replies = [chat(url, body).json()["choices"] for _ in range(2)]
    texts = [[choice["message"] for choice in choices] for choices in replies]
    assert [m["content"] for m in texts[0]] == [m["content"] for m in texts[1]]
    assert len({str(m["content"]) for m in texts[0]}) > 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messages": []}, "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_request"),
        ({"n": 1000}, "invalid_request"),
        ({"temperature": -1}, "invalid_request"),
        ({"max_tokens": "x"}, "invalid_request"),
        ({"max_tokens": 10**6}, "context_length_exceeded"),
        ({"response_format": 3}, "invalid_request"),
        ({"stop": 3}, "invalid_request"),
    ],
)
def test_what_it_cannot_do_is_refused(
    engine: TransformersEngine, samples: list[Sample], changes: dict[str, Any], code: str
) -> None:
    with served(engine) as (url, _):
        reply = chat(url, request_of(samples[0], **changes))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}, "stream": True}, "response_format"),
    ],
)
def test_what_it_cannot_give_is_refused_by_name(
    engine: TransformersEngine, samples: list[Sample], changes: dict[str, Any], param: str
) -> None:
    with served(engine) as (url, _):
        reply = chat(url, request_of(samples[0], **changes))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported", param)
    assert error["message"].startswith(param)


@pytest.mark.parametrize("text", ['{"messages": [', '"\\ud800"', "[" * 100_000, "\x00"])
def test_a_body_that_cannot_be_read_is_refused(engine: TransformersEngine, text: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": {text}}}]}}'
    with served(engine) as (url, _):
        reply = httpx2.post(f"{url}/chat/completions", content=body.encode(), timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


def test_a_body_that_takes_long_to_read_is_refused(engine: TransformersEngine, samples: list[Sample]) -> None:
    with served(engine) as (url, _):
        reply = chat(url, request_of(samples[0], metadata=[0] * 800_000))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_values")


def test_a_conversation_is_as_long_as_the_context_allows(engine: TransformersEngine, samples: list[Sample]) -> None:
    turns = [{"role": role, "content": "x"} for _ in range(300) for role in ("user", "assistant")]
    with served(engine) as (url, _):
        reply = chat(url, request_of(samples[0], messages=[*turns, turns[0]], tools=[], max_tokens=5))
    assert reply.status_code == 200


def test_what_asks_for_nothing_is_not_refused(engine: TransformersEngine, samples: list[Sample]) -> None:
    nothing = {"logprobs": False, "top_logprobs": None, "response_format": {"type": "text"}}
    with served(engine) as (url, _):
        assert chat(url, request_of(samples[0], **nothing)).status_code == 200


def test_it_lists_its_name_with_the_suffix_where_that_asks_for_refinement(engine: TransformersEngine) -> None:
    with served(engine, "opt_in=true") as (url, _):
        assert [model["id"] for model in httpx2.get(f"{url}/models").json()["data"]] == ["nano", "nano:refined"]


def test_stop_texts_end_an_answer(engine: TransformersEngine, samples: list[Sample]) -> None:
    plain = {"model": "nano", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    with served(engine) as (url, _):
        text = chat(url, plain).json()["choices"][0]["message"]["content"]
        assert len(text) > 2
        cut = chat(url, {**plain, "stop": text[2:4]}).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (text[:2], "stop")


@pytest.mark.parametrize("changes", [{"tool_choice": "none"}, {"tools": None}, {"tools": []}])
@pytest.mark.parametrize(("truncated", "finish_reason"), [(False, "stop"), (True, "length")])
def test_calls_that_nobody_allows_are_text(
    engine: TransformersEngine,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    truncated: bool,
    finish_reason: str,
) -> None:
    sample, text = engine.sample, '[find(city="Rome")]'
    parsed = engine.chat.parse(text, truncated)
    drawn = {"text": text, "calls": parsed.calls, "outcome": parsed.outcome}
    monkeypatch.setattr(engine, "sample", lambda *asked: [[sample(*asked)[0][0].model_copy(update=drawn)]])
    with served(engine) as (url, _):
        whole = chat(url, request_of(samples[0], **changes)).json()["choices"][0]
        events = chat(url, request_of(samples[0], stream=True, **changes)).text.split("\n\n")
        allowed = chat(url, request_of(samples[0])).json()["choices"][0]["message"]
    assert whole["message"] == {"role": "assistant", "content": text}
    assert whole["finish_reason"] == finish_reason
    parts = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events if "choices" in event]
    assert "".join(part["delta"].get("content") or "" for part in parts) == text
    assert not any("tool_calls" in part["delta"] for part in parts)
    assert parts[-1]["finish_reason"] == finish_reason
    assert truncated or allowed["tool_calls"][0]["function"]["name"] == "find"


def test_a_list_that_is_not_one_of_calls_is_a_fault_where_the_models_format_is_known(
    engine: TransformersEngine, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(['[sart_ladle="kick")]', "[]"])
    sample = engine.sample

    def answer(*arguments: Any) -> list[list[Completion]]:
        [[drawn]] = sample(*arguments)
        text = next(texts)
        parsed = engine.chat.parse(text)
        return [[drawn.model_copy(update={"text": text, "calls": parsed.calls, "outcome": parsed.outcome})]]

    monkeypatch.setattr(engine, "sample", answer)
    with served(engine, "refinement.how=resample", "refinement.max_rounds=1", "report=true") as (url, _):
        reply = chat(url, request_of(samples[0])).json()
    assert reply["toolrefine"]["rounds"] == 1
    assert reply["choices"][0]["message"]["content"] == "[]"


def test_a_model_is_loaded_as_the_command_line_names_it() -> None:
    upstream = open_upstream(load_settings(None, {"model": "nano"}))
    assert (upstream.gives_logprobs, upstream.call_format) == (False, "pythonic")
    asyncio.run(upstream.close())
