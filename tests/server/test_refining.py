from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fake_upstream import (
    BAD,
    BROKEN,
    GOOD,
    HANG,
    OTHER_TOOL,
    RESET,
    TEXT,
    TOOL,
    Answer,
    Asked,
    FakeUpstream,
    Served,
    answer,
    ask,
    call,
    choice,
    completion,
    http,
    served,
)

from toolrefine.server.upstream import MAX_MODELS, Upstream

ROME = {"city": "Rome"}
PARIS = answer(call(arguments={"city": "Paris"}))


def chat(server: Served, body: dict[str, Any], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=named, timeout=20)


def run(
    *answers: Answer, overrides: tuple[str, ...] = (), body: Any = None, **headers: str
) -> tuple[Any, FakeUpstream]:
    with served(FakeUpstream(*answers), *overrides) as server:
        return chat(server, body or ask(), **headers), server.upstream


def arguments_of(reply: httpx2.Response, index: int = 0) -> Any:
    return json.loads(reply.json()["choices"][index]["message"]["tool_calls"][0]["function"]["arguments"])


def outcome(reply: httpx2.Response) -> tuple[str, str, str]:
    return tuple(reply.headers[f"x-toolrefine-{name}"] for name in ("rounds", "stop-reason", "changed"))


def test_headers_of_a_server_like_this_one_give_way_to_its_own() -> None:
    body = GOOD.partition(b"\r\n\r\n")[2]
    reply, _ = run(http(body, X_Toolrefine_Rounds="7", X_Toolrefine_Id="theirs", X_Other="kept"))
    assert reply.headers.get_list("x-toolrefine-rounds") == ["0"]
    (own,) = reply.headers.get_list("x-toolrefine-id")
    assert (own != "theirs", reply.headers["x-other"]) == (True, "kept")


@pytest.mark.parametrize("draft", [GOOD, TEXT])
def test_a_draft_without_a_fault_costs_no_round_and_passes_byte_for_byte(draft: bytes) -> None:
    reply, upstream = run(draft)
    assert draft.endswith(reply.content)
    assert (outcome(reply), upstream.num_asked) == (("0", "gated", "false"), 1)


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (BAD, "required argument 'city' is missing"),
        (BROKEN, "cannot be read as calls"),
        (answer(call("nothing", ROME)), "There is no tool 'nothing'"),
        (answer(content='<tool_call>\n{"name": "find", "arguments": {"city": \n</tool_call>'), "cannot be read"),
    ],
)
def test_a_faulty_draft_is_refined_and_the_fault_is_said(draft: bytes, said: str) -> None:
    reply, upstream = run(draft, GOOD)
    assert arguments_of(reply) == ROME
    assert outcome(reply) == ("1", "gated", "true")
    first, second = (asked.body for asked in upstream.asked)
    assert second["messages"][:-2] == first["messages"]
    assert second["messages"][-2]["role"] == "assistant"
    assert said in second["messages"][-1]["content"]
    assert second["tools"] == first["tools"]


def test_usage_is_that_of_all_rounds() -> None:
    reply, _ = run(BAD, BROKEN, GOOD)
    assert reply.json()["usage"] == {"prompt_tokens": 30, "completion_tokens": 6, "total_tokens": 36}


@pytest.mark.parametrize("later", [BAD, BROKEN, answer(call("nothing"))])
def test_an_answer_with_a_fault_never_replaces_the_draft(later: bytes) -> None:
    reply, _ = run(BAD, later)
    assert arguments_of(reply) == {"limit": "many"}
    assert outcome(reply)[2] == "false"


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (http(b"{}", 500), "upstream_500"),
        (http(b"{}", 429, Retry_After="9"), "upstream_429"),
        (RESET, "upstream_connection"),
        (HANG, "deadline"),
        (http(b'{"choices": [{"ind'), "upstream_malformed"),
        (http(b"[]"), "upstream_malformed"),
        (http(b'{"choices": []}'), "upstream_malformed"),
        (http(b'{"choices": [{"message": 3}]}'), "upstream_malformed"),
        (http(b"<html>", 200, "text/html"), "upstream_malformed"),
        (http(b" " * 300_000), "upstream_too_long"),
        (b"HTTP/1.1 200 X\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{", "upstream_connection"),
    ],
)
def test_whatever_fails_in_a_later_round_the_draft_stands(later: Answer, reason: str) -> None:
    reply, _ = run(BAD, later, overrides=("limits.deadline_s=0.5", "limits.max_reply_mb=0.1"))
    assert reply.status_code == 200
    assert arguments_of(reply) == {"limit": "many"}
    assert outcome(reply) == ("1", reason, "false")


