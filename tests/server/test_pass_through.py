from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from fake_upstream import (
    BAD,
    DONE,
    GOOD,
    HANG,
    RESET,
    TEXT,
    Answer,
    FakeUpstream,
    Served,
    ask,
    chunk,
    http,
    served,
    stream,
)

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "unknown_field": {"x": [1.50, None]}}


def chat(server: Served, body: Any = PLAIN, **options: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=20, **options)


@pytest.mark.parametrize("body", [PLAIN, {**PLAIN, "stream": False}, ask(tool_choice="none"), ask(tools=[]), [1], "x"])
def test_what_is_not_refined_passes_byte_for_byte_in_both_directions(body: Any) -> None:
    raw = json.dumps(body, indent=3).encode()
    with served(FakeUpstream(http(b'{ "odd" :  1}', 200, X_Trace="7"))) as server:
        reply = httpx2.post(
            f"{server.url}/v1/chat/completions?a=%20b", content=raw, headers={"X-Own": "1", "Authorization": "Bearer k"}
        )
    asked = server.upstream.asked[0]
    assert (asked.raw, asked.path) == (raw, "/v1/chat/completions?a=%20b")
    assert (asked.headers["x-own"], asked.headers["authorization"]) == ("1", "Bearer k")
    assert asked.headers["host"] in server.config.upstream
    assert (reply.content, reply.headers["x-trace"]) == (b'{ "odd" :  1}', "7")
    assert "x-toolrefine-rounds" not in reply.headers


@pytest.mark.parametrize("headers", [{"X-Toolrefine-Max-Rounds": "0"}, {}])
def test_no_rounds_is_a_pure_pass_through(headers: dict[str, str]) -> None:
    overrides = [] if headers else ["refinement.max_rounds=0"]
    with served(FakeUpstream(BAD), *overrides) as server:
        reply = chat(server, ask(), headers=headers)
    assert BAD.endswith(reply.content)
    assert not [name for name in server.upstream.asked[0].headers if name.startswith("x-toolrefine")]
    assert len(server.upstream.asked) == 1


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("POST", "/v1/embeddings"), ("DELETE", "/v1/files/a%2Fb?x=1")]
)
def test_other_paths_pass_through(method: str, path: str) -> None:
    with served(FakeUpstream(http(b"gone", 410, "text/plain"))) as server:
        reply = httpx2.request(method, server.url + path, content=b"abc")
    asked = server.upstream.asked[0]
    assert (reply.status_code, reply.text) == (410, "gone")
    assert (asked.method, asked.path, asked.raw) == (method, path, b"abc")


MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "x"}, {"id": "a/b", "created": 1}, {"id": 3}, "odd"]}


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", [PLAIN, ask()])
def test_an_answer_without_the_body_whose_length_it_tells_costs_no_connection(status: int, body: Any) -> None:
    answer = b"HTTP/1.1 %d X\r\ncontent-length: 50\r\n\r\n" % status
    with served(FakeUpstream(answer)) as server, httpx2.Client() as client:
        reply = client.post(f"{server.url}/v1/chat/completions", json=body)
        assert (reply.status_code, "content-length" in reply.headers) == (status, False)
        assert client.get(f"{server.url}/health").status_code == 200


def test_models_are_listed_with_the_names_that_ask_for_refinement() -> None:
    with served(FakeUpstream(http(json.dumps(MODELS).encode(), X_Trace="7")), "opt_in=true") as server:
        reply = httpx2.get(f"{server.url}/v1/models?limit=9", headers={"Accept-Encoding": "gzip"})
    asked = server.upstream.asked[0]
    assert (asked.path, asked.headers["accept-encoding"]) == ("/v1/models?limit=9", "identity")
    assert (reply.status_code, reply.headers["x-trace"], reply.json()["object"]) == (200, "7", "list")
    assert reply.json()["data"] == [
        {"id": "m", "owned_by": "x"},
        {"id": "m:refined", "owned_by": "x"},
        {"id": "a/b", "created": 1},
        {"id": "a/b:refined", "created": 1},
        {"id": 3},
        "odd",
    ]


@pytest.mark.parametrize(
    ("body", "overrides"),
    [
        (json.dumps(MODELS, indent=1).encode(), []),
        (json.dumps(MODELS, indent=1).encode(), ["opt_in=true", "refinement.max_rounds=0"]),
        (b'{"data":  "m"}', ["opt_in=true"]),
        (b'[ "m"]', ["opt_in=true"]),
        (b'{"data": [' + b" " * 200_000 + b"]}", ["opt_in=true", "limits.max_reply_mb=0.1"]),
    ],
)
def test_models_pass_where_the_suffix_does_nothing_or_there_is_no_list(body: bytes, overrides: list[str]) -> None:
    with served(FakeUpstream(http(body)), *overrides) as server:
        assert httpx2.get(f"{server.url}/v1/models").content == body


def test_models_of_an_upstream_that_fails_are_its_error() -> None:
    with served(FakeUpstream(http(b"{}", 401)), "opt_in=true") as server:
        assert httpx2.get(f"{server.url}/v1/models").status_code == 401
        server.upstream.answers = [RESET]
        assert httpx2.get(f"{server.url}/v1/models").status_code == 502


@pytest.mark.parametrize(
    "path", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/%252e%252e/admin", "/admin"]
)
def test_no_path_leads_out_of_v1(path: str) -> None:
    with served(FakeUpstream(TEXT)) as server:
        connection = httpx2.HTTPTransport()
        url = httpx2.URL(server.url).copy_with(raw_path=path.encode())
        reply = connection.handle_request(httpx2.Request("GET", url))
        connection.close()
    assert (reply.status_code, server.upstream.asked) == (404, [])


