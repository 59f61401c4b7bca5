"""Rows: what options of the engine, of the rollouts and of refinement cost."""

from __future__ import annotations

from functools import partial

from perf.harness import Facts, Row, Work, make_row, measure
from perf.sampling import Task, make_engine
from toolrefine.config import PromptConfig, RefinementConfig, RolloutConfig
from toolrefine.engines import SamplingParams
from toolrefine.refine import refine
from toolrefine.rollout import rollout, to_prompt


def constrained_side(task: Task, constrain: bool) -> Work:
    """Greedy answers, any or those that fit their tools."""
    engine = make_engine(task)
    prompts = [to_prompt(sample) for sample in task.samples()]
    params = SamplingParams(temperature=0.0, max_new_tokens=task.max_new_tokens, constrain=constrain)

    def work() -> Facts:
        groups = engine.sample(prompts, 1, params)
        return {"tokens": sum(completion.num_tokens for group in groups for completion in group)}

    return work


def scored_side(task: Task, score_labels: bool) -> Work:
    """Rollouts, with the labels scored that no completion gives, or without."""
    engine, samples = make_engine(task), task.samples()
    config = RolloutConfig(k=task.k, max_new_tokens=task.max_new_tokens, score_labels=score_labels)

    def work() -> Facts:
        groups = [group for chunk in rollout(0, config.chunk_size, engine, samples, config, seed=0) for group in chunk]
        return {"unsolved": sum(not group.num_correct for group in groups)}

    return work


def shuffled_side(task: Task, shuffle: bool) -> Work:
    """A greedy answer and another sample of each prompt, its tools in another order or in the same."""
    engine = make_engine(task)
    prompts = [to_prompt(sample) for sample in task.samples()]
    config = RefinementConfig(max_rounds=1, how="resample", accept="likelier", shuffle=shuffle)
    params = SamplingParams(temperature=0.0, max_new_tokens=task.max_new_tokens)

    def work() -> Facts:
        return {"tokens": sum(each.num_tokens for each in refine(engine, prompts, config, PromptConfig(), params))}

    return work


def option_rows(task: Task, *, rounds: int = 3) -> list[Row]:
    """Without the option over with it: below 1, for both take something."""
    found = {
        side: measure({"with": partial(side, task, True), "without": partial(side, task, False)}, rounds=rounds)
        for side in (constrained_side, scored_side, shuffled_side)
    }
    (constrained, free), (scored, unscored), (shuffled, alike) = (timings.values() for timings in found.values())
    where = f"{task.num_prompts} prompts of {task.shape}"
    tokens = f"greedy; {constrained.facts['tokens']} tokens against {free.facts['tokens']}"
    unsolved = f"{scored.facts['unsolved']} labels that no completion gives"
    others = f"a greedy answer and a sample; {shuffled.facts['tokens']} tokens against {alike.facts['tokens']}"
    return [
        make_row(f"constrained decoding, {task.shape}: free", constrained, free, note=f"{where}, {tokens}"),
        make_row(f"labels scored, {task.shape}, k={task.k}: not scored", scored, unscored, note=f"{where}, {unsolved}"),
        make_row(f"tools shuffled, {task.shape}: in the same order", shuffled, alike, note=f"{where}, {others}"),
    ]