@pytest.mark.parametrize(
    "draft",
    [
        http(b"<html>", 200, "text/html"),
        http(b'{"no": "choices"}'),
        http(b'{"choices": [{"ind'),
        http(b"[" * 100_000),
        http(completion(choice(call(arguments={"limit": "x"}), content="y" * 200_000))),
        http(b"\x1f\x8b", 200, content_encoding="gzip"),
    ],
)
def test_a_draft_that_cannot_be_read_is_handed_on_as_it_is(draft: bytes) -> None:
    with served(FakeUpstream(draft), "limits.max_reply_mb=0.1") as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx2.stream("POST", url, json=ask()) as reply:
            assert draft.endswith(b"".join(reply.iter_raw()))
            assert reply.status_code == 200
    assert server.upstream.num_asked == 1


@pytest.mark.parametrize(
    ("tool_choice", "draft", "said"),
    [
        ("required", TEXT, "You must call at least one of the tools, but your answer calls none."),
        ({"type": "function", "function": {"name": "find"}}, TEXT, "You must call the tool 'find', but"),
        (
            {"type": "function", "function": {"name": "find"}},
            answer(call("other")),
            "You must call the tool 'find', not 'other'.",
        ),
    ],
)
def test_tool_choice_is_enforced(tool_choice: Any, draft: bytes, said: str) -> None:
    body = ask(tools=[OTHER_TOOL, TOOL], tool_choice=tool_choice)
    reply, upstream = run(draft, GOOD, body=body)
    assert arguments_of(reply) == ROME
    assert upstream.asked[1].body["messages"][-1]["content"].startswith(said)
    assert upstream.asked[1].body["tool_choice"] == tool_choice


def test_one_call_at_a_time_is_enforced() -> None:
    two = answer(call(arguments=ROME), call(arguments=ROME, number=1))
    reply, upstream = run(two, GOOD, body=ask(parallel_tool_calls=False))
    assert len(reply.json()["choices"][0]["message"]["tool_calls"]) == 1
    assert "not make more than one call" in upstream.asked[1].body["messages"][-1]["content"]
    assert run(two)[1].num_asked == 1


def test_each_of_several_choices_is_refined_for_itself() -> None:
    draft = http(completion(choice(call(arguments=ROME)), choice(call(arguments={"limit": 1}), index=1)))
    reply, upstream = run(draft, PARIS, body=ask(n=2))
    assert [arguments_of(reply, index) for index in (0, 1)] == [ROME, {"city": "Paris"}]
    assert [each["index"] for each in reply.json()["choices"]] == [0, 1]
    assert ("n" in upstream.asked[0].body, "n" in upstream.asked[1].body) == (True, False)
    assert outcome(reply) == ("1", "gated, gated", "true")


@pytest.mark.parametrize(("logprob", "rounds"), [(-0.01, 0), (-0.9, 1)])
@pytest.mark.parametrize("own", [True, False])
def test_an_uncertain_draft_is_refined_and_what_was_not_asked_for_is_taken_out(
    logprob: float, rounds: int, own: bool
) -> None:
    def sure(arguments: Any, logprob: float) -> bytes:
        return answer(call(arguments=arguments), logprobs={"content": [{"token": "x", "logprob": logprob}]})

    answers = (sure(ROME, logprob), sure({"city": "Paris"}, -0.01))
    body = ask(logprobs=True) if own else ask()
    reply, upstream = run(*answers, body=body, X_Toolrefine_When="uncertain")
    assert outcome(reply)[0] == str(rounds)
    assert arguments_of(reply) == ({"city": "Paris"} if rounds else ROME)
    assert all(asked.body["logprobs"] for asked in upstream.asked)
    assert bool(reply.json()["choices"][0]["logprobs"]) is own


