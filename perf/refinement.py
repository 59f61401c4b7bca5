"""Row: the prefill of the first refinement round, going on from what the draft has computed, or rebuilt.

A random model's text would not read back as the tokens that it sampled, so it is made to repeat one that does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from perf.harness import Facts, Row, Work, make_row, measure
from perf.sampling import Task, make_engine
from toolrefine.config import PromptConfig
from toolrefine.engines import SamplingParams
from toolrefine.refine import refinement_prompt
from toolrefine.rollout import to_prompt
from toolrefine.types import Completion, Prompt


def side(task: Task, reuse: bool) -> Work:
    """Draft and one refinement round; the seconds are those of the second round's prefill alone."""
    engine = make_engine(task)
    if task.shape != "nano":
        with torch.no_grad():
            engine.model.lm_head.bias[stable_token(engine.tokenizer)] = 1e4
    prompts = [to_prompt(sample) for sample in task.samples()]
    params = SamplingParams(temperature=0.0, max_new_tokens=task.max_new_tokens)
    seconds: list[float] = []
    in_second_round = False
    decoder: Any = engine.decoder
    add = decoder.add

    def timed_add(*arguments: Any) -> torch.Tensor:
        start = time.perf_counter()
        states: torch.Tensor = add(*arguments)
        known = arguments[-1]
        if in_second_round or any(prefix is not None for prefix in known):
            seconds.append(time.perf_counter() - start)
        return states

    decoder.add = timed_add

    def second(place: int, completions: Sequence[Completion]) -> Prompt | None:
        return refinement_prompt(prompts[place], completions[0], 1, PromptConfig()) if len(completions) == 1 else None

    def work() -> Facts:
        nonlocal in_second_round
        seconds.clear()
        start = time.perf_counter()
        if reuse:
            engine.chain(prompts, params, second)
        else:
            first = engine.sample(prompts, 1, params)
            rebuilt = [second(place, group) for place, group in enumerate(first)]
            in_second_round = True
            engine.sample([prompt for prompt in rebuilt if prompt is not None], 1, params)
            in_second_round = False
        return {"seconds": sum(seconds), "whole_s": time.perf_counter() - start, "prompts": len(prompts)}

    return work


def stable_token(tokenizer: Any, num: int = 40) -> int:
    """A token that stays itself however often it is repeated, in whatever text."""
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if (
            text.isalpha()
            and tokenizer(f"\n{text * num}<", add_special_tokens=False)["input_ids"][1:-1] == [token] * num
        ):
            return token
    raise AssertionError("no token is stable")


def refinement_row(
    label: str, task: Task, *, at_least: float | None = None, rounds: int = 3, budget_s: float = 0.0
) -> Row:
    """Prefill of round 2."""
    timings = measure(
        {"ours": partial(side, task, True), "peer": partial(side, task, False)},
        rounds=rounds,
        budget_s=budget_s,
    )
    ours, peer = timings["ours"], timings["peer"]
    note = (
        f"prefill alone, {ours.facts['prompts']} prompts; "
        f"both rounds as a whole {peer.facts['whole_s'] / ours.facts['whole_s']:.2f}"
    )
    return make_row(f"refinement round 2, prefill, {label}", ours, peer, at_least=at_least, note=note)
