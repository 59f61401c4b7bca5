"""The rounds of one answer: from a draft to the answer that stands. Whatever fails on the way, the draft stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, NamedTuple, TypeVar

from toolrefine.config import PromptConfig, RefinementConfig
from toolrefine.corpus import refine_messages
from toolrefine.matching import same_calls
from toolrefine.refine import end_of_rounds, find_fault, shuffle, shuffle_properties, stop_reason
from toolrefine.server.answers import Answer, add_usage, read_answer
from toolrefine.server.chat_request import ChatRequest
from toolrefine.server.errors import UpstreamError
from toolrefine.types import Prompt, StopReason

T = TypeVar("T")

log = logging.getLogger(__name__)

_CHECKS = ThreadPoolExecutor(1, "toolrefine-check")

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the upstream for one whole answer; raises UpstreamError where there is none."""


class Settled(NamedTuple):
    """What came of one draft."""

    choice: dict[str, Any]
    """The answer that stands, as the upstream gave it in its round."""
    num_rounds: int
    """After the draft."""
    stop_reason: str
    """A StopReason, or the code of the error that ended the rounds."""
    changed: bool
    """Whether other calls stand than the draft's."""
    usage: Any
    """Of the rounds after the draft, added; None without any."""
    failed: bool = False
    """Whether a round failed."""


class Rules(NamedTuple):
    """How answers are read and refined."""

    policy: RefinementConfig
    prompt: PromptConfig
    convert: bool


async def settle(request: ChatRequest, draft: dict[str, Any], ask: Ask, rules: Rules, deadline: float) -> Settled:
    """Refine a draft, until the loop's time deadline."""
    try:
        return await _settle(request, draft, ask, rules, deadline)
    except RecursionError:  # something is nested more deeply than anybody means it
        return Settled(draft, 0, "unreadable", changed=False, usage=None)
    except Exception:  # a mistake in here must not cost the client a draft that it would have without us
        log.exception("refinement failed; the draft stands")
        return Settled(draft, 0, "internal_error", changed=False, usage=None, failed=True)


async def _settle(request: ChatRequest, draft: dict[str, Any], ask: Ask, rules: Rules, deadline: float) -> Settled:
    first = read_answer(draft, request, rules.prompt.format, convert=rules.convert)
    if first is None:
        return Settled(draft, 0, "unreadable", changed=False, usage=None)
    answers, num_rounds, usage, failure = [first], 0, None, ""
    reason: StopReason | None = None
    while not failure:
        try:
            async with asyncio.timeout_at(deadline):
                reason = await _check(_stop, request, answers, rules)
                if reason:
                    break
                body = await _check(_next_body, request, answers, rules)
                num_rounds += 1
                reply = await ask(body)
        except UpstreamError as error:
            failure = error.code
            break
        except TimeoutError:
            failure = "deadline"
            break
        usage = add_usage(usage, reply.get("usage"))
        answer = _only_choice(reply, request, rules)
        if answer is None:
            failure = "upstream_malformed"
        else:
            answers.append(answer)
    standing = await _check(_standing, request, answers, rules) if len(answers) > 1 else first
    changed = standing is not first and not same_calls(first.completion, standing.completion)
    return Settled(
        choice={**standing.choice, "index": draft.get("index", 0)} if changed else first.choice,
        num_rounds=num_rounds,
        stop_reason=failure or str(reason),
        changed=changed,
        usage=usage,
        failed=bool(failure),
    )


async def _check(
    check: Callable[[ChatRequest, Sequence[Answer], Rules], T],
    request: ChatRequest,
    answers: Sequence[Answer],
    rules: Rules,
) -> T:
    """What a check of the answers says. One that may take long has a thread, so that other requests go on meanwhile.

    A request has one such check in the thread's queue at a time, so that those with many answers leave room for others.
    """
    if not request.may_take_long([answer.completion for answer in answers]):
        return check(request, answers, rules)
    async with request.long_check:
        return await asyncio.get_running_loop().run_in_executor(_CHECKS, check, request, answers, rules)


def _only_choice(reply: dict[str, Any], request: ChatRequest, rules: Rules) -> Answer | None:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    return read_answer(choices[0], request, rules.prompt.format, convert=rules.convert)


def _stop(request: ChatRequest, answers: Sequence[Answer], rules: Rules) -> StopReason | None:
    """Why refinement ends with these answers, None where it goes on."""
    completions = [answer.completion for answer in answers]
    return stop_reason(completions, request.tools_of(completions), rules.policy)


def _standing(request: ChatRequest, answers: Sequence[Answer], rules: Rules) -> Answer:
    """The last answer that was accepted."""
    completions = [answer.completion for answer in answers]
    prompt = Prompt(id="request", messages=(), tools=request.tools_of(completions))
    refinement = end_of_rounds(prompt, completions, rules.policy)
    return answers[max(place for place in range(len(refinement.rounds)) if place not in refinement.rejected)]


def _next_body(request: ChatRequest, answers: Sequence[Answer], rules: Rules) -> dict[str, Any]:
    """What to ask after these answers: to refine the last, or afresh."""
    answer = answers[-1]
    if rules.policy.how == "constrain":
        return {**request.follow_up([]), "constrain": True}
    if rules.policy.how == "resample":
        body = request.follow_up([])
        if rules.policy.shuffle:
            body["tools"] = shuffle_tools(body["tools"], Random(len(answers)))
        seed = {"seed": body["seed"] + len(answers)} if isinstance(body.get("seed"), int) else {}
        return {**body, **seed, "temperature": rules.policy.temperature}
    fault = answer.violation
    if not fault and rules.policy.how == "explain":
        fault = find_fault(answer.completion, request.tools_of([answer.completion])) or ""
    *_, request_turn = refine_messages((), answer.completion, rules.prompt, fault)
    return request.follow_up([answer.turn, {"role": request_turn.role, "content": request_turn.content}])


def shuffle_tools(tools: Sequence[Any], rng: Random) -> list[Any]:
    """The tools of a request, and the parameters of each, in another order."""
    shuffled = []
    for tool in shuffle(tools, rng):
        function = tool.get("function") if isinstance(tool, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(parameters, dict):
            function = {**function, "parameters": shuffle_properties(parameters, rng)}
            tool = {**tool, "function": function}
        shuffled.append(tool)
    return shuffled
