"""A run directory without a model: answers are drawn from a seed, right with a given probability."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from toolrefine.config import Config, CorpusConfig, PromptConfig, SelectionConfig
from toolrefine.corpus import build_corpus, direct_corpus
from toolrefine.datasets.toolworld import generate
from toolrefine.formats import get_format
from toolrefine.matching import same_calls, score
from toolrefine.rundir import (
    CORPUS,
    POOL,
    ROLLOUTS,
    SELECTED,
    SUSPECTS,
    environment,
    evaluation_stage,
    write_json,
    write_records,
)
from toolrefine.selection import find_suspects, select
from toolrefine.types import (
    Completion,
    EvalItem,
    Group,
    Outcome,
    Record,
    Refinement,
    Sample,
    StopReason,
    ToolCall,
)

K = 8


def write(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, records)


def completion(calls: Sequence[ToolCall] = (), text: str = "", outcome: Outcome | None = None) -> Completion:
    text = get_format("pythonic").render(calls) if calls else text
    outcome = outcome or (Outcome.CALLS if calls else Outcome.NO_CALL)
    return Completion(text=text, calls=tuple(calls), outcome=outcome, num_tokens=12, mean_logprob=-0.3)


def answer(truth: Sample, rng: Random, skill: float) -> Completion:
    """The true answer with probability skill, else one of the mistakes that models make."""
    calls = truth.target.tool_calls
    if rng.random() < skill:
        return completion(calls, "None of the tools fits this request.")
    tool = rng.choice(truth.tools)
    if not calls:
        return completion([ToolCall(name=tool.name, arguments={})])
    first, *rest = calls
    mistake = rng.random()
    if mistake < 0.15:
        return completion(text=f"[{first.name}(", outcome=Outcome.MALFORMED)
    if mistake < 0.25:
        return completion(text="I am not sure what you mean.")
    if mistake < 0.5:
        return completion([ToolCall(name=first.name + "s", arguments=first.arguments), *rest])
    if mistake < 0.7:
        return completion([ToolCall(name=first.name, arguments=dict(list(first.arguments.items())[1:])), *rest])
    wrong = {name: f"{value} II" for name, value in first.arguments.items()}
    return completion([ToolCall(name=first.name, arguments=wrong), *rest])


def evaluate(truths: Sequence[Sample], rng: Random, skill: float, max_rounds: int) -> list[EvalItem]:
    items = []
    for truth in truths:
        able = min(1.0, max(0.0, rng.betavariate(4 * skill, 4 * (1 - skill))))
        rounds = [answer(truth, rng, able)]
        reason = StopReason.MAX_ROUNDS
        while len(rounds) <= max_rounds:
            rounds.append(rounds[-1] if rng.random() < 0.8 else answer(truth, rng, min(1.0, able + 0.05)))
            if same_calls(rounds[-2], rounds[-1]):
                reason = StopReason.UNCHANGED
                break
        refinement = Refinement(prompt_id=truth.id, rounds=tuple(rounds), stop_reason=reason)
        scores = tuple(score(c, truth) for c in rounds)
        items.append(EvalItem(sample_id=truth.id, kind=truth.kind, refinement=refinement, scores=scores))
    return items


def build_run(
    folder: Path,
    *,
    num_iterations: int = 3,
    baseline: bool = True,
    known_labels: bool = True,
    evaluations: Sequence[str] = ("museum",),
    max_rounds: int = 2,
    size: int = 60,
    skills: Sequence[float] = (0.45, 0.6, 0.68, 0.71, 0.72),
) -> Path:
    """Write a whole run; tests then remove what an unfinished one would not have."""
    rng = Random("fake run")
    toolworld: dict[str, Any] = {"format": "toolworld", "domain": "observatory", "size": size, "seed": 1}
    config = Config.model_validate(
        {
            "model": "nano",
            "num_iterations": num_iterations,
            "baseline": baseline,
            "datasets": [{**toolworld, "wrong_label_rate": 0.2}],
            "rollout": {"k": K},
            "refinement": {"max_rounds": max_rounds},
            "evaluation": {"datasets": [{**toolworld, "domain": name, "seed": 2} for name in evaluations]},
        }
    )
    pool = list(generate("observatory", size, 1, 0.2))
    truths = list(generate("observatory", size, 1))
    if not known_labels:
        pool = [sample.model_copy(update={"meta": {}}) for sample in pool]
    ability = [rng.betavariate(0.8, 0.8) for _ in pool]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", json.loads(config.model_dump_json(exclude={"run"})))
    write_json(folder / "env.json", environment())
    write(folder / POOL.path, pool)
    held_out = {name: list(generate(name, size, 2)) for name in evaluations}
    for name, samples in held_out.items():
        write(folder / "held_out" / f"{name}.jsonl", samples)
    stages = ["pool"]
    for t in range(num_iterations + 1):
        it = folder / f"iterations/{t:03d}"
        it.mkdir(parents=True)
        if t:
            gain = skills[t - 1] - skills[0]
            groups = []
            for sample, truth, able in zip(pool, truths, ability, strict=True):
                answers = tuple(answer(truth, rng, min(1.0, able + gain)) for _ in range(K))
                scores = tuple(score(c, sample) for c in answers)
                groups.append(Group(sample_id=sample.id, completions=answers, scores=scores))
            selected = select(pool, groups, SelectionConfig())
            write(it / ROLLOUTS.path, groups)
            write(it / SELECTED.path, selected)
            write(it / SUSPECTS.path, find_suspects(pool, groups, SelectionConfig()))
            corpus = build_corpus(pool, selected, groups, CorpusConfig(), PromptConfig(), seed=t)
            write(it / CORPUS.path, corpus)
            write_training(it / "model", len(corpus))
            stages += [f"iterations/{t:03d}/{name}" for name in ("rollouts", "selected", "corpus", "model")]
        for name, samples in held_out.items():
            write(it / evaluation_stage(name).path, evaluate(samples, rng, skills[t], max_rounds))
            stages.append(f"iterations/{t:03d}/eval/{name}")
    if baseline:
        write(folder / "baseline" / CORPUS.path, direct_corpus(pool, PromptConfig()))
        write_training(folder / "baseline/model", size)
        for name, samples in held_out.items():
            write(folder / "baseline" / evaluation_stage(name).path, evaluate(samples, rng, 0.58, max_rounds))
    events = [json.dumps({"stage": stage, "wall_s": 10.0, "time": 1.0}) + "\n" for stage in stages]
    (folder / "metrics.jsonl").write_text("".join(events))
    return folder


def write_training(model: Path, num_examples: int) -> None:
    model.mkdir(parents=True)
    facts = {"num_steps": num_examples // 8, "num_examples": num_examples, "num_left_out": 1, "wall_s": 14.2}
    write_json(model / "training.json", {**facts, "first_loss": 1.2, "final_loss": 0.2, "unknown_to_this_version": 1})
    write_json(model / "checkpoint.json", {"model": str(model)})
