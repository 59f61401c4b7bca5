"""Row: what parsing and matching take of a rollout."""

from __future__ import annotations

from functools import partial

from perf.harness import Facts, Row, Work, make_row, measure
from perf.sampling import Task, make_engine
from toolrefine.config import RolloutConfig
from toolrefine.matching import score
from toolrefine.rollout import rollout
from toolrefine.types import Group, Outcome


def side(task: Task, judge_alone: bool) -> Work:
    """A whole rollout, or the parsing and matching of its completions once more."""
    engine, samples = make_engine(task), task.samples()
    config = RolloutConfig(k=task.k, max_new_tokens=task.max_new_tokens, score_labels=False)

    def sample() -> list[Group]:
        return [group for chunk in rollout(0, config.chunk_size, engine, samples, config, seed=0) for group in chunk]

    groups = sample()

    def judge() -> Facts:
        num_correct = 0
        for item, group in zip(samples, groups, strict=True):
            for completion in group.completions:
                truncated = completion.outcome is Outcome.TRUNCATED
                parsed = engine.chat.parse(completion.text, truncated=truncated, tools=item.tools)
                read = completion.model_copy(update={"calls": parsed.calls, "outcome": parsed.outcome})
                num_correct += score(read, item).correct
        return {"num_correct": num_correct}

    def work() -> Facts:
        return {"num_correct": sum(group.num_correct for group in sample())}

    return judge if judge_alone else work


def judging_row(task: Task, *, at_least: float | None = None, rounds: int = 3, budget_s: float = 0.0) -> Row:
    """A rollout's time over that of its parsing and matching."""
    timings = measure(
        {"ours": partial(side, task, True), "peer": partial(side, task, False)},
        rounds=rounds,
        budget_s=budget_s,
        warm_up=False,
    )
    ours, peer = timings["ours"], timings["peer"]
    if ours.facts != peer.facts:
        raise AssertionError(f"judged again, {ours.facts} completions are right, not {peer.facts}")
    note = f"{task.shape}, {task.num_prompts} prompts; parsing and matching take {ours.seconds / peer.seconds:.2%}"
    return make_row("rollout: whole against parsing and matching", ours, peer, at_least=at_least, note=note)
