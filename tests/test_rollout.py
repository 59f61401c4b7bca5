"""Groups of completions, and how much their labels are to be doubted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from toolrefine.config import EngineConfig, PromptConfig, RolloutConfig
from toolrefine.engines import Accept, SamplingParams
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.engines.transformers import TransformersEngine
from toolrefine.errors import RequestError, WorkError
from toolrefine.formats import get_format
from toolrefine.rollout import rollout
from toolrefine.types import Checkpoint, Completion, Group, Message, Prompt, Sample, Tool, ToolCall

WATER, FEED = '[water(plant="fern")]', '[feed(plant="fern")]'
BROKEN = "[water(]"
LOGPROBS = {WATER: -1.5, FEED: -13.5}
CONFIG = RolloutConfig(k=4)
TARGETS = {
    "call": (ToolCall(name="feed", arguments={"plant": "fern"}),),
    "no call": (),
    "unwritable": (ToolCall(name="dig", arguments={}),),
}


def sample(label: str) -> Sample:
    return Sample(
        id="s",
        messages=(Message(role="user", content="x"),),
        tools=(Tool(name="water", parameters={"type": "object"}),),
        target=Message(role="assistant", tool_calls=TARGETS[label]),
    )


def logprob(prompt: Prompt, text: str) -> float:
    return LOGPROBS.get(text, float("-inf"))


def roll(label: str, texts: Sequence[str], config: RolloutConfig = CONFIG) -> Group:
    engine = ScriptedEngine(lambda prompt, index: texts[index], logprob=logprob)
    [[group]] = rollout(0, 8, engine, [sample(label)], config, seed=0)
    return group


@pytest.mark.parametrize(
    ("label", "texts", "doubt"),
    [
        ("call", [WATER, WATER, "no", WATER], 12.0),
        ("call", [BROKEN, BROKEN, BROKEN, WATER], 12.0),  # what cannot be read is no answer
        ("call", [WATER, WATER, WATER, FEED], None),  # solved
        ("call", ["no", "no", WATER, "no"], None),  # text has no likelihood that could be compared
        ("call", [BROKEN] * 4, None),
        ("no call", [WATER] * 4, None),
        ("unwritable", [WATER] * 4, None),
    ],
)
def test_a_label_is_doubted_by_how_much_likelier_the_most_frequent_answer_is(
    label: str, texts: list[str], doubt: float | None
) -> None:
    group = roll(label, texts)
    assert (group.doubt, group.rival_logprob) == (doubt, None if doubt is None else LOGPROBS[WATER])
    assert roll(label, texts, CONFIG.model_copy(update={"score_labels": False})).doubt is None


def test_the_greedy_answer_stands_beside_the_completions_where_it_is_wanted() -> None:
    class Sampler(ScriptedEngine):
        def sample(
            self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
        ) -> list[list[Completion]]:
            temperatures.append(params.temperature)
            return super().sample(prompts, n, params, accept)

    temperatures: list[float] = []
    engine = Sampler(lambda prompt, index: FEED if temperatures[-1] == 0 else WATER)
    [[without]] = rollout(0, 8, engine, [sample("call")], CONFIG, seed=0)
    [[group]] = rollout(0, 8, engine, [sample("call")], CONFIG, seed=0, with_greedy=True)
    assert without.greedy is without.greedy_score is None
    assert (group.completions, group.scores) == (without.completions, without.scores)
    assert group.greedy is not None and group.greedy_score is not None
    assert (group.greedy.text, group.greedy_score.correct, group.num_correct) == (FEED, True, 0)


def failing(error: Exception) -> Callable[[Sequence[Prompt], Sequence[Completion | Message]], list[float]]:
    def score(prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        raise error

    return score


def test_an_engine_that_cannot_score_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine(lambda prompt, index: WATER)
    monkeypatch.setattr(engine, "score", failing(RequestError("tells no log-probabilities")))
    with caplog.at_level(logging.WARNING):
        chunks = [*rollout(0, 1, engine, [sample("call")] * 3, CONFIG, seed=0)]
    assert [group.doubt for [group] in chunks] == [None] * 3
    assert caplog.text.count("tells no log-probabilities") == 1


def test_a_server_that_fails_while_it_scores_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda prompt, index: WATER)
    monkeypatch.setattr(engine, "score", failing(WorkError("no answer")))
    with pytest.raises(WorkError):
        next(rollout(0, 1, engine, [sample("call")], CONFIG, seed=0))


def test_a_turn_is_scored_like_the_completion_that_says_the_same(tiny_model: Path, samples: list[Sample]) -> None:
    engine = TransformersEngine.load(Checkpoint(model=str(tiny_model)), EngineConfig(device="cpu"), PromptConfig())
    chosen = [each for each in samples if each.target.tool_calls][:8]
    prompts = [Prompt(id=each.id, messages=each.messages, tools=each.tools) for each in chosen]
    texts = [get_format("pythonic").render(each.target.tool_calls) for each in chosen]
    completions = [
        Completion(text=text, calls=each.target.tool_calls, outcome="calls", num_tokens=1, mean_logprob=None)
        for text, each in zip(texts, chosen, strict=True)
    ]
    expected = engine.score(prompts, completions)
    assert engine.score(prompts, [each.target for each in chosen]) == pytest.approx(expected, abs=1e-4)
    assert len({*expected}) > 4
