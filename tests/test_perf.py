from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from perf_sides import failing_side, holding_side, slow_side
from pydantic import ValidationError

from perf import __main__ as command
from perf import harness, iteration, judging, options, plain_iteration, refinement, sampling, waves
from perf.harness import Row, Timing, compare, make_row, measure, missing_row, timed
from perf.models import make_model, make_samples, make_tokenizer
from perf.peers import Settings, cut, expand, find_settings, generate
from toolrefine.chat import Chat
from toolrefine.config import PromptConfig
from toolrefine.models import eos_token_ids

TASK = sampling.Task(shape="tiny", num_prompts=4, max_new_tokens=6, k=4)


@pytest.fixture
def bare_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PRELOAD", [])


def test_sides_take_turns_in_processes_of_their_own(bare_processes: None) -> None:
    row = compare("x", partial(slow_side, 0.5), partial(slow_side, 1.5), at_least=2.0, note="why")
    assert (row.ratio, row.ours_s, row.peer_s, row.rounds, row.note) == (3.0, 0.5, 1.5, 3, "why")
    assert row.reached


def test_peak_memory_is_that_of_a_side_alone(bare_processes: None) -> None:
    timings = measure({"small": partial(holding_side, 8), "large": partial(holding_side, 64)}, rounds=2)
    assert timings["small"].facts["rounds"] == 3  # one of them to warm up
    small, large = timings["small"].peak_mb, timings["large"].peak_mb
    if small is None or large is None:
        pytest.skip("this system does not tell")
    assert 24 <= small < 100
    assert large - small == pytest.approx(3 * 56, abs=8)


def test_more_rounds_follow_while_there_is_time(bare_processes: None) -> None:
    timings = measure({"one": partial(slow_side, 0.0)}, rounds=1, budget_s=60.0)
    assert timings["one"].rounds == harness.MAX_ROUNDS


def test_a_side_that_fails_says_why(bare_processes: None) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ours: .*out of luck"):
        compare("x", failing_side, partial(slow_side, 1.0))


def test_a_row_has_a_ratio_or_a_reason() -> None:
    assert missing_row("x", "no GPU on this machine", 5.0).reached is None
    for ratio, reason in [(None, ""), (1.0, "both")]:
        with pytest.raises(ValidationError, match="a ratio or a reason"):
            Row(name="x", ratio=ratio, at_least=None, reason=reason)


def test_a_peer_that_does_less_is_scaled_up() -> None:
    ours = Timing(seconds=1.0, peak_mb=1.0, rounds=3, facts={"completions": 64})
    peer = Timing(seconds=2.0, peak_mb=1.0, rounds=3, facts={"completions": 16})
    assert make_row("x", ours, sampling.scaled(peer, ours)).ratio == 8.0


@pytest.mark.parametrize("sample", [generate, expand])
@pytest.mark.parametrize("ends", ["never", "by chance"])
def test_peers_sample_k_completions_that_end_where_they_should(sample: Callable[..., list], ends: str) -> None:
    model, tokenizer = make_model("tiny", ends=ends), make_tokenizer()
    chat = Chat(tokenizer, PromptConfig())
    prompts = [chat.prompt_ids(each.messages, each.tools) for each in make_samples(3)]
    assert all(300 <= len(ids) <= 600 for ids in prompts)
    torch.manual_seed(0)
    groups = sample(model, prompts, 4, 30, Settings(2))
    lengths = [len(cut(ids, eos_token_ids(model, tokenizer))) for group in groups for ids in group]
    assert len(lengths) == 12
    assert ({*lengths} == {30}) == (ends == "never")


def test_greedy_peers_agree_with_our_engine() -> None:
    engine = sampling.make_engine(TASK.model_copy(update={"shape": "nano"}))
    model = make_model("nano")
    samples = make_samples(2)
    prompts = [engine.chat.prompt_ids(each.messages, each.tools) for each in samples]
    peer = generate(model, prompts, 1, 12, Settings(2, "static"), greedy=True)
    params = sampling.SamplingParams(temperature=0.0, max_new_tokens=12)
    ours = engine.sample([sampling.to_prompt(each) for each in samples], 1, params)
    for (ids,), (completion,) in zip(peer, ours, strict=True):
        ids = cut(ids, engine.eos_ids)
        assert completion.num_tokens == len(ids)
        assert engine.tokenizer.decode(ids).startswith(completion.text)


def test_the_search_tries_no_batches_larger_than_the_pool() -> None:
    asked: list[int] = []

    def sampler(prompts: list[list[int]], settings: Settings) -> list[list[list[int]]]:
        asked.append(settings.batch_size)
        return []

    best, tried = find_settings(sampler, [[1]] * 3, [Settings(1), Settings(4), Settings(2)], 5.0)
    assert {settings.batch_size for settings in tried} <= {1, 2}
    assert best in tried


