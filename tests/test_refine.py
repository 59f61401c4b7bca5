from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.errors import RequestError
from toolrefine.refine import (
    find_fault,
    in_another_order,
    is_likelier,
    next_round,
    refine,
    refinement_prompt,
    stop_reason,
)
from toolrefine.types import Completion, Message, Outcome, Prompt, Refinement, StopReason, Tool

PROMPT = Prompt(id="p", messages=(Message(role="user", content="go"),), tools=())


TOOL = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
WITH_TOOL = PROMPT.model_copy(update={"tools": (TOOL,)})


def unscored(prompt: Prompt, text: str) -> float:
    return 0.0


def run(
    answers: list[str],
    max_rounds: int = 3,
    *,
    prompt: Prompt = PROMPT,
    logprob: Callable[[Prompt, str], float] = unscored,
    **policies: Any,
) -> Refinement:
    engine = ScriptedEngine(
        lambda prompt, _: answers[int(prompt.id.partition("/round-")[2] or 0)],
        logprob=logprob,
    )
    config = RefinementConfig(max_rounds=max_rounds, **policies)
    (refinement,) = refine(engine, [prompt], config, PromptConfig(), SamplingParams(temperature=0.0))
    return refinement


@pytest.mark.parametrize(
    ("answers", "policies", "reason", "final"),
    [
        (["[f(a=1)]"], {"when": "invalid"}, StopReason.GATED, "[f(a=1)]"),
        (["no"], {"when": "invalid"}, StopReason.GATED, "no"),
        (["[f(a='x')]", "[f(a=2)]"], {"when": "invalid"}, StopReason.GATED, "[f(a=2)]"),
        (["[f(", "[g(a=2)]", "[f(a=3)]"], {"when": "invalid"}, StopReason.GATED, "[f(a=3)]"),
        (["[f(", "[f(", "[f(", "[f("], {"when": "invalid"}, StopReason.MAX_ROUNDS, "[f("),
        (["[f(a=1)]", "[f(a='x')]"], {"accept": "valid"}, StopReason.REJECTED, "[f(a=1)]"),
        (["[f(a=1)]", "[f("], {"accept": "valid"}, StopReason.REJECTED, "[f(a=1)]"),
        (["[f(a=1)]", "[f(a=2)]", "[f(a=3)]", "[f("], {"accept": "valid"}, StopReason.REJECTED, "[f(a=3)]"),
        (["[f(", "[f(a='x')]", "[f(a='y')]", "[f(a=1)]"], {"accept": "valid"}, StopReason.MAX_ROUNDS, "[f(a=1)]"),
        (["[f(", "[f(a='x')]", "[f(a='y')]", "[g()]"], {"accept": "valid"}, StopReason.MAX_ROUNDS, "[f("),
        (["[f(a=1)]"] * 4, {"stop": "never"}, StopReason.MAX_ROUNDS, "[f(a=1)]"),
        (["[f(a=1)]", "[f(a=2)]", "[f(a=1)]", "[f(a=2)]"], {"stop": "never"}, StopReason.MAX_ROUNDS, "[f(a=2)]"),
    ],
)
def test_policies(answers: list[str], policies: dict[str, Any], reason: StopReason, final: str) -> None:
    refinement = run(answers, prompt=PROMPT.model_copy(update={"tools": (TOOL,)}), **policies)
    assert (refinement.stop_reason, refinement.final.text) == (reason, final)
    assert len(refinement.rounds) == len(answers)


@pytest.mark.parametrize(("logprob", "reason"), [(-0.05, StopReason.GATED), (None, StopReason.GATED), (-0.5, None)])
def test_an_uncertain_answer_is_refined(logprob: float | None, reason: StopReason | None) -> None:
    answer = Completion(text="no", outcome=Outcome.NO_CALL, num_tokens=1, mean_logprob=logprob)
    config = RefinementConfig(when="uncertain", min_logprob=-0.1)
    assert stop_reason([answer], (TOOL,), config) is reason


