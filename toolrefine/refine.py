"""Adaptive self-refinement at inference (arXiv 2504.01400, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.corpus import refine_messages
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import same_calls
from toolrefine.types import Completion, Prompt, Refinement, StopReason


def refine(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: RefinementConfig,
    prompt_config: PromptConfig,
    params: SamplingParams,
) -> list[Refinement]:
    """Draft an answer to each prompt, then show the model its answer and ask again until it changes nothing.

    Beyond the paper, any answer seen before stops the rounds, not only the previous one: refinement can oscillate. An
    answer that cannot be parsed is never the same as another. Prompts go on side by side, each at its own pace.
    """

    def follow(place: int, rounds: Sequence[Completion]) -> Prompt | None:
        return next_round(prompts[place], rounds, config, prompt_config)

    return [
        end_of_rounds(prompt, rounds)
        for prompt, rounds in zip(prompts, engine.chain(prompts, params, follow), strict=True)
    ]


def next_round(
    prompt: Prompt, rounds: Sequence[Completion], config: RefinementConfig, prompt_config: PromptConfig
) -> Prompt | None:
    """What to ask after these answers, None where refinement ends with them."""
    if len(rounds) > config.max_rounds or rounds[-1].had_no_room:
        return None
    if config.stop == "unchanged" and stop_reason(rounds):
        return None
    return refinement_prompt(prompt, rounds[-1], len(rounds), prompt_config)


def refinement_prompt(prompt: Prompt, answer: Completion, number: int, config: PromptConfig) -> Prompt:
    """The prompt of round `number`: what was asked, the latest answer, and the request to refine it."""
    return Prompt(
        id=f"{prompt.id}/round-{number}",
        messages=refine_messages(prompt.messages, answer, config),
        tools=prompt.tools,
    )


def end_of_rounds(prompt: Prompt, rounds: Sequence[Completion]) -> Refinement:
    """All rounds of a prompt. One that had no room for an answer is none: the answer before it stands."""
    if len(rounds) > 1 and rounds[-1].had_no_room:
        return Refinement(prompt_id=prompt.id, rounds=tuple(rounds[:-1]), stop_reason=StopReason.NO_ROOM)
    return Refinement(
        prompt_id=prompt.id, rounds=tuple(rounds), stop_reason=stop_reason(rounds) or StopReason.MAX_ROUNDS
    )


def stop_reason(rounds: Sequence[Completion]) -> StopReason | None:
    """Why to stop after these answers, or None to go on."""
    *earlier, answer = rounds
    if earlier and same_calls(earlier[-1], answer):
        return StopReason.UNCHANGED
    if any(same_calls(seen, answer) for seen in earlier[:-1]):
        return StopReason.SEEN_BEFORE
    return None