def test_no_header_redirects_a_request() -> None:
    with served(FakeUpstream(http(b"", 302, location="http://127.0.0.1:1/v1"))) as server:
        reply = chat(server, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    assert reply.status_code == 302
    assert server.upstream.asked[0].headers["host"] in server.config.upstream


def test_a_stream_without_tools_arrives_as_it_comes() -> None:
    events = [chunk({"content": "a"}), b": ping\n\n", b"data: not JSON\n\n", chunk({"content": "b"})]
    times = []
    with (
        served(FakeUpstream(stream(*events[:2], 0.3, *events[2:]))) as server,
        httpx2.stream("POST", f"{server.url}/v1/chat/completions", json={**PLAIN, "stream": True}) as reply,
    ):
        text = b""
        for piece in reply.iter_raw():
            times.append(time.monotonic())
            text += piece
    assert text == b"".join([*events, DONE])
    assert times[-1] - times[0] > 0.25


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (http(b'{"error": "no"}', 500), 500, None),
        (http(b'{"error": "no"}', 429, Retry_After="7"), 429, None),
        (RESET, 502, "upstream_connection"),
        (b"HTTP/1.1 200 X\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{", 502, "upstream_connection"),
        (b"nonsense\r\n\r\n", 502, "upstream_connection"),
        (HANG, 504, "upstream_timeout"),
    ],
)
def test_an_upstream_that_fails_is_answered_as_documented(answer: Answer, status: int, code: str | None) -> None:
    with served(FakeUpstream(answer), "limits.deadline_s=0.4") as server:
        reply = chat(server, ask())
    assert reply.status_code == status
    assert code is None or reply.json()["error"]["code"] == code
    assert status != 429 or reply.headers["retry-after"] == "7"


def test_an_upstream_that_is_not_there_is_a_bad_gateway() -> None:
    with served(FakeUpstream(TEXT), url="http://127.0.0.1:1/v1") as server:
        reply = chat(server)
    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "server_error")


def test_an_answer_that_breaks_off_is_seen_to_by_the_client() -> None:
    broken = b"HTTP/1.1 200 X\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{"
    with served(FakeUpstream(broken)) as server, pytest.raises(httpx2.RemoteProtocolError):
        chat(server)


def test_a_long_body_is_refused() -> None:
    with served(FakeUpstream(TEXT), "limits.max_body_mb=0.01") as server:
        whole = chat(server, {**PLAIN, "pad": "x" * 20_000})
        pieces = httpx2.post(f"{server.url}/v1/chat/completions", content=iter([b"x" * 6000] * 3))
        after = chat(server)
    assert (whole.status_code, pieces.status_code, after.status_code) == (413, 413, 200)
    assert whole.json()["error"]["code"] == "body_too_large"


def test_beyond_the_queue_requests_are_sent_away_and_the_others_answered() -> None:
    limits = ["limits.max_concurrency=2", "limits.max_queue=3"]
    with served(FakeUpstream([0.3, TEXT]), *limits) as server, ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: chat(server, ask()), range(12)))
        again = chat(server)
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200] * 5 + [429] * 7
    assert all(reply.headers["retry-after"] == "1" for reply in replies if reply.status_code == 429)
    assert again.status_code == 200


@pytest.mark.parametrize("body", [PLAIN, ask(), ask(stream=True)])
def test_a_client_that_goes_away_ends_the_work_of_the_upstream(body: dict[str, Any]) -> None:
    upstream = FakeUpstream(HANG)
    with served(upstream, "limits.max_concurrency=1") as server:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.2)
        until = time.monotonic() + 5
        while not upstream.num_broken_off and time.monotonic() < until:
            time.sleep(0.01)
        upstream.answers = [TEXT]
        reply = chat(server)
        metrics = httpx2.get(f"{server.url}/metrics").text
    assert upstream.num_broken_off == 1
    assert reply.status_code == 200
    assert "toolrefine_disconnects_total 1.0" in metrics


def test_requests_at_work_end_before_the_server_does() -> None:
    replies: list[httpx2.Response] = []
    with served(FakeUpstream([0.5, GOOD])) as server:
        client = threading.Thread(target=lambda: replies.append(chat(server, ask())))
        client.start()
        time.sleep(0.2)
    client.join()
    assert replies[0].status_code == 200


def test_keys_guard_the_server_and_are_not_handed_on() -> None:
    keys = {"api_key": "ours", "upstream_key": "theirs"}
    with served(FakeUpstream(TEXT), **keys) as server:
        replies = [
            chat(server, headers={"Authorization": value} if value else {})
            for value in ("", "Bearer wrong", "Bearer ours", "Basic ours")
        ]
        health = httpx2.get(f"{server.url}/health")
    assert [reply.status_code for reply in replies] == [401, 401, 200, 401]
    assert [asked.headers["authorization"] for asked in server.upstream.asked] == ["Bearer theirs"]
    assert health.json() == {"status": "ok"}
    assert "ours" not in repr(server.config) + str(server.config)


def test_without_a_key_of_the_upstream_the_servers_own_is_not_handed_on() -> None:
    with served(FakeUpstream(TEXT), api_key="ours") as server:
        chat(server, headers={"Authorization": "Bearer ours"})
    assert "authorization" not in server.upstream.asked[0].headers