def test_what_is_wrong_is_said_where_that_is_asked_for() -> None:
    prompt = PROMPT.model_copy(update={"tools": (TOOL,)})
    invalid = ScriptedEngine(lambda *_: "[f(a='x')]").sample([prompt], 1, SamplingParams())[0][0]
    valid = ScriptedEngine(lambda *_: "[f(a=1)]").sample([prompt], 1, SamplingParams())[0][0]
    said = refinement_prompt(prompt, invalid, 1, PromptConfig(), explain=True).messages[-1].content
    assert said == f"f: argument 'a' must be of type integer, not string. {PromptConfig().refine}"
    for answer, explain in ((invalid, False), (valid, True)):
        said = refinement_prompt(prompt, answer, 1, PromptConfig(), explain=explain).messages[-1].content
        assert said == PromptConfig().refine


@given(
    answers=st.lists(st.sampled_from(["[f(a=1)]", "[f(a='x')]", "[g()]", "[f(", "no"]), min_size=6, max_size=6),
    when=st.sampled_from(["always", "invalid", "uncertain"]),
    stop=st.sampled_from(["unchanged", "never"]),
)
def test_a_valid_answer_is_never_replaced_by_an_invalid_one(answers: list[str], when: str, stop: str) -> None:
    prompt = PROMPT.model_copy(update={"tools": (TOOL,)})
    refinement = run(answers, max_rounds=5, prompt=prompt, when=when, stop=stop, accept="valid")
    faults = [find_fault(answer, prompt.tools) for answer in refinement.answers]
    assert None not in faults[:-1] or faults[-1] is None
    assert refinement.rounds[0] == refinement.answers[0]


@pytest.mark.parametrize(
    ("answers", "reason", "num_rounds"),
    [
        (["[f(a=1)]", "[f(a=1)]"], StopReason.UNCHANGED, 1),
        (["[f(a=1), g()]", "[g(), f(a=1.0)]"], StopReason.UNCHANGED, 1),
        (["no call fits", "nothing fits"], StopReason.UNCHANGED, 1),
        (["[f(a=1)]", "[f(a=2)]", "[f(a=2)]"], StopReason.UNCHANGED, 2),
        (["[f(a=1)]", "[f(a=2)]", "[f(a=1)]"], StopReason.SEEN_BEFORE, 2),
        (["[f(a=", "[f(a=", "[f(a=", "[f(a="], StopReason.MAX_ROUNDS, 3),
        (["[f(a=1)]", "[f(a=2)]", "[f(a=3)]", "[f(a=4)]"], StopReason.MAX_ROUNDS, 3),
    ],
)
def test_when_refinement_stops(answers: list[str], reason: StopReason, num_rounds: int) -> None:
    refinement = run(answers)
    assert refinement.stop_reason is reason
    assert len(refinement.rounds) == num_rounds + 1
    assert refinement.final.text == answers[num_rounds]


@given(answers=st.lists(st.sampled_from(["[f(a=1)]", "[f(a=2)]", "[f(", "no"]), min_size=6, max_size=6))
def test_rounds_are_bounded_and_only_the_last_repeats(answers: list[str]) -> None:
    refinement = run(answers, max_rounds=5)
    assert 2 <= len(refinement.rounds) <= 6
    read = [r.text for r in refinement.rounds[:-1] if r.text != "[f("]
    assert len(set(read)) == len(read)


def test_no_rounds_is_the_draft_alone() -> None:
    refinement = run(["[f(a=1)]"], max_rounds=0)
    assert refinement.rounds == (refinement.draft,)


def test_the_prompt_is_only_added_to() -> None:
    seen: list[Prompt] = []

    def answer(prompt: Prompt, _: int) -> str:
        seen.append(prompt)
        return f"[f(a={len(seen)})]"

    refine(
        ScriptedEngine(answer), [PROMPT], RefinementConfig(max_rounds=2), PromptConfig(refine="again"), SamplingParams()
    )
    assert all(prompt.messages[:1] == PROMPT.messages for prompt in seen)
    assert seen[2].messages[1].tool_calls[0].arguments == {"a": 2}
    assert seen[2].messages[2].content == "again"


def test_finished_prompts_leave_the_batch() -> None:
    engine = ScriptedEngine(
        lambda prompt, _: "[f(a=1)]" if prompt.id.startswith("done") else f"[f(a={len(prompt.id)})]"
    )
    prompts = [PROMPT.model_copy(update={"id": name}) for name in ("done", "other")]
    done, other = refine(engine, prompts, RefinementConfig(max_rounds=3), PromptConfig(), SamplingParams())
    assert done.stop_reason is StopReason.UNCHANGED
    assert engine.num_prompts == len(done.rounds) + len(other.rounds)


