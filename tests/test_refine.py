from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.refine import find_fault, refine, refinement_prompt, stop_reason
from toolrefine.types import Completion, Message, Outcome, Prompt, Refinement, StopReason, Tool

PROMPT = Prompt(id="p", messages=(Message(role="user", content="go"),), tools=())


TOOL = Tool(name="f", parameters={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})


def run(answers: list[str], max_rounds: int = 3, *, prompt: Prompt = PROMPT, **policies: Any) -> Refinement:
    engine = ScriptedEngine(lambda prompt, _: answers[int(prompt.id.partition("/round-")[2] or 0)])
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
