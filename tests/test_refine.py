from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.engines import SamplingParams
from toolrefine.engines.scripted import ScriptedEngine
from toolrefine.refine import refine
from toolrefine.types import Message, Prompt, Refinement, StopReason

PROMPT = Prompt(id="p", messages=(Message(role="user", content="go"),), tools=())


def run(answers: list[str], max_rounds: int = 3) -> Refinement:
    engine = ScriptedEngine(lambda prompt, _: answers[int(prompt.id.partition("/round-")[2] or 0)])
    config = RefinementConfig(max_rounds=max_rounds)
    (refinement,) = refine(engine, [PROMPT], config, PromptConfig(), SamplingParams(temperature=0.0))
    return refinement


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
