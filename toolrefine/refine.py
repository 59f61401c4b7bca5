"""Adaptive self-refinement at inference (arXiv 2504.01400, algorithm 1), and the policies that make it pay.

When to refine, how, what to accept and when to stop are small functions; RefinementConfig chooses among them. Whoever
asks a model, be it an engine here or a server's client, calls next_round after each answer and end_of_rounds at last.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.corpus import refine_messages
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import same_calls, schema_violation
from toolrefine.types import Completion, Outcome, Prompt, Refinement, StopReason, Tool


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
        end_of_rounds(prompt, rounds, config)
        for prompt, rounds in zip(prompts, engine.chain(prompts, params, follow), strict=True)
    ]


def next_round(
    prompt: Prompt, rounds: Sequence[Completion], config: RefinementConfig, prompt_config: PromptConfig
) -> Prompt | None:
    """What to ask after these answers, None where refinement ends with them."""
    if stop_reason(rounds, prompt.tools, config):
        return None
    return refinement_prompt(prompt, rounds[-1], len(rounds), prompt_config, explain=config.how == "explain")


def refinement_prompt(
    prompt: Prompt, answer: Completion, number: int, config: PromptConfig, *, explain: bool = False
) -> Prompt:
    """The prompt of round `number`: what was asked, the latest answer, and the request to refine it."""
    violation = (find_fault(answer, prompt.tools) or "") if explain else ""
    return Prompt(
        id=f"{prompt.id}/round-{number}",
        messages=refine_messages(prompt.messages, answer, config, violation),
        tools=prompt.tools,
    )


def end_of_rounds(prompt: Prompt, rounds: Sequence[Completion], config: RefinementConfig) -> Refinement:
    """All rounds of a prompt. One that had no room for an answer is none: the answer before it stands."""
    reason = stop_reason(rounds, prompt.tools, config) or StopReason.MAX_ROUNDS
    if reason is StopReason.NO_ROOM:
        rounds = rounds[:-1]
    return Refinement(
        prompt_id=prompt.id,
        rounds=tuple(rounds),
        stop_reason=reason,
        rejected=tuple(
            number for number, answer in enumerate(rounds) if number and not is_accepted(answer, prompt.tools, config)
        ),
    )


def stop_reason(rounds: Sequence[Completion], tools: Sequence[Tool], config: RefinementConfig) -> StopReason | None:
    """Why refinement ends with these answers, None where it goes on."""
    *earlier, answer = rounds
    if answer.had_no_room:
        return StopReason.NO_ROOM if earlier else StopReason.MAX_ROUNDS
    if config.stop == "unchanged" and earlier and same_calls(earlier[-1], answer):
        return StopReason.UNCHANGED
    if config.stop == "unchanged" and any(same_calls(seen, answer) for seen in earlier[:-1]):
        return StopReason.SEEN_BEFORE
    if earlier and not is_accepted(answer, tools, config) and any(find_fault(a, tools) is None for a in earlier):
        return StopReason.REJECTED
    if len(rounds) > config.max_rounds:
        return StopReason.MAX_ROUNDS
    if not wants_refinement(answer, tools, config):
        return StopReason.GATED
    return None


def wants_refinement(answer: Completion, tools: Sequence[Tool], config: RefinementConfig) -> bool:
    """When to refine an answer."""
    match config.when:
        case "always":
            return True
        case "invalid":
            return find_fault(answer, tools) is not None
        case "uncertain":
            unsure = answer.mean_logprob is not None and answer.mean_logprob < config.min_logprob
            return unsure or find_fault(answer, tools) is not None


def is_accepted(answer: Completion, tools: Sequence[Tool], config: RefinementConfig) -> bool:
    """Whether the answer of a round replaces the one before."""
    return config.accept == "always" or find_fault(answer, tools) is None


def find_fault(answer: Completion, tools: Sequence[Tool]) -> str | None:
    """What shows without a gold answer that an answer is wrong, as a sentence; None where nothing does."""
    match answer.outcome:
        case Outcome.MALFORMED:
            return "Your answer cannot be read as calls."
        case Outcome.TRUNCATED:
            return "Your answer is too long and was cut off."
        case _:
            return schema_violation(answer.calls, tools) if tools else None