def test_resampling_shows_the_model_nothing_and_ends_with_the_first_answer_without_a_fault() -> None:
    asked: list[tuple[Prompt, float]] = []
    answers = ["[f(", "[f(a='x')]", "[f(a='x')]", "[f(a=4)]", "[f(a=5)]"]

    class Recording(ScriptedEngine):
        def chain(self, prompts: Any, params: SamplingParams, follow: Any) -> list[list[Completion]]:
            def follow_and_keep(place: int, chain: Sequence[Completion]) -> Prompt | None:
                following: Prompt | None = follow(place, chain)
                asked.extend((prompt, params.temperature) for prompt in [following] if prompt)
                return following

            asked.extend((prompt, params.temperature) for prompt in prompts)
            return super().chain(prompts, params, follow_and_keep)

    engine = Recording(lambda prompt, _: answers[int(prompt.id.partition("/round-")[2] or 0)])
    config = RefinementConfig(max_rounds=8, when="invalid", how="resample", accept="valid", temperature=0.5)
    other = WITH_TOOL.model_copy(update={"id": "q/round-3"})
    found, right = refine(engine, [WITH_TOOL, other], config, PromptConfig(), SamplingParams(temperature=0.0))
    assert (found.stop_reason, found.final.text, found.rejected) == (StopReason.GATED, "[f(a=4)]", (1, 2))
    assert len(found.rounds) == 4 and len(right.rounds) == 1
    assert all((prompt.messages, prompt.tools) == (WITH_TOOL.messages, WITH_TOOL.tools) for prompt, _ in asked)
    assert [temperature for _, temperature in asked] == [0.0, 0.0, 0.5, 0.5, 0.5]
    assert len({prompt.id for prompt, _ in asked}) == len(asked)


WIDE = tuple(
    Tool(name=name, parameters={"type": "object", "properties": {key: {"type": "integer"} for key in "abc"}})
    for name in "fgh"
)


def in_order(prompt: Prompt) -> list[tuple[str, str]]:
    return [(tool.name, key) for tool in prompt.tools for key in tool.parameters["properties"]]


def test_samples_can_be_asked_for_with_tools_and_parameters_in_other_orders() -> None:
    asked: list[Prompt] = []

    def answer(prompt: Prompt, _: int) -> str:
        asked.append(prompt)
        return "[f("

    config = RefinementConfig(max_rounds=3, when="invalid", how="resample", shuffle=True, accept="valid")
    prompt = PROMPT.model_copy(update={"tools": WIDE})
    refine(ScriptedEngine(answer), [prompt], config, PromptConfig(), SamplingParams(temperature=0.0))
    assert [each.id for each in asked] == ["p", "p/round-1", "p/round-2", "p/round-3"]
    assert len({tuple(in_order(each)) for each in asked}) == 4
    for each in asked:
        assert each.messages == prompt.messages
        assert sorted(each.tools, key=lambda tool: tool.name) == list(WIDE)


@given(names=st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=5), seed=st.integers(0, 99))
def test_another_order_is_another_one_wherever_there_is_any(names: list[str], seed: int) -> None:
    tool = Tool(name="f", parameters={"properties": {name: {} for name in names}, "required": names[:1]})
    prompt = PROMPT.model_copy(update={"id": str(seed), "tools": (tool,)})
    other = in_another_order(prompt)
    assert other == prompt  # dicts are equal in any order
    assert (in_order(other) != in_order(prompt)) == (len(names) > 1)
    assert in_order(other) == in_order(in_another_order(prompt))


@pytest.mark.parametrize("parameters", [{}, {"properties": None}, {"properties": []}, {"$ref": "#/x"}])
def test_a_schema_without_properties_has_no_other_order(parameters: dict[str, Any]) -> None:
    prompt = PROMPT.model_copy(update={"tools": (Tool(name="f", parameters=parameters),)})
    assert in_another_order(prompt) == prompt


