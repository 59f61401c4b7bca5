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
    answer that cannot be parsed is never the same as another. All prompts that are still going share a batch.
    """
    rounds: list[list[Completion]] = list(engine.sample(prompts, 1, params))
    reasons: list[StopReason | None] = [None] * len(prompts)
    for number in range(1, config.max_rounds + 1):
        going = [i for i, reason in enumerate(reasons) if reason is None]
        if not going:
            break
        asked = [refinement_prompt(prompts[i], rounds[i][-1], number, prompt_config) for i in going]
        for i, (answer,) in zip(going, engine.sample(asked, 1, params), strict=True):
            reasons[i] = stop_reason(rounds[i], answer)
            rounds[i].append(answer)
    return [
        Refinement(prompt_id=prompt.id, rounds=tuple(answers), stop_reason=reason or StopReason.MAX_ROUNDS)
        for prompt, answers, reason in zip(prompts, rounds, reasons, strict=True)
    ]


def refinement_prompt(prompt: Prompt, answer: Completion, number: int, config: PromptConfig) -> Prompt:
    """The prompt of round `number`: what was asked, the latest answer, and the request to refine it."""
    return Prompt(
        id=f"{prompt.id}/round-{number}",
        messages=refine_messages(prompt.messages, answer, config),
        tools=prompt.tools,
        extends=prompt.id if number == 1 else f"{prompt.id}/round-{number - 1}",
    )


def stop_reason(earlier: Sequence[Completion], answer: Completion) -> StopReason | None:
    """Why to stop after this answer, or None to go on."""
    if same_calls(earlier[-1], answer):
        return StopReason.UNCHANGED
    if any(same_calls(seen, answer) for seen in earlier[:-1]):
        return StopReason.SEEN_BEFORE
    return None