@pytest.mark.parametrize(("logprob", "city"), [(-0.1, "Paris"), (-0.9, "Rome")])
def test_of_further_samples_the_likeliest_stands(logprob: float, city: str) -> None:
    def said(arguments: Any, *logprobs: float) -> bytes:
        tokens = [{"token": "x", "logprob": each} for each in logprobs]
        return answer(call(arguments=arguments), logprobs={"content": tokens})

    answers = (said(ROME, -0.4, -0.4), said({"city": "Paris"}, logprob, logprob))
    how = {"X_Toolrefine_When": "always", "X_Toolrefine_How": "resample", "X_Toolrefine_Accept": "likelier"}
    reply, upstream = run(*answers, X_Toolrefine_Max_Rounds="1", **how)
    assert arguments_of(reply) == {"city": city}
    assert [asked.body["logprobs"] for asked in upstream.asked] == [True, True]


def test_an_upstream_without_logprobs_is_asked_without() -> None:
    upstream = FakeUpstream(GOOD)
    upstream.behave = lambda asked: http(b"{}", 400) if asked.body.get("logprobs") else BAD
    with served(upstream, "refinement.when='uncertain'") as server:
        replies = [chat(server, ask()) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert upstream.num_asked == 3 + 2


def test_a_model_without_logprobs_takes_them_from_no_other(caplog: pytest.LogCaptureFixture) -> None:
    unsure = answer(call(arguments=ROME), logprobs={"content": [{"token": "x", "logprob": -2.0}]})

    def behave(asked: Asked) -> bytes:
        if not asked.body.get("logprobs"):
            return GOOD
        return http(b"{}", 400) if asked.body["model"] == "reasoner" else unsure

    upstream = FakeUpstream(GOOD)
    upstream.behave = behave
    with served(upstream, "refinement.when='uncertain'") as server:
        for model, rounds in [("m", "1"), ("reasoner", "0"), ("m", "1"), ("reasoner", "0"), ("m", "1")]:
            assert outcome(chat(server, ask(model=model)))[0] == rounds
    assert upstream.num_asked == 3 * 2 + 2 + 1
    assert len([record for record in caplog.records if "'reasoner'" in record.getMessage()]) == 1


def test_a_request_keeps_to_what_it_asked_for_when_another_is_refused() -> None:
    """The log-probabilities of a draft are taken out although the model has refused them to another meanwhile."""
    unsure = answer(call(arguments=ROME), logprobs={"content": [{"token": "x", "logprob": -2.0}]})
    upstream = FakeUpstream(GOOD)
    upstream.behave = lambda asked: (
        GOOD if not asked.body.get("logprobs") else http(b"{}", 400) if asked.body.get("seed") == 1 else [0.5, unsure]
    )
    with served(upstream, "refinement.when='uncertain'") as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(chat, server, ask())
        while not upstream.num_asked:
            time.sleep(0.01)
        assert chat(server, ask(seed=1)).status_code == 200
        assert slow.result().json()["choices"][0]["logprobs"] is None


def test_as_many_models_are_remembered_as_may_be() -> None:
    upstream = Upstream("http://localhost")
    for number in range(2 * MAX_MODELS):
        upstream.expect_no_logprobs(f"model {number}")
    assert upstream.may_give_logprobs("model 0")
    assert not upstream.may_give_logprobs(f"model {2 * MAX_MODELS - 1}")


def test_rounds_stop_at_an_answer_seen_before() -> None:
    reply, upstream = run(GOOD, PARIS, GOOD, PARIS, X_Toolrefine_When="always", X_Toolrefine_Max_Rounds="5")
    assert outcome(reply) == ("2", "seen_before", "false")
    assert upstream.num_asked == 3
    assert outcome(run(GOOD, GOOD, X_Toolrefine_When="always")[0]) == ("1", "unchanged", "false")


def test_another_sample_is_asked_for_where_the_draft_is_not_to_be_shown() -> None:
    body = ask(seed=5, temperature=0)
    reply, upstream = run(BAD, BROKEN, GOOD, body=body, X_Toolrefine_How="resample")
    assert arguments_of(reply) == ROME
    asked = [each.body for each in upstream.asked]
    assert [each["messages"] for each in asked] == [body["messages"]] * 3
    assert [(each["seed"], each["temperature"]) for each in asked] == [(5, 0), (6, 0.7), (7, 0.7)]


def test_another_sample_is_asked_for_with_tools_and_parameters_in_another_order() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": None}}
    body = ask(tools=[TOOL, other, {"type": "web_search"}])
    policy = ("refinement.how=resample", "refinement.shuffle=true")
    _, upstream = run(BAD, BROKEN, GOOD, body=body, overrides=policy)
    asked = [each.body["tools"] for each in upstream.asked]
    assert asked[0] == body["tools"]
    assert all(sorted(map(str, tools)) != sorted(map(str, body["tools"])) for tools in asked[1:])
    for tools in asked[1:]:
        assert tools != body["tools"]
        assert all(tool in tools for tool in body["tools"])
        assert len(tools) == 3


def test_only_requests_that_ask_for_it_are_refined_under_opt_in() -> None:
    opt_in = ("opt_in=true",)
    assert run(BAD, GOOD, overrides=opt_in)[1].num_asked == 1
    assert run(BAD, GOOD, overrides=opt_in, X_Toolrefine_Max_Rounds="1")[1].num_asked == 2
    reply, upstream = run(BAD, GOOD, overrides=opt_in, body=ask(model="m:refined"))
    assert [asked.body["model"] for asked in upstream.asked] == ["m", "m"]
    assert arguments_of(reply) == ROME
    plain = {"model": "m:refined", "messages": [{"role": "user", "content": "Hi"}]}
    assert run(TEXT, overrides=opt_in, body=plain)[1].asked[0].body["model"] == "m"


@pytest.mark.parametrize(
    ("name", "value"),
    [("Max-Rounds", "x"), ("Max-Rounds", "9"), ("When", "never"), ("Accept", ""), ("Accept", "likelier")],
)
def test_a_header_that_does_not_fit_is_refused(name: str, value: str) -> None:
    reply, upstream = run(BAD, **{f"X_Toolrefine_{name}": value})
    assert (reply.status_code, upstream.num_asked) == (400, 0)
    assert "X-Toolrefine" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "find", "arguments": {"city": "Rome"}}\n</tool_call>',
        '[find(city="Rome")]',
        '{"name": "find", "parameters": {"city": "Rome"}}',
        '[TOOL_CALLS][{"name": "find", "arguments": {"city": "Rome"}}]',
    ],
)
def test_calls_that_the_upstream_left_as_text_become_calls(text: str) -> None:
    reply, upstream = run(answer(content=text))
    assert arguments_of(reply) == ROME
    assert reply.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert upstream.num_asked == 1
    kept, _ = run(answer(content=text), overrides=("convert_text_calls=false",))
    assert kept.json()["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    "text", ["See [1] and <b>.", '{"temperature": 3}', "[a, b]", "```json\n[]\n```", "x < y", '[other(city="Rome")]']
)
def test_text_that_only_looks_a_little_like_calls_is_left_alone(text: str) -> None:
    draft = answer(content=text)
    reply, upstream = run(draft)
    assert draft.endswith(reply.content)
    assert upstream.num_asked == 1


