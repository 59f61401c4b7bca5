from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolrefine import calibration, datasets
from toolrefine.calibration import Budget, Calibration, calibrate, constrained_policies, policies, policy_sheet, to_toml
from toolrefine.cli.calibrate import calibrate as verb
from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.answers import Answers
from toolrefine.engines.memory import RememberingEngine
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import ConfigError, RequestError
from toolrefine.formats import get_format
from toolrefine.recipes import load_policy
from toolrefine.refine import refine
from toolrefine.rollout import to_prompt
from toolrefine.rundir import Silent
from toolrefine.types import Checkpoint, Completion, Prompt, Sample

SAMPLED = SamplingParams(temperature=0.7, max_new_tokens=64)
GREEDY = SAMPLED.model_copy(update={"temperature": 0.0})


def gold(sample: Sample) -> str:
    calls = sample.target.tool_calls
    return get_format("pythonic").render(calls) if calls else sample.target.content


class World(ScriptedEngine):
    """Breaks the schema in each third draft, and mends it in the first round, of whatever kind it is."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.golds = {sample.id: gold(sample) for sample in samples}
        self.drafts = {sample.id: "[no_tool()]" if i % 3 == 0 else gold(sample) for i, sample in enumerate(samples)}
        self.asked: list[tuple[str, SamplingParams]] = []
        self.num_scored = 0
        super().__init__(self.reply, logprob=lambda prompt, text: -0.1 * len(text) / 10)

    def reply(self, prompt: Prompt, index: int) -> str:
        name, _, number = prompt.id.partition("/round-")
        return self.golds[name] if number else self.drafts[name]

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Any) -> list[list[Completion]]:
        def note(prompt: Prompt) -> None:
            self.asked.append((prompt.model_dump_json(), params))

        def follow_and_note(place: int, chain: Sequence[Completion]) -> Prompt | None:
            following: Prompt | None = follow(place, chain)
            if following:
                note(following)
            return following

        for prompt in prompts:
            note(prompt)
        return super().chain(prompts, params, follow_and_note)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
        self.num_scored += len(prompts)
        return super().score(prompts, completions)


def remembering(engine: Any, path: str = "") -> RememberingEngine:
    return RememberingEngine(engine, Answers(path, Checkpoint(model="m"), EngineConfig(), PromptConfig()))


def find(samples: Sequence[Sample], engine: Any, **budget: float) -> Calibration:
    return calibrate(remembering(engine), samples, PromptConfig(), Budget(**budget), SAMPLED)


class Heard(Silent):
    """Keeps what progress is told: what and of how many, and how many were done."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int | None, list[int]]] = []

    def begin(self, what: str, total: int | None) -> None:
        self.bars.append((what, total, []))

    def advance(self, done: int) -> None:
        self.bars[-1][2].append(done)