class Sampling(ScriptedEngine):
    """Notes how each prompt is first sampled: its id, whether constrained, the temperature."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[tuple[str, bool, float]] = []

    def chain(self, prompts: Any, params: SamplingParams, follow: Any) -> list[list[Completion]]:
        self.asked.extend((prompt.id, params.constrain, params.temperature) for prompt in prompts)
        return super().chain(prompts, params, follow)


def test_an_invalid_answer_is_repaired_by_one_that_cannot_break_the_schema() -> None:
    drafts = {"broken": "[f(", "right": "[f(a=1)]", "none": "no"}
    engine = Sampling(lambda prompt, _: drafts.get(prompt.id, "[f(a=2)]"))
    config = RefinementConfig(max_rounds=8, when="invalid", how="constrain", accept="valid")
    prompts = [WITH_TOOL.model_copy(update={"id": name}) for name in drafts]
    found = refine(engine, prompts, config, PromptConfig(), SamplingParams(temperature=0.0))
    assert [each.final.text for each in found] == ["[f(a=2)]", "[f(a=1)]", "no"]
    assert [each.num_calls for each in found] == [2, 1, 1]
    assert engine.asked == [*((name, False, 0.0) for name in drafts), ("broken/round-1", True, 0.0)]


def test_drafts_and_further_samples_can_be_constrained_alike() -> None:
    engine = Sampling(lambda prompt, _: "[f(a=1)]", logprob=lambda prompt, text: -9.0)
    config = RefinementConfig(
        max_rounds=1, when="uncertain", how="resample", accept="likelier", temperature=0.5, constrain=True
    )
    refine(engine, [WITH_TOOL.model_copy(update={"id": "q"})], config, PromptConfig(), SamplingParams(temperature=0.0))
    assert engine.asked == [("q", True, 0.0), ("q/round-1", True, 0.5)]


def test_resampling_always_keeps_the_likeliest_of_all() -> None:
    likely = {"[f(a=1)]": -3.0, "[f(a=2)]": -2.0, "[f(a=3)]": -4.0, "[f(a='x')]": -0.1}
    refinement = run(
        ["[f(a=1)]", "[f(a=3)]", "[f(a=2)]", "[f(a='x')]"],
        prompt=WITH_TOOL,
        logprob=lambda prompt, text: likely[text],
        how="resample",
        accept="likelier",
    )
    assert refinement.final.text == "[f(a=2)]"
    assert (refinement.stop_reason, refinement.rejected, refinement.num_scored) == (StopReason.MAX_ROUNDS, (1, 3), 0)


@pytest.mark.parametrize(("margin", "final"), [(0.9, "[f(a=2)]"), (1.0, "[f(a=1)]"), (1.1, "[f(a=1)]")])
def test_a_sample_must_be_likelier_by_a_margin(margin: float, final: str) -> None:
    likely = {"[f(a=1)]": -3.0, "[f(a=2)]": -2.0}
    policies = {"how": "resample", "accept": "likelier", "margin": margin}
    logprob = {"logprob": lambda prompt, text: likely[text]}
    assert run(["[f(a=1)]", "[f(a=2)]"], 1, prompt=WITH_TOOL, **logprob, **policies).final.text == final


@pytest.mark.parametrize(
    ("draft", "refined", "reason", "num_scored"),
    [
        ((-1.0, -1.0), (-2.0, -0.5), StopReason.REJECTED, 2),
        ((-1.0, -1.0), (-1.5, -0.4), StopReason.MAX_ROUNDS, 2),
        ((-1.0, -1.0), (-0.5, -1.5), StopReason.MAX_ROUNDS, 2),
    ],
)
def test_a_change_must_be_as_likely_with_and_without_the_draft(
    draft: tuple[float, float], refined: tuple[float, float], reason: StopReason, num_scored: int
) -> None:
    """The pairs are the log-probability alone and that behind the draft."""

    def logprob(prompt: Prompt, text: str) -> float:
        return (draft if text == "[f(a=1)]" else refined)[len(prompt.messages) > 1]

    refinement = run(["[f(a=1)]", "[f(a=2)]"], 1, prompt=WITH_TOOL, logprob=logprob, accept="likelier")
    assert (refinement.stop_reason, refinement.num_scored) == (reason, num_scored)
    assert refinement.final.text == ("[f(a=1)]" if reason is StopReason.REJECTED else "[f(a=2)]")


@pytest.mark.parametrize(
    ("answers", "final", "num_scored"),
    [
        (["[f(a='x')]", "[f(a=2)]", "[f(a=2)]"], "[f(a=2)]", 0),  # the valid one, however likely
        (["[f(a=1)]", "[f(a='x')]"], "[f(a=1)]", 0),
        (["[f(a=1)]", "[f(a=1.0)]"], "[f(a=1.0)]", 0),  # the same calls
        (["[f(a='x')]", "[f(a='y')]"], "[f(a='x')]", 2),
    ],
)
def test_what_is_settled_without_scores_is_not_scored(answers: list[str], final: str, num_scored: int) -> None:
    def logprob(prompt: Prompt, text: str) -> float:
        return 0.0 if text == answers[0] else -9.0

    refinement = run(answers, prompt=WITH_TOOL, logprob=logprob, accept="likelier")
    assert (refinement.final.text, refinement.num_scored) == (final, num_scored)


def test_what_sampling_has_not_told_is_scored_too() -> None:
    text = "[f(a={})]"
    rounds = [
        ScriptedEngine(lambda *_, i=i: text.format(i)).sample([WITH_TOOL], 1, SamplingParams())[0][0] for i in range(3)
    ]
    untold = [answer.model_copy(update={"mean_logprob": None}) for answer in rounds]
    assert is_likelier(untold[:2], [-1.0, -2.0, -3.0, -2.0])  # r alone and behind d: -4; d alone and behind itself: -4
    assert not is_likelier(untold[:2], [-1.0, -2.1, -3.0, -2.0])
    assert is_likelier(untold[:2], [-1.0, -2.0, -3.5, -2.0], margin=0.5)
    assert not is_likelier(untold[:2], [-1.0, -2.0, -3.5, -2.0], margin=0.6)
    refinement = run([text.format(i) for i in range(3)], 2, prompt=WITH_TOOL, accept="likelier")
    assert refinement.num_scored == 5  # the answer of round 1 was sampled behind the draft, not behind the prompt alone


def test_an_answer_that_cannot_be_scored_here_is_a_request_error() -> None:
    rounds = [
        ScriptedEngine(lambda *_, i=i: f"[f(a={i})]").sample([WITH_TOOL], 1, SamplingParams())[0][0] for i in range(2)
    ]
    config = RefinementConfig(accept="likelier")
    with pytest.raises(RequestError, match=r"refinement\.accept=valid"):
        next_round(WITH_TOOL, rounds, config, PromptConfig())
    assert next_round(WITH_TOOL, rounds, config, PromptConfig(), [True])
    assert not next_round(WITH_TOOL, rounds, config, PromptConfig(), [False])


@given(
    answers=st.lists(st.sampled_from(["[f(a=1)]", "[f(a=2)]", "[f(a='x')]", "[g()]", "[f(", "no"]), min_size=6),
    when=st.sampled_from(["always", "invalid", "uncertain"]),
    how=st.sampled_from(["ask", "explain", "resample", "constrain"]),
    accept=st.sampled_from(["always", "valid", "likelier"]),
    stop=st.sampled_from(["unchanged", "never"]),
    logprobs=st.lists(st.floats(-5.0, 0.0), min_size=12, max_size=12),
)
def test_every_policy_comes_to_an_end_and_none_but_always_makes_a_valid_answer_invalid(
    answers: list[str], when: str, how: str, accept: str, stop: str, logprobs: list[float]
) -> None:
    def logprob(prompt: Prompt, text: str) -> float:
        return logprobs[2 * answers.index(text) % 12 + (len(prompt.messages) > 1)]

    refinement = run(
        answers, 5, prompt=WITH_TOOL, logprob=logprob, when=when, how=how, accept=accept, stop=stop, min_logprob=-1.0
    )
    assert 1 <= len(refinement.rounds) <= 6
    assert refinement.num_scored <= 3 * (len(refinement.rounds) - 1)
    standing = [find_fault(answer, WITH_TOOL.tools) is None for answer in refinement.answers]
    if accept != "always":
        assert standing == sorted(standing)
    if accept == "always" or how in ("resample", "constrain"):
        assert refinement.num_scored == 0
    if how == "constrain":
        assert len(refinement.rounds) <= 2
