"""Rows: completions in waves that end with the first success, beside all k at once.

Success is simulated, so that both sides see the same: completion i of a prompt succeeds or not whatever its text is.
"""

from __future__ import annotations

import math
from functools import partial
from random import Random
from typing import Literal

from perf.harness import Facts, Row, Work, make_row, measure, missing_row
from perf.sampling import Task, make_engine
from toolrefine.engines import SamplingParams
from toolrefine.rollout import to_prompt
from toolrefine.types import Completion

Rates = Literal["mixed", "none", "all"]


def success_rate(rates: Rates, place: int, num_prompts: int) -> float:
    """Quantiles of Beta(0.5, 0.5), the arcsine law, or the same for all prompts."""
    if rates == "mixed":
        return math.sin(math.pi / 2 * (place + 0.5) / num_prompts) ** 2
    return float(rates == "all")


def side(task: Task, rates: Rates, in_waves: bool) -> Work:
    """Our engine, with or without a callback."""
    engine = make_engine(task)
    prompts = [to_prompt(sample) for sample in task.samples()]
    Random(0).shuffle(prompts)  # they come by length, and the rates by place
    params = SamplingParams(max_new_tokens=task.max_new_tokens)

    def succeeds(place: int, index: int, _: Completion | None = None) -> bool:
        return Random(f"{place}/{index}").random() < success_rate(rates, place, len(prompts))

    def work() -> Facts:
        solved: set[int] = set()

        def accept(place: int, index: int, completion: Completion) -> bool:
            if succeeds(place, index):
                solved.add(place)
                return True
            return False

        groups = engine.sample(prompts, task.k, params, accept) if in_waves else engine.sample(prompts, task.k, params)
        if not in_waves:
            solved = {place for place, group in enumerate(groups) if any(succeeds(place, i) for i in range(len(group)))}
        return {"completions": sum(map(len, groups)), "solved": sorted(solved)}

    engine.sample(prompts[:1], task.k, params)
    return work


def waves_rows(
    label: str,
    task: Task,
    rates: Rates,
    *,
    at_least: float,
    saved_at_least: float | None = None,
    rounds: int = 3,
    budget_s: float = 0.0,
) -> list[Row]:
    """Wall time, and how many completions are drawn."""
    name = f"waves, {label}"
    timings = measure(
        {"ours": partial(side, task, rates, True), "all": partial(side, task, rates, False)},
        rounds=rounds,
        budget_s=budget_s,
        warm_up=False,
    )
    ours, every = timings["ours"], timings["all"]
    if ours.facts["solved"] != every.facts["solved"]:
        return [missing_row(name, "the sets of solved prompts differ", at_least)]
    drawn, of = ours.facts["completions"], every.facts["completions"]
    note = (
        f"{task.num_prompts} prompts of {task.shape}; {1 - drawn / of:.0%} of {of} completions saved; "
        f"the same {len(ours.facts['solved'])} prompts solved"
    )
    rows = [make_row(name, ours, every, at_least=at_least, note=note)]
    if saved_at_least is not None:
        counts = {"ours_s": None, "peer_s": None, "ours_peak_mb": None, "peer_peak_mb": None}
        rows.append(
            rows[0].model_copy(
                update={
                    "name": f"{name}: completions drawn",
                    "ratio": round(of / drawn, 3),
                    "at_least": round(1 / (1 - saved_at_least), 3),
                    "note": f"{of} completions over {drawn}",
                    **counts,
                }
            )
        )
    return rows
