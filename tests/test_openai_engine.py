"""The engine for OpenAI-compatible servers, against one with the faults of real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from fake_server import CALL, fake_server
from transformers.utils.import_utils import is_serve_available
from typer.testing import CliRunner

from toolrefine.cli import app
from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.engines import SamplingParams, open_engine
from toolrefine.engines.openai import OpenAIEngine
from toolrefine.errors import ConfigError, RequestError, WorkError
from toolrefine.rollout import to_prompt
from toolrefine.types import Checkpoint, Completion, Outcome, Sample

PARAMS = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=32, seed=4)
NANO = Checkpoint(model="nano")


def config(url: str, **changes: Any) -> EngineConfig:
    return EngineConfig(**{"kind": "openai", "base_url": url, "served_model": "nano", "retry_pause_s": 0.01, **changes})


def sample(url: str, samples: list[Sample], n: int = 2, **changes: Any) -> list[list[Completion]]:
    with open_engine(NANO, config(url, **changes), PromptConfig()) as engine:
        return engine.sample([to_prompt(one) for one in samples], n, PARAMS)


def test_tokens_are_what_training_sees(samples: list[Sample]) -> None:
    with fake_server() as (server, url):
        answers = sample(url, samples[:3])
        chat = OpenAIEngine.load(NANO, config(url), PromptConfig()).chat
    assert [len(group) for group in answers] == [2, 2, 2]
    first = answers[0][0]
    assert (first.text, first.outcome, first.num_tokens) == (CALL, Outcome.CALLS, 3)
    assert first.calls[0].arguments == {"city": "Zürich"}
    assert first.mean_logprob == -0.25
    asked = {tuple(body["prompt"]) for body in server.bodies}
    assert asked == {tuple(chat.prompt_ids(one.messages, one.tools)) for one in samples[:3]}
    body = server.bodies[0]
    assert (body["n"], body["max_tokens"], body["temperature"], body["top_p"]) == (2, 32, 0.7, 0.9)
    assert len({body["seed"] for body in server.bodies}) == 3


@pytest.mark.parametrize(("ways", "way"), [(("text", "chat"), "text"), (("chat",), "chat")])
def test_the_first_way_that_the_server_understands_is_taken(
    samples: list[Sample], ways: tuple[str, ...], way: str
) -> None:
    with fake_server(ways=ways, gives_logprobs=False) as (server, url):
        answers = sample(url, samples[:4])
    assert all(completion.text == CALL for group in answers for completion in group)
    assert all(completion.mean_logprob is None for group in answers for completion in group)
    assert answers[0][0].num_tokens > 3  # counted by our own tokenizer: two completions share the usage
    paths = [body["path"] for body in server.bodies[-4:]]
    assert paths == ["/v1/chat/completions" if way == "chat" else "/v1/completions"] * 4


def test_calls_that_the_server_has_parsed(samples: list[Sample]) -> None:
    with fake_server(parses_calls=True) as (_, url):
        [[answer]] = sample(url, samples[:1], n=1, api="chat")
    assert (answer.outcome, answer.text, answer.num_tokens) == (Outcome.CALLS, CALL, 3)


def test_a_server_that_gives_one_completion_is_asked_again(samples: list[Sample]) -> None:
    with fake_server(max_n=1) as (server, url):
        answers = sample(url, samples[:2], n=5)
    assert [len(group) for group in answers] == [5, 5]
    assert len({body["seed"] for body in server.bodies}) == 10


def test_an_answer_at_the_limit_is_truncated(samples: list[Sample]) -> None:
    with fake_server(finish_reason="length", text='[find(city="Zürich"), find(') as (_, url):
        [[answer]] = sample(url, samples[:1], n=1)
    assert (answer.outcome, len(answer.calls)) == (Outcome.TRUNCATED, 1)


def test_what_may_pass_is_tried_again(samples: list[Sample]) -> None:
    with fake_server(faults=[429, 500, "drop", 503]) as (server, url):
        engine = OpenAIEngine.load(NANO, config(url, concurrency=2), PromptConfig())
        answers = engine.sample([to_prompt(one) for one in samples[:6]], 1, PARAMS)
        engine.close()
    assert [group[0].text for group in answers] == [CALL] * 6
    assert engine.usage == {"requests": 6, "retries": 4, "prompt_tokens": 42, "completion_tokens": 18}
    assert server.most_open <= 2


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ([500] * 20, WorkError, "no answer in 3 attempts.*goes on from here"),
        ([401], RequestError, "refuses: 401"),
        ([400] * 3, RequestError, "answers in no way: tokens: 400.*text: 400.*chat: 400"),
        (["<html>"], WorkError, "no JSON object"),
        (['{"choices": []}'], WorkError, "without choices"),
    ],
)
def test_what_does_not_pass_is_one_clear_sentence(
    samples: list[Sample], faults: list[int | str], error: type[Exception], words: str
) -> None:
    with fake_server(faults=faults) as (_, url), pytest.raises(error, match=words):
        sample(url, samples[:1], max_retries=2)


def test_a_server_of_another_model_is_refused(samples: list[Sample]) -> None:
    with fake_server(model="other") as (_, url), pytest.raises(RequestError, match=r"serves other.*engine\.launch"):
        sample(url, samples[:1], served_model="")


def test_no_server_is_one_clear_sentence(samples: list[Sample]) -> None:
    with pytest.raises(WorkError, match="cannot be asked"):
        sample("http://127.0.0.1:9", samples[:1], served_model="")
    with pytest.raises(ConfigError, match=r"engine\.base_url: missing"):
        sample("", samples[:1])


def test_the_key_goes_with_every_request(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with fake_server() as (server, url):
        sample(url, samples[:2], api_key_env="SOME_KEY")
    assert {body["key"] for body in server.bodies} == {"Bearer secret"}


FAKE = f"{sys.executable} {REPO / 'tests' / 'fake_server.py'} --model {{model}} --port {{port}}"


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def launched(tmp_path: Path, options: str = "") -> EngineConfig:
    log = str(tmp_path / "server.log")
    return EngineConfig(kind="openai", launch=FAKE + options, launch_log=log, launch_s=30)


def test_a_launched_server_serves_the_checkpoint_and_is_stopped(tmp_path: Path, samples: list[Sample]) -> None:
    pids = tmp_path / "pids"
    with open_engine(NANO, launched(tmp_path, f" --pids {pids}"), PromptConfig()) as engine:
        [[answer]] = engine.sample([to_prompt(samples[0])], 1, PARAMS)
        assert answer.text == CALL
        pid = int(pids.read_text())
        assert is_alive(pid)
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (" --fail", WorkError, "status 1.*no memory left"),
        (" {folder}", ConfigError, "'folder'; use {model} and {port}"),
    ],
)
def test_a_server_that_does_not_start(
    tmp_path: Path, samples: list[Sample], options: str, error: type[Exception], words: str
) -> None:
    with (
        pytest.raises(error, match=f"(?s){words}"),
        open_engine(NANO, launched(tmp_path, options), PromptConfig()) as engine,
    ):
        engine.sample([to_prompt(samples[0])], 1, PARAMS)


def test_a_command_that_is_not_there(tmp_path: Path, samples: list[Sample]) -> None:
    settings = EngineConfig(kind="openai", launch="no-such-server {port}", launch_log=str(tmp_path / "log"))
    with (
        pytest.raises(ConfigError, match="no-such-server cannot be started"),
        open_engine(NANO, settings, PromptConfig()) as engine,
    ):
        engine.sample([to_prompt(samples[0])], 1, PARAMS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_the_server_ends_when_we_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from toolrefine.config import EngineConfig\n"
        "from toolrefine.engines.launch import launch\n"
        "from toolrefine.types import Checkpoint\n"
        f"launch(Checkpoint(model='nano'), EngineConfig.model_validate_json({launched(tmp_path, f' --pids {pids}').model_dump_json()!r}))\n"  # noqa: E501
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = int(pids.read_text())
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(pid)


def test_evaluate_asks_a_server() -> None:
    with fake_server(text="no") as (server, url):
        arguments = ["evaluate", "museum", "--format", "toolworld", "--limit", "10", "--model", "nano", "--json"]
        result = CliRunner().invoke(app, [*arguments, "--server", url, "--max-new-tokens", "16"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["arms"][0]["n"] == 10
    assert len(server.bodies) == 10


@pytest.mark.e2e
@pytest.mark.skipif(not is_serve_available(), reason="transformers serve is not installed (transformers[serving])")
def test_nano_behind_transformers_serve_answers_as_it_does_here(tmp_path: Path, samples: list[Sample]) -> None:
    prompts, params = [to_prompt(one) for one in samples[:12]], SamplingParams(temperature=0.0, max_new_tokens=64)
    serve = f"{Path(sys.executable).parent / 'transformers'} serve {{model}} --port {{port}} --device cpu"
    settings = EngineConfig(kind="openai", launch=serve, launch_log=str(tmp_path / "log"), launch_s=120, concurrency=2)
    with open_engine(NANO, settings, PromptConfig()) as engine:
        served = engine.sample(prompts, 1, params)
    with open_engine(NANO, EngineConfig(device="cpu"), PromptConfig()) as engine:
        here = engine.sample(prompts, 1, params)
    assert [group[0].text for group in served] == [group[0].text for group in here]
    assert [group[0].calls for group in served] == [group[0].calls for group in here]