@pytest.mark.parametrize("kind", ["generate", "expand"])
def test_sampling_sides_do_the_same_work(kind: str) -> None:
    ours = timed(sampling.our_side(TASK))["facts"]
    peer = timed(sampling.peer_side(TASK, kind, search_s=0.0))["facts"]
    assert ours["completions"] == peer["completions"] == 16
    assert ours["tokens"] == peer["tokens"] == 96


@pytest.mark.parametrize("rates", ["mixed", "none", "all"])
def test_waves_and_all_at_once_solve_the_same(rates: waves.Rates) -> None:
    few, every = (timed(waves.side(TASK, rates, in_waves))["facts"] for in_waves in (True, False))
    assert few["solved"] == every["solved"]
    assert few["completions"] <= every["completions"] == 16
    assert few["completions"] == 16 or rates != "none"


def test_refinement_sides_time_the_second_prefill_alone() -> None:
    for reuse in (True, False):
        result = timed(refinement.side(TASK, reuse))
        assert 0 < result["seconds"] < result["facts"]["whole_s"]


def test_labels_are_scored_behind_the_same_completions() -> None:
    assert timed(options.scored_side(TASK, True))["facts"] == timed(options.scored_side(TASK, False))["facts"]


@pytest.mark.parametrize("constrain", [True, False])
def test_greedy_answers_are_timed_with_their_tokens(constrain: bool) -> None:
    assert timed(options.constrained_side(TASK, constrain))["facts"]["tokens"] >= TASK.num_prompts


def test_judging_again_gives_the_same_verdicts() -> None:
    task = TASK.model_copy(update={"shape": "nano", "num_prompts": 2, "max_new_tokens": 24, "min_prompt_tokens": 1})
    assert timed(judging.side(task, True))["facts"] == timed(judging.side(task, False))["facts"]


@pytest.mark.slow
def test_both_iterations_run(tmp_path: Path) -> None:
    task = plain_iteration.IterationTask(pool_size=6, held_out_size=4, num_steps=1, batch_size=2, k=2)
    ours = timed(iteration.our_side(task))
    peer = plain_iteration.run_iteration(task, tmp_path, Settings(2), Settings(4))
    assert ours["seconds"] > 0
    assert {*peer} == {*ours["facts"]}


def test_the_command_writes_results_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> list[Row]:
        raise RuntimeError("first line\nlast line")

    fast = Row(name="fast", ratio=0.5, at_least=2.0, ours_s=2.0, peer_s=1.0, rounds=3)
    monkeypatch.setattr(command, "GROUPS", {"broken": broken, "whole": lambda _: [fast], "other": lambda _: []})
    out = tmp_path / "results.json"
    assert command.main(["--out", str(out)]) == 1
    results = json.loads(out.read_text())
    assert {*results} == {"machine", "rows"}
    assert {"cpu", "cores", "threads", "device", "torch", "transformers"} <= {*results["machine"]}
    assert [(row["name"], row["ratio"]) for row in results["rows"]] == [("broken", None), ("fast", 0.5)]
    assert results["rows"][0]["reason"] == "failed: last line"
    assert "(missed)" in capsys.readouterr().out
    monkeypatch.setitem(command.GROUPS, "whole", lambda _: [fast.model_copy(update={"ratio": 3.0})])
    assert command.main(["--only", "whole", "--out", str(out)]) == 0  # a ratio below its target is no error either
    assert [row["ratio"] for row in json.loads(out.read_text())["rows"]] == [None, 3.0]


def test_rows_of_another_machine_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    monkeypatch.setattr(command, "GROUPS", {"whole": lambda _: [missing_row("whole", "no time")]})
    assert command.main(["--out", str(out)]) == 0
    before = out.read_text()
    monkeypatch.setattr(command, "describe_machine", lambda: {**json.loads(before)["machine"], "cores": 99})
    with pytest.raises(SystemExit):
        command.main(["--only", "whole", "--out", str(out)])
    assert "here it is 99: measure all groups" in capsys.readouterr().err
    assert out.read_text() == before
    assert command.main(["--out", str(out)]) == 0  # all groups: nothing of the other machine stays
    assert json.loads(out.read_text())["machine"]["cores"] == 99


def test_a_gpu_has_a_section_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    row = Row(name="GPU, 1B", ratio=2.0, at_least=None, ours_s=1.0, peer_s=2.0, rounds=3)
    versions = {"torch": "2", "transformers": "5"}
    for device, ratio in [("A", 2.0), ("B", 3.0), ("A", 4.0)]:
        command.write_markdown(path, {"device": device, **versions}, [row.model_copy(update={"ratio": ratio})])
    text = path.read_text()
    assert text.count("## A") == text.count("## B") == 1
    assert "2.00" not in text
    assert "3.00" in text
    assert "4.00" in text
    assert text.startswith("# ")