def test_progress_counts_the_samples_of_the_drafts_and_then_the_policies(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CHUNK_SIZE", 4)
    heard = Heard()
    found = calibrate(remembering(World(samples)), samples, PromptConfig(), Budget(), SAMPLED, progress=heard)
    *drafts, tried = heard.bars
    by_chunk = [*range(4, len(samples), 4), len(samples)]
    assert drafts == [("drafts", len(samples), by_chunk), ("constrained drafts", len(samples), by_chunk)]
    num_policies = len(found.candidates)
    assert tried == ("policies", num_policies, [*range(1, num_policies + 1)])


def test_the_best_policy_within_the_budget_is_chosen(samples: list[Sample]) -> None:
    found = find(samples, World(samples), calls=1.5)
    num_wrong = len(samples[::3])
    assert found.refinement.when == "invalid"
    chosen = next(each for each in found.candidates if each.refinement == found.refinement)
    assert (chosen.change.fixed, chosen.change.broken) == (num_wrong, 0)
    assert chosen.calls_per_sample == pytest.approx(1 + num_wrong / len(samples))
    assert found.draft.correct + num_wrong == chosen.accuracy.correct == len(samples)
    plain = found.candidates[0]
    assert plain.refinement == RefinementConfig(max_rounds=1)
    assert plain.calls_per_sample == 2.0


def test_without_a_sure_gain_or_within_too_small_a_budget_the_drafts_stand(samples: list[Sample]) -> None:
    assert find(samples, World(samples), calls=1.1).refinement == RefinementConfig(max_rounds=0)
    assert find(samples[:9], World(samples), calls=3.0).refinement == RefinementConfig(max_rounds=0)
    tokens = find(samples, World(samples), tokens=0.5)
    assert not any(tokens.budget.allows(each) for each in tokens.candidates)
    assert find([], World([]), calls=3.0).refinement == RefinementConfig(max_rounds=0)


@pytest.mark.parametrize("broken", [0.0, 0.02, 1.0])
def test_a_budget_can_be_one_of_right_drafts_that_turn_wrong(samples: list[Sample], broken: float) -> None:
    class Forgetful(World):
        """Makes no call for each fifth sample when it is asked again."""

        def reply(self, prompt: Prompt, index: int) -> str:
            name, _, number = prompt.id.partition("/round-")
            return "no" if number and list(self.golds).index(name) % 5 == 0 else super().reply(prompt, index)

    found = find(samples, Forgetful(samples), broken=broken)
    shares = [each.change.broken / each.change.n for each in found.candidates]
    assert [found.budget.allows(each) for each in found.candidates] == [share <= broken for share in shares]
    assert max(shares) > 0.02


def test_nothing_is_computed_twice(samples: list[Sample]) -> None:
    engine = World(samples)
    find(samples, engine)
    assert len(set(engine.asked)) == len(engine.asked)


def test_the_figures_are_those_of_the_policy_run_alone(samples: list[Sample]) -> None:
    found = find(samples, World(samples))
    for candidate in found.candidates[::7]:
        engine = World(samples)
        alone = refine(engine, [to_prompt(s) for s in samples], candidate.refinement, PromptConfig(), GREEDY)
        num_calls = len(engine.asked) + engine.num_scored
        assert candidate.calls_per_sample == pytest.approx(num_calls / len(samples))
        assert candidate.accuracy.correct == sum(
            each.final.text == gold(sample) for each, sample in zip(alone, samples, strict=True)
        )


def test_an_engine_that_cannot_score_leaves_out_what_needs_scores(samples: list[Sample]) -> None:
    class Mute(World):
        def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[float]:
            raise RequestError("cannot")

    found = find(samples, Mute(samples))
    kinds = {(each.refinement.how, each.refinement.accept) for each in found.candidates}
    assert ("ask", "likelier") not in kinds
    assert ("resample", "likelier") in kinds


def test_an_engine_that_cannot_constrain_leaves_out_what_needs_it(samples: list[Sample]) -> None:
    class Free(World):
        def chain(self, prompts: Any, params: SamplingParams, follow: Any) -> list[list[Completion]]:
            if params.constrain:
                raise ConfigError("cannot")
            return super().chain(prompts, params, follow)

    def needs(engine: World) -> set[tuple[str, bool]]:
        return {(each.refinement.how, each.refinement.constrain) for each in find(samples, engine).candidates}

    assert not any(how == "constrain" or constrain for how, constrain in needs(Free(samples)))
    assert needs(World(samples)) >= {("constrain", False), ("ask", True), ("resample", True)}


def test_candidates_are_all_different() -> None:
    found = [*policies([-0.1, -0.2], 0.7), *constrained_policies([-0.1, -0.2], 0.7)]
    assert len({each.model_dump_json() for each in found}) == len(found)


def test_answers_survive_a_kill(samples: list[Sample], tmp_path: Path) -> None:
    path = str(tmp_path / "answers.jsonl")
    first = remembering(World(samples), path)
    prompts = [to_prompt(sample) for sample in samples]
    before = refine(first, prompts, RefinementConfig(), PromptConfig(), GREEDY)

    class Dead(World):
        def chain(self, *_: Any) -> list[list[Completion]]:
            raise AssertionError

    again = refine(remembering(Dead(samples), path), prompts, RefinementConfig(), PromptConfig(), GREEDY)
    assert again == before


@given(
    when=st.sampled_from(["always", "invalid", "uncertain"]),
    how=st.sampled_from(["ask", "explain", "resample", "constrain"]),
    accept=st.sampled_from(["always", "valid", "likelier"]),
    max_rounds=st.integers(0, 9),
    min_logprob=st.floats(-9.0, 0.0),
    temperature=st.floats(1e-5, 2.0),
    shuffle=st.booleans(),
    margin=st.floats(0.0, 9.0),
)
def test_a_policy_file_reads_back(tmp_path_factory: pytest.TempPathFactory, **fields: Any) -> None:
    config = RefinementConfig(**fields)
    found = calibrate(remembering(World([])), [], PromptConfig(), Budget(calls=2.0), SAMPLED)
    path = tmp_path_factory.getbasetemp() / "policy.toml"
    path.write_text(
        to_toml(found.model_copy(update={"refinement": config}), {"model": "a\\b", "data": 'x "y" é\n'}),
        encoding="utf-8",
    )
    assert load_policy(path) == config
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    assert (tree["chosen_on"]["model"], tree["chosen_on"]["data"]) == ("a\\b", 'x "y" é\n')
    assert "optimistic" in tree["chosen_on"]["note"]
    assert len(tree["candidates"]) == len(found.candidates)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such policy"),
        ("[refine", "not a readable TOML"),
        ("[other]\n", r"no table \[refinement\]"),
        ("refinement = 3\n", r"no table \[refinement\]"),
        ("[refinement]\nwho = 1\n", "refinement.who: unknown key"),
        ("[refinement]\nmax_rounds = -1\n", "refinement.max_rounds"),
    ],
)
def test_a_bad_policy_file_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "policy.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_policy(path)


def test_the_table_shows_the_best_within_the_budget(samples: list[Sample]) -> None:
    found = find(samples, World(samples), calls=1.5)
    sheet = policy_sheet(found)
    assert sheet.rows[0][0] == "draft"
    assert "(chosen)" in sheet.rows[1][0]
    assert all(float(row[-2]) <= 1.5 for row in sheet.rows)


@pytest.mark.parametrize("given", [["--temperature", "0"], ["temperature=0"]])
def test_a_temperature_without_further_samples_is_refused_before_any_work(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_pool", lambda *_: pytest.fail("work"))
    app = typer.Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, ["--model", "nano", "--data", "gone.jsonl", "--out", str(tmp_path / "x"), *given])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: temperature: input should be greater than 0, not ")


def test_the_verb_writes_a_policy(tiny_model: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(verb)
    out = tmp_path / "policies" / "museum.toml"
    arguments = ["--model", str(tiny_model), "--data", "museum", "--format", "toolworld", "--limit", "3"]
    arguments += ["--max-new-tokens", "12", "--budget-calls", "1.5", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["n"] == 3
    assert load_policy(out) == RefinementConfig.model_validate(printed["refinement"])
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert "no refinement" in CliRunner().invoke(app, arguments).output


def test_no_two_candidates_differ_in_a_margin_that_means_nothing() -> None:
    found = [each.model_copy(update={"margin": 0.0}) for each in policies([-0.1], 0.7) if each.accept == "valid"]
    assert len({each.model_dump_json() for each in found}) == len(found)