def test_a_report_is_added_where_it_is_asked_for() -> None:
    reply, _ = run(BAD, GOOD, overrides=("report=true",))
    assert reply.json()["toolrefine"] == {"rounds": 1, "stop_reasons": ["gated"], "changed": True}


def test_tools_that_nobody_can_read_do_not_make_a_request_fail() -> None:
    odd = [{"type": "function", "function": {"name": "find", "parameters": value}} for value in ("x", 3, [1])]
    for tool in [*odd, {"type": "custom"}, 3, None]:
        reply, _ = run(GOOD, body=ask(tools=[tool]))
        assert GOOD.endswith(reply.content)


def test_metrics_and_logs_tell_what_happened_without_contents(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "toolrefine.server")
    with served(FakeUpstream(BAD, GOOD), log_requests=True) as server:
        chat(server, ask(), Authorization="Bearer secret")
        metrics = httpx2.get(f"{server.url}/metrics").text
    for line in ("rounds_total 1.0", "changed_total 1.0", 'requests_total{kind="refined",status="200"} 1.0'):
        assert f"toolrefine_{line}" in metrics
    line = json.loads(caplog.records[-1].getMessage())
    assert (line["rounds"], line["stop_reasons"], line["changed"], line["status"]) == (1, ["gated"], True, 200)
    assert not any(word in caplog.text for word in ("secret", "Rome", "Where is it"))
    with served(FakeUpstream(BAD, GOOD), log_requests=True, log_contents=True) as server:
        chat(server, ask())
    assert "Rome" in caplog.text
