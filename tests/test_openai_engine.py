"""The engine for OpenAI-compatible servers, against one with the faults of real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from fake_server import CALL, Fault, fake_server
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.import_utils import is_serve_available
from typer.testing import CliRunner

from toolrefine.cli import app
from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig, RolloutConfig
from toolrefine.engines import SamplingParams, open_engine, wave_sizes
from toolrefine.engines.openai import OpenAIEngine
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import ConfigError, RequestError, RunDirError, WorkError
from toolrefine.evaluate import evaluate
from toolrefine.rollout import rollout, to_prompt
from toolrefine.rundir import ROLLOUTS, RunDir
from toolrefine.types import Checkpoint, Completion, EvalItem, Message, Outcome, Prompt, Sample

PARAMS = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=32, seed=4)
NANO = Checkpoint(model="nano")


def said_by_seed(body: dict[str, Any]) -> str:
    return f"[find(number={body['seed']})]"


def config(url: str, **changes: Any) -> EngineConfig:
    return EngineConfig(**{"kind": "openai", "base_url": url, "served_model": "nano", "retry_pause_s": 0.01, **changes})


def sample(url: str, samples: Sequence[Sample], n: int = 2, **changes: Any) -> list[list[Completion]]:
    with open_engine(NANO, config(url, **changes), PromptConfig()) as engine:
        return engine.sample([to_prompt(one) for one in samples], n, PARAMS)


def load(url: str, model: Checkpoint = NANO, **changes: Any) -> OpenAIEngine:
    return OpenAIEngine.load(model, config(url, **changes), PromptConfig())


def test_tokens_are_what_training_sees(samples: list[Sample]) -> None:
    with fake_server() as (server, url):
        answers = sample(url, samples[:3])
        chat = load(url).chat
    assert [len(group) for group in answers] == [2, 2, 2]
    first = answers[0][0]
    assert (first.text, first.outcome, first.num_tokens) == (CALL, Outcome.CALLS, 3)
    assert first.calls[0].arguments == {"city": "Zürich"}
    assert first.mean_logprob == -0.25
    asked = {tuple(body["prompt"]) for body in server.bodies}
    assert asked == {tuple(chat.prompt_ids(one.messages, one.tools)) for one in samples[:3]}
    body = server.bodies[0]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (32, 0.7, 0.9)


@pytest.mark.parametrize(("ways", "way"), [(("text", "chat"), "text"), (("chat",), "chat")])
def test_the_first_way_that_the_server_understands_is_taken(
    samples: list[Sample], ways: tuple[str, ...], way: str
) -> None:
    with fake_server(ways=ways, gives_logprobs=False) as (server, url):
        answers = sample(url, samples[:4])
    assert all(completion.text == CALL for group in answers for completion in group)
    assert all(completion.mean_logprob is None for group in answers for completion in group)
    assert answers[0][0].num_tokens == 3
    paths = [body["path"] for body in server.bodies[-4:]]
    assert paths == ["/v1/chat/completions" if way == "chat" else "/v1/completions"] * 4


def test_calls_that_the_server_has_parsed(samples: list[Sample]) -> None:
    with fake_server(parses_calls=True) as (_, url):
        [[answer]] = sample(url, samples[:1], n=1, api="chat")
    assert (answer.outcome, answer.text, answer.num_tokens) == (Outcome.CALLS, CALL, 3)


def test_every_completion_is_a_request_with_its_own_seed(samples: list[Sample]) -> None:
    with fake_server(text_of=said_by_seed) as (server, url):
        few, many = sample(url, samples[:3], n=2), sample(url, samples[:3], n=5)
    assert [len(group) for group in many] == [5, 5, 5]
    assert [group[:2] for group in many] == few
    assert len({body["seed"] for body in server.bodies}) == 15
    assert all("n" not in body for body in server.bodies)


def test_an_answer_at_the_limit_is_truncated(samples: list[Sample]) -> None:
    with fake_server(finish_reason="length", text='[find(city="Zürich"), find(') as (_, url):
        [[answer]] = sample(url, samples[:1], n=1)
    assert (answer.outcome, len(answer.calls)) == (Outcome.TRUNCATED, 1)


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ({"content": "half a character: \ud83d"}, Outcome.NO_CALL),
        ({"tool_calls": [{"function": {"name": "find", "arguments": {"city": "\ud83d"}}}]}, Outcome.MALFORMED),
        ({"tool_calls": [{"function": {"name": "find", "arguments": "[1]"}}]}, Outcome.MALFORMED),
        ({"tool_calls": [{"function": None}]}, Outcome.MALFORMED),
    ],
)
def test_whatever_a_server_says_can_be_written(
    tmp_path: Path, samples: list[Sample], message: dict[str, Any], outcome: Outcome
) -> None:
    with fake_server(faults=[json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})]) as (_, url):
        [[answer]] = sample(url, samples[:1], n=1, api="chat", answers=str(tmp_path / "answers"))
    assert answer.outcome is outcome
    assert (tmp_path / "answers").exists()


def test_what_may_pass_is_tried_again(samples: list[Sample]) -> None:
    with fake_server(faults=[429, 500, "drop", 503]) as (server, url):
        engine = load(url, concurrency=2)
        answers = engine.sample([to_prompt(one) for one in samples[:6]], 1, PARAMS)
        engine.close()
    assert [group[0].text for group in answers] == [CALL] * 6
    found = {name: count for name, count in engine.usage.items() if count}
    assert found == {"requests": 6, "retries": 4, "prompt_tokens": 42, "completion_tokens": 18}
    assert server.most_open <= 2


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ([500] * 20, WorkError, "no answer in 3 attempts.*goes on from here"),
        ([401], RequestError, "refuses toolworld-museum-3-0: 401"),
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


@pytest.mark.parametrize(
    "reply",
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (400, '{"error": {"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096}}'),
        (413, '{"error": {"message": "no", "code": "context_length_exceeded"}}'),
    ],
)
def test_a_prompt_that_is_too_long_for_the_server_is_data(samples: list[Sample], reply: Fault) -> None:
    with fake_server(faults=[reply, None, reply]) as (server, url):
        engine = load(url, concurrency=1)
        answers = engine.sample([to_prompt(one) for one in samples[:4]], 1, PARAMS)
        engine.close()
    no_room, answered = Outcome.TRUNCATED, Outcome.CALLS
    assert [group[0].outcome for group in answers] == [no_room, answered, no_room, answered]
    assert (answers[0][0].text, answers[0][0].num_tokens) == ("", 0)
    assert (len(server.bodies), engine.usage["too_long"]) == (4, 2)


def test_a_refused_prompt_stops_the_work_or_is_passed_over(samples: list[Sample]) -> None:
    prompts = [to_prompt(one) for one in samples[:3]]
    with fake_server(faults=[None, (400, "a forbidden word")]) as (_, url):
        engine = load(url, concurrency=1)
        with pytest.raises(RequestError, match=r"a forbidden word; engine\.refused=skip"):
            engine.sample(prompts, 1, PARAMS)
        engine.close()
    with fake_server(faults=[None, (400, "a forbidden word")]) as (_, url):
        engine = load(url, concurrency=1, refused="skip")
        answers = engine.sample(prompts, 1, PARAMS)
        engine.close()
    assert [group[0].had_no_room for group in answers] == [False, True, False]
    assert engine.usage["refused"] == 1


def test_waves_grow_to_what_they_may_sum_to() -> None:
    assert wave_sizes(1) == [1]
    assert wave_sizes(5) == [1, 1, 2, 1]
    assert wave_sizes(8) == [1, 1, 2, 4]
    assert wave_sizes(100) == [1, 1, 2, 4, 8, 16, 32, 36]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 12))
def test_a_prompt_ends_with_the_wave_that_solves_it(solved_at: list[int], n: int) -> None:
    prompts = [Prompt(id=str(place), messages=(), tools=()) for place in range(len(solved_at))]
    engine = ScriptedEngine(lambda prompt, index: f"{prompt.id}: {index}")
    every = engine.sample(prompts, n, PARAMS)
    groups = engine.sample(prompts, n, PARAMS, lambda place, index, _: index == solved_at[place])
    ends = [sum(wave_sizes(n)[:wave]) for wave in range(1, len(wave_sizes(n)) + 1)]
    for place, group in enumerate(groups):
        assert group == every[place][: len(group)]
        assert len(group) == next((end for end in ends if solved_at[place] < end), n)


def test_waves_at_a_server_give_the_beginning_of_all_completions(samples: list[Sample]) -> None:
    prompts = [to_prompt(one) for one in samples[:12]]
    with fake_server(text_of=said_by_seed) as (server, url):
        every = load(url).sample(prompts, 8, PARAMS)
        server.bodies.clear()

        def solves(place: int, index: int, completion: Completion) -> bool:
            assert completion == every[place][index]
            return completion.calls[0].arguments["number"] % 3 == 0

        groups = load(url).sample(prompts, 8, PARAMS, solves)
    for place, group in enumerate(groups):
        first = next((index for index, one in enumerate(every[place]) if solves(place, index, one)), 7)
        assert group == every[place][: next(size for size in (1, 2, 4, 8) if first < size)]
    assert len(server.bodies) == sum(map(len, groups)) < 12 * 8


@pytest.mark.parametrize(("max_choices", "num_requests"), [(128, 3), (1, 8), (3, 4)])
def test_a_request_may_ask_for_several_completions(samples: list[Sample], max_choices: int, num_requests: int) -> None:
    with fake_server(max_choices=max_choices, gives_logprobs=False) as (server, url):
        engine = load(url, completions_per_request=4)
        (group,) = engine.sample([to_prompt(samples[0])], 8, PARAMS)
    assert [(c.text, len(c.calls)) for c in group] == [(CALL, 1)] * 8
    assert len(server.bodies) == num_requests
    assert len({body["seed"] for body in server.bodies}) == num_requests
    assert engine.usage["completion_tokens"] == 24


def test_the_waves_of_one_prompt_wait_for_no_other(samples: list[Sample]) -> None:
    answered = threading.Event()

    def text_of(body: dict[str, Any]) -> str:
        if body["prompt"] == slow:
            assert answered.wait(10)
        elif len(server.bodies) == 1 + 2 * 8:
            answered.set()
        return CALL

    with fake_server() as (server, url):
        engine = load(url)
        slow = engine.chat.prompt_ids(samples[1].messages, samples[1].tools)
        server.text_of = text_of
        groups = engine.sample(
            [to_prompt(one) for one in samples[:3]], 8, PARAMS, lambda place, index, completion: place == 1
        )
    assert [len(group) for group in groups] == [8, 1, 8]


def refused(number: int, samples: Sequence[Sample]) -> dict[str, Any]:
    """Behaviour of a server that answers by seed, but refuses this sample."""
    question = samples[number].messages[-1].content
    return {
        "ways": ("chat",),
        "text_of": said_by_seed,
        "fault_of": lambda body: 403 if body["messages"][-1]["content"] == question else None,
    }


@pytest.mark.parametrize("concurrency", [1, 3, 32])
@pytest.mark.parametrize("keeps_file", [True, False])
def test_a_failed_call_is_asked_for_its_rest_alone(
    tmp_path: Path, samples: list[Sample], concurrency: int, keeps_file: bool
) -> None:
    changes = {"api": "chat", "concurrency": concurrency, "answers": str(tmp_path / "answers") if keeps_file else ""}
    prompts = [to_prompt(one) for one in samples[:6]]
    with fake_server(**refused(3, samples)) as (server, url):
        engine = load(url, **changes)
        with pytest.raises(RequestError, match=f"refuses {prompts[3].id}: 403"):
            engine.sample(prompts, 3, PARAMS)
        num_answered = sum(body["messages"][-1]["content"] != samples[3].messages[-1].content for body in server.bodies)
        assert num_answered >= 9
        server.bodies.clear()
        server.fault_of = lambda body: None
        answers = (load(url, **changes) if keeps_file else engine).sample(prompts, 3, PARAMS)
        assert len(server.bodies) == 18 - num_answered
        assert answers == sample(url, samples[:6], 3, api="chat")


def test_answers_are_for_the_same_question_alone(tmp_path: Path, samples: list[Sample]) -> None:
    changes = {"answers": str(tmp_path / "answers")}
    prompts = [to_prompt(one) for one in samples[:3]]
    with fake_server() as (server, url):

        def num_asked(engine: OpenAIEngine, prompts: list[Prompt], params: SamplingParams = PARAMS, n: int = 2) -> int:
            server.bodies.clear()
            assert [len(group) for group in engine.sample(prompts, n, params)] == [n] * len(prompts)
            return len(server.bodies)

        assert num_asked(load(url, **changes), prompts) == 6
        assert num_asked(load(url, **changes), prompts) == 0
        assert num_asked(load(url, **changes), prompts, n=1) == 0
        assert num_asked(load(url, **changes), prompts, n=3) == 3
        assert num_asked(load(url, **changes), prompts, PARAMS.model_copy(update={"seed": 5})) == 6
        assert num_asked(load(url, Checkpoint(model="nano", iteration=1), **changes), prompts) == 6
        changed = prompts[0].model_copy(update={"messages": prompts[1].messages})
        assert num_asked(load(url, **changes), [changed]) == 2
        load(url, **changes).forget()
        assert num_asked(load(url, **changes), prompts[1:]) == 4


@pytest.mark.parametrize("how", ["ask", "resample"])
def test_refinement_that_fails_asks_for_the_rest_alone(tmp_path: Path, samples: list[Sample], how: Any) -> None:
    settings = RefinementConfig(max_rounds=2, how=how, accept="valid")

    def run() -> list[list[EvalItem]]:
        engine = load(url, concurrency=1, answers=str(tmp_path / "answers"))
        return [*evaluate(0, 4, engine, samples[:4], settings, PromptConfig(), max_new_tokens=40)]

    with fake_server(text_of=said_by_seed) as (server, url):
        whole = run()
        num_asked = len(server.bodies)
        for _ in range(2):
            server.bodies.clear()
            server.fault_of = lambda body: 403 if len(server.bodies) >= 5 else None
            with pytest.raises(RequestError):
                run()
        server.bodies.clear()
        server.fault_of = lambda body: None
        assert run() == whole
    assert len(server.bodies) == num_asked - 10


def test_a_torn_last_line_is_cut_off(tmp_path: Path, samples: list[Sample]) -> None:
    path = tmp_path / "folder" / "answers"
    with fake_server(text_of=said_by_seed) as (server, url):
        answers = sample(url, samples[:2], 2, answers=str(path))
        path.write_bytes(path.read_bytes()[:-20])
        assert sample(url, samples[:2], 2, answers=str(path)) == answers
        assert len(server.bodies) == 5
        path.write_text("{}\n")
        with pytest.raises(RunDirError, match="answers:1: not a ServerAnswer"):
            sample(url, samples[:2], 2, answers=str(path))


def run_rollouts(folder: Path, url: str, samples: list[Sample], **changes: Any) -> bytes:
    run, settings = RunDir(folder), RolloutConfig(k=4, chunk_size=4)
    with open_engine(NANO, config(url, answers=str(folder / "answers"), **changes), PromptConfig()) as engine:
        run.stream(ROLLOUTS, settings.chunk_size, len(samples), rollout, engine, samples, settings, seed=1)
    return (folder / ROLLOUTS.path).read_bytes()


def test_interrupted_rollouts_end_in_the_same_bytes(tmp_path: Path, samples: list[Sample]) -> None:
    with fake_server(text_of=said_by_seed) as (server, url):
        whole = run_rollouts(tmp_path / "whole", url, samples[:10], api="chat")
        num_requests = len(server.bodies)
    num_answered = 0
    for number in (1, 5, 6, 9):
        with fake_server(**refused(number, samples)) as (server, url):
            with pytest.raises(RequestError, match="refuses"):
                run_rollouts(tmp_path / "failed", url, samples[:10], api="chat", concurrency=3)
            question = samples[number].messages[-1].content
            num_answered += sum(body["messages"][-1]["content"] != question for body in server.bodies)
    with fake_server(text_of=said_by_seed) as (server, url):
        assert run_rollouts(tmp_path / "failed", url, samples[:10], api="chat") == whole
        assert num_answered + len(server.bodies) == num_requests


def follow(place: int, answers: Sequence[Completion]) -> Prompt | None:
    """Ask about the last answer, place + 1 times in all."""
    if len(answers) > place:
        return None
    question = Message(role="user", content=f"Why {answers[-1].text}?")
    return Prompt(id=f"{place}/{len(answers)}", messages=(question,), tools=())


def test_a_chain_goes_on_from_each_answer_at_its_own_pace(samples: list[Sample]) -> None:
    prompts = [to_prompt(one) for one in samples[:4]]
    with fake_server(text_of=said_by_seed) as (_, url):
        chains = load(url).chain(prompts, PARAMS, follow)
        assert [len(chain) for chain in chains] == [1, 2, 3, 4]
        for place, chain in enumerate(chains):
            asked = [prompts[place], *(follow(place, chain[:length]) for length in range(1, place + 1))]
            assert [[one] for one in chain] == load(url).sample([one for one in asked if one], 1, PARAMS)


@given(st.integers(0, 6))
def test_a_scripted_chain_ends_where_follow_says(length: int) -> None:
    engine = ScriptedEngine(lambda prompt, index: prompt.id)
    prompts = [Prompt(id="first", messages=(), tools=())] * (length + 1)
    chains = engine.chain(prompts, PARAMS, follow)
    assert [one.text for one in chains[-1]] == ["first", *(f"{length}/{number}" for number in range(1, length + 1))]
    assert engine.num_prompts == sum(map(len, chains))


def test_a_chain_that_fails_loses_no_answer(tmp_path: Path, samples: list[Sample]) -> None:
    prompts, answers = [to_prompt(one) for one in samples[:4]], str(tmp_path / "answers")
    with fake_server(text_of=said_by_seed) as (server, url):
        whole = load(url, concurrency=1).chain(prompts, PARAMS, follow)
        asked = [body["prompt"] for body in server.bodies]
        assert len(asked) == 10
        server.bodies.clear()
        for refused in (asked[1], asked[5], asked[8]):
            server.fault_of = lambda body, refused=refused: 403 if body["prompt"] == refused else None
            with pytest.raises(RequestError):
                load(url, concurrency=1, answers=answers).chain(prompts, PARAMS, follow)
        server.fault_of = lambda body: None
        assert load(url, answers=answers).chain(prompts, PARAMS, follow) == whole
    assert len(server.bodies) == 10 + 3


def test_a_server_of_another_model_is_refused(samples: list[Sample]) -> None:
    with fake_server(model="other") as (_, url), pytest.raises(RequestError, match=r"serves other.*engine\.launch"):
        sample(url, samples[:1], served_model="")


def test_no_server_is_one_clear_sentence(samples: list[Sample]) -> None:
    with pytest.raises(WorkError, match="cannot be asked"):
        sample("http://127.0.0.1:9", samples[:1], served_model="")
    with pytest.raises(ConfigError, match=r"engine\.base_url: missing"):
        sample("", samples[:1])
    with pytest.raises(ConfigError, match=r"server localhost:8000: must begin with http"):
        sample("localhost:8000", samples[:1])


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


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path: Path, samples: list[Sample]) -> None:
    prompts, answers = [to_prompt(one) for one in samples[:4]], tmp_path / "answers"
    held = threading.Event()

    def text_of(body: dict[str, Any]) -> str:
        if len(server.bodies) > 5:
            held.wait(60)
        return said_by_seed(body)

    with fake_server(text_of=text_of) as (server, url):
        settings = config(url, answers=str(answers), concurrency=1)
        script = tmp_path / "sample.py"
        script.write_text(
            "from toolrefine.config import EngineConfig, PromptConfig\n"
            "from toolrefine.engines import SamplingParams, open_engine\n"
            "from toolrefine.types import Checkpoint, Prompt\n"
            f"prompts = [Prompt.model_validate_json(line) for line in {[one.model_dump_json() for one in prompts]!r}]\n"
            f"config = EngineConfig.model_validate_json({settings.model_dump_json()!r})\n"
            f"params = SamplingParams.model_validate_json({PARAMS.model_dump_json()!r})\n"
            "with open_engine(Checkpoint(model='nano'), config, PromptConfig()) as engine:\n"
            "    engine.sample(prompts, 3, params)\n"
        )
        with subprocess.Popen([sys.executable, str(script)]) as process:
            deadline = time.monotonic() + 30
            while len(server.bodies) < 6 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
        server.text_of = said_by_seed
        held.set()
        assert len(answers.read_text().splitlines()) == 5
        server.bodies.clear()
        resumed = sample(url, samples[:4], 3, answers=str(answers))
        assert len(server.bodies) == 12 - 5
        assert resumed == sample(url, samples[:4], 3)


def test_evaluate_asks_a_server(tmp_path: Path) -> None:
    with fake_server(text="no") as (server, url):
        arguments = ["evaluate", "museum", "--format", "toolworld", "--limit", "10", "--model", "nano", "--json"]
        result = CliRunner().invoke(
            app, [*arguments, "--server", url, "--max-new-tokens", "16", "--out", str(tmp_path)]
        )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["overall"]["arms"][0]["accuracy"]["n"] == 10
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
