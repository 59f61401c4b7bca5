"""Adaptive self-refinement at inference (arXiv 2504.01400, algorithm 1), and the policies that make it pay.

When to refine, how, what to accept and when to stop are small functions; RefinementConfig chooses among them. Whoever
asks a model, be it an engine here or a server's client, calls next_round after each answer and end_of_rounds at last;
answer_all does that for an engine and many prompts side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.corpus import refine_messages
from toolrefine.engines import Engine, SamplingParams
from toolrefine.errors import RequestError
from toolrefine.json_schema import reorder_properties
from toolrefine.matching import same_calls, schema_violation
from toolrefine.types import Completion, Outcome, Prompt, Refinement, StopReason, Tool

T = TypeVar("T")


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
    every = [Rounds(prompt, config, prompt_config) for prompt in prompts]
    answer_all(engine, every, params)
    return [rounds.result() for rounds in every]


class Question(NamedTuple):
    """A completion to score behind a prompt."""

    prompt: Prompt
    completion: Completion


class Rounds:
    """The rounds of one prompt, as far as they have come."""

    def __init__(self, prompt: Prompt, config: RefinementConfig, prompt_config: PromptConfig) -> None:
        self.prompt, self.config, self.prompt_config = prompt, config, prompt_config
        self.completions: list[Completion] = []
        self.likelier: list[bool] = []
        """For each round whether accept = likelier prefers its answer."""
        self.questions: list[Question] = []
        """What has to be scored before it can go on."""
        self.num_scored = 0

    def params(self, params: SamplingParams) -> SamplingParams:
        """How what is asked next is sampled, where drafts are sampled by params."""
        changes: dict[str, Any] = {}
        if self.config.constrain or (self.completions and self.config.how == "constrain"):
            changes["constrain"] = True
        if self.completions and self.config.how == "resample":
            changes["temperature"] = self.config.temperature
        return params.model_copy(update=changes)

    def take(self, completion: Completion) -> Prompt | None:
        """Take an answer. Returns what to ask next: None at the end, and as long as there are questions."""
        self.completions.append(completion)
        self.questions = questions(self.prompt, self.completions, self.config, self.prompt_config)
        return None if self.questions else self._next(is_likelier=True)

    def hear(self, scores: Sequence[float]) -> Prompt | None:
        """Take the scores that were asked for; see take."""
        self.num_scored += len(self.questions)
        self.questions = []
        return self._next(is_likelier=is_likelier(self.completions, scores, self.config.margin))

    def result(self) -> Refinement:
        """All rounds, once there is nothing more to ask."""
        refinement = end_of_rounds(self.prompt, self.completions, self.config, self.likelier)
        return refinement.model_copy(update={"num_scored": self.num_scored})

    def _next(self, *, is_likelier: bool) -> Prompt | None:
        if len(self.completions) > 1:
            self.likelier.append(is_likelier)
        return next_round(self.prompt, self.completions, self.config, self.prompt_config, self.likelier)


def answer_all(
    engine: Engine,
    first: Sequence[Rounds],
    params: SamplingParams,
    then: Callable[[int], Rounds | None] = lambda place: None,
) -> None:
    """Answer prompts side by side. then says what follows the rounds of a place, once they have ended.

    Scores are asked for together, when all others have ended or wait too.
    """
    going = dict(enumerate(first))
    asked = {place: rounds.prompt for place, rounds in going.items()}

    def turn_to(place: int, following: Prompt | None) -> Prompt | None:
        """What to ask next at a place where `following` comes next, of the next rounds where these have ended."""
        if following is None and not going[place].questions:
            rounds = then(place)
            if rounds is None:
                del going[place]
            else:
                going[place], following = rounds, rounds.prompt
        asked.pop(place, None)
        if following is not None:
            asked[place] = following
        return following

    while asked:
        alike: dict[SamplingParams, list[int]] = {}
        for place in asked:
            alike.setdefault(going[place].params(params), []).append(place)
        for their_params, places in alike.items():

            def follow(
                index: int,
                chain: Sequence[Completion],
                places: list[int] = places,
                their_params: SamplingParams = their_params,
            ) -> Prompt | None:
                place = places[index]
                following = turn_to(place, going[place].take(chain[-1]))
                return following if following and going[place].params(params) == their_params else None

            engine.chain([asked[place] for place in places], their_params, follow)
        waiting = {place: rounds.questions for place, rounds in going.items() if rounds.questions}
        pairs = [pair for asked_here in waiting.values() for pair in asked_here]
        scores = iter(
            engine.score([pair.prompt for pair in pairs], [pair.completion for pair in pairs]) if pairs else ()
        )
        for place, asked_here in waiting.items():
            turn_to(place, going[place].hear([next(scores) for _ in asked_here]))


def next_round(
    prompt: Prompt,
    rounds: Sequence[Completion],
    config: RefinementConfig,
    prompt_config: PromptConfig,
    likelier: Sequence[bool] = (),
) -> Prompt | None:
    """What to ask after these answers, None where refinement ends with them.

    Rounds.params tells how it is to be sampled. likelier is for accept = likelier, see is_likelier.
    """
    if stop_reason(rounds, prompt.tools, config, likelier):
        return None
    if config.asks_afresh:
        again = prompt.model_copy(update={"id": f"{prompt.id}/round-{len(rounds)}"})
        return in_another_order(again) if config.shuffle and config.how == "resample" else again
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


def in_another_order(prompt: Prompt) -> Prompt:
    """The prompt with its tools, and the parameters of each, in an order that follows from its id."""
    rng = Random(prompt.id)
    tools = [
        tool.model_copy(update={"parameters": shuffle_properties(tool.parameters, rng)})
        for tool in shuffle(prompt.tools, rng)
    ]
    return prompt.model_copy(update={"tools": tuple(tools)})


def shuffle_properties(schema: dict[str, Any], rng: Random) -> dict[str, Any]:
    """A schema that allows the same, with its properties in another order."""
    return reorder_properties(schema, lambda properties: shuffle(properties, rng))


def shuffle(items: Sequence[T], rng: Random) -> list[T]:
    """The items in another order than theirs, if there is one."""
    shuffled = rng.sample(items, len(items))
    return shuffled if shuffled != [*items] else shuffled[::-1]


def end_of_rounds(
    prompt: Prompt, rounds: Sequence[Completion], config: RefinementConfig, likelier: Sequence[bool] = ()
) -> Refinement:
    """All rounds of a prompt. One that had no room for an answer is none: the answer before it stands."""
    reason = stop_reason(rounds, prompt.tools, config, likelier) or StopReason.MAX_ROUNDS
    if reason is StopReason.NO_ROOM:
        rounds = rounds[:-1]
    return Refinement(
        prompt_id=prompt.id,
        rounds=tuple(rounds),
        stop_reason=reason,
        rejected=tuple(rejected_rounds(rounds, prompt.tools, config, likelier)),
    )


def stop_reason(
    rounds: Sequence[Completion], tools: Sequence[Tool], config: RefinementConfig, likelier: Sequence[bool] = ()
) -> StopReason | None:
    """Why refinement ends with these answers, None where it goes on."""
    *earlier, answer = rounds
    if answer.had_no_room:
        return StopReason.NO_ROOM if earlier else StopReason.MAX_ROUNDS
    rejected = rejected_rounds(rounds, tools, config, likelier)
    if config.asks_afresh:
        # Another sample may always be better: neither one that is rejected nor the same fault again ends the rounds.
        answer = next(each for number, each in reversed([*enumerate(rounds)]) if number not in rejected)
    elif config.stop == "unchanged" and earlier and same_calls(earlier[-1], answer):
        return StopReason.UNCHANGED
    elif config.stop == "unchanged" and any(same_calls(seen, answer) for seen in earlier[:-1]):
        return StopReason.SEEN_BEFORE
    elif len(earlier) in rejected and (
        config.accept == "likelier" or any(find_fault(each, tools) is None for each in earlier)
    ):
        return StopReason.REJECTED
    if len(rounds) > (min(1, config.max_rounds) if config.how == "constrain" else config.max_rounds):
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


def rejected_rounds(
    rounds: Sequence[Completion], tools: Sequence[Tool], config: RefinementConfig, likelier: Sequence[bool] = ()
) -> list[int]:
    """The rounds whose answer does not replace the one that stands, which is the draft at first.

    Raises:
        RequestError: accept = likelier needs scores that the caller has not asked for.
    """
    if config.accept == "always":
        return []
    rejected = []
    standing = rounds[0]
    for number, answer in enumerate(rounds[1:], 1):
        is_valid = find_fault(answer, tools) is None
        is_settled = config.accept == "valid" or is_valid is not (find_fault(standing, tools) is None)
        if is_settled or answer.had_no_room:
            is_accepted = is_valid
        elif config.asks_afresh:
            is_accepted = (total_logprob(answer) or 0.0) > (total_logprob(standing) or 0.0) + config.margin
        elif number <= len(likelier):
            is_accepted = likelier[number - 1]
        else:
            raise RequestError("refinement.accept=likelier: answers cannot be scored here; set refinement.accept=valid")
        if is_accepted:
            standing = answer
        else:
            rejected.append(number)
    return rejected


def questions(
    prompt: Prompt, rounds: Sequence[Completion], config: RefinementConfig, prompt_config: PromptConfig
) -> list[Question]:
    """What has to be scored before accept = likelier can judge the last of these answers; see is_likelier."""
    if config.accept != "likelier" or config.asks_afresh or len(rounds) < 2:
        return []
    draft, answer = rounds[-2:]
    is_settled = (find_fault(draft, prompt.tools) is None) is not (find_fault(answer, prompt.tools) is None)
    if answer.had_no_room or is_settled or same_calls(draft, answer):
        return []
    asked = refinement_prompt(prompt, draft, len(rounds) - 1, prompt_config, explain=config.how == "explain")
    found = [Question(asked, draft), Question(prompt, answer)]
    if _logprob_of_draft(rounds) is None:
        found.append(Question(prompt, draft))
    if total_logprob(answer) is None:
        found.append(Question(asked, answer))
    return found


def is_likelier(rounds: Sequence[Completion], scores: Sequence[float], margin: float = 0.0) -> bool:
    """Whether the last answer r is at least as likely as the draft d that it refines, with and without d in the prompt.

    That is, log p(r | prompt) + log p(r | prompt, d, request) >= log p(d | prompt) + log p(d | prompt, d, request) +
    margin.
    scores are those of the questions; what has been sampled behind its prompt tells its own.
    """
    behind_draft, answer_alone, *rest = scores
    draft_alone, answer_behind = _logprob_of_draft(rounds), total_logprob(rounds[-1])
    left = iter(rest)
    draft_alone = next(left) if draft_alone is None else draft_alone
    answer_behind = next(left) if answer_behind is None else answer_behind
    return answer_alone + answer_behind >= draft_alone + behind_draft + margin


def total_logprob(completion: Completion) -> float | None:
    """The log-probability of a completion behind the prompt that it was sampled from; None where it is not known."""
    return None if completion.mean_logprob is None else completion.mean_logprob * completion.num_tokens


def _logprob_of_draft(rounds: Sequence[Completion]) -> float | None:
    """The log-probability of what the last answer refines, where it was sampled behind the prompt alone."""
    return total_logprob(rounds[0]) if len(rounds) == 2 else None


def find_fault(answer: Completion, tools: Sequence[Tool]) -> str | None:
    """What shows without a gold answer that an answer is wrong, as a sentence; None where nothing does."""
    match answer.outcome:
        case Outcome.MALFORMED:
            return "Your answer cannot be read as calls."
        case Outcome.TRUNCATED:
            return "Your answer is too long and was cut off."
        case _:
            return schema_violation(answer.calls, tools) if tools else None
