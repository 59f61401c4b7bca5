"""Study 3: what refinement policies are worth, against other ways to spend calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evidence.cells import Arm, Cell, Scale, marks
from evidence.trainings import FULL, Material, build_full
from toolrefine.benchmarking import best, vote
from toolrefine.calibration import Budget, calibrate
from toolrefine.config import CorpusConfig, EngineConfig, EvaluationConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams, open_engine
from toolrefine.engines.answers import Answers
from toolrefine.engines.memory import RememberingEngine
from toolrefine.loop import train
from toolrefine.matching import score
from toolrefine.models import resolve_model
from toolrefine.refine import find_fault, refine
from toolrefine.rollout import chunks, to_prompt
from toolrefine.rundir import open_run
from toolrefine.types import Checkpoint, Completion, Prompt, Refinement, Sample

PROMPT = PromptConfig()
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=128)
SAMPLED = SamplingParams(temperature=0.7, max_new_tokens=128)
CHUNK_SIZE = 500
NUM_SAMPLES = 8
POLICIES = {
    "ask, the paper's algorithm, 1 round": RefinementConfig(max_rounds=1),
    "ask, the paper's algorithm, 2 rounds": RefinementConfig(max_rounds=2),
    "ask, accept valid": RefinementConfig(max_rounds=1, accept="valid"),
    "ask, accept likelier": RefinementConfig(max_rounds=1, accept="likelier"),
    "invalid: ask": RefinementConfig(max_rounds=1, when="invalid", accept="valid"),
    "invalid: explain": RefinementConfig(max_rounds=1, when="invalid", how="explain", accept="valid"),
    "invalid: resample, 1 round": RefinementConfig(max_rounds=1, when="invalid", how="resample", accept="valid"),
    "invalid: resample, 4 rounds": RefinementConfig(max_rounds=4, when="invalid", how="resample", accept="valid"),
    "invalid: resample, 8 rounds": RefinementConfig(max_rounds=8, when="invalid", how="resample", accept="valid"),
    "invalid: resample shuffled, 8 rounds": RefinementConfig(
        max_rounds=8, when="invalid", how="resample", shuffle=True, accept="valid"
    ),
    "invalid: constrain": RefinementConfig(max_rounds=1, when="invalid", how="constrain", accept="valid"),
    "resample, accept likelier, 1 round": RefinementConfig(max_rounds=1, how="resample", accept="likelier"),
    "resample, accept likelier, 4 rounds": RefinementConfig(max_rounds=4, how="resample", accept="likelier"),
    "resample shuffled, accept likelier, 1 round": RefinementConfig(
        max_rounds=1, how="resample", shuffle=True, accept="likelier", margin=1.0
    ),
    "resample shuffled, accept likelier, 4 rounds": RefinementConfig(
        max_rounds=4, how="resample", shuffle=True, accept="likelier", margin=1.0
    ),
}
CHOSEN = "calibrated"
BUDGET = Budget(calls=1.5, broken=0.001)


class Question(NamedTuple):
    """What is asked, and how answers are judged."""

    prompt: Prompt
    is_right: Callable[[Completion], bool]


Samples = Callable[[], Iterable[Sample]]
"""Makes samples, in the process that needs them."""
Questions = Callable[[], Iterable[Question]]


def questions(samples: Samples) -> list[Question]:
    """Samples as questions: right is an exact match of all calls."""
    return [Question(to_prompt(sample), partial(is_right, sample)) for sample in samples()]


def is_right(sample: Sample, completion: Completion) -> bool:
    """Whether an answer to a sample is its label."""
    return score(completion, sample).correct


def run_policy_cell(
    folder: Path,
    *,
    study: str,
    condition: str,
    checkpoint: Checkpoint,
    dev: Samples | None,
    held_out: Questions,
    seed: int,
    scale: Scale,
    policies: Collection[str] = tuple(POLICIES),
    num_samples: int = NUM_SAMPLES,
) -> Cell:
    """Answer the held-out questions by some of POLICIES and in other ways.

    These are a policy chosen on dev within BUDGET, constrained decoding, and votes and the best of up
    to num_samples samples. The first arm is the greedy draft. Facts of the cell tell which drafts break their schema,
    and the chosen policy.
    """
    asked = list(held_out())
    config = EngineConfig(max_batch_rows=512)
    ways = {name: POLICIES[name] for name in policies}
    facts: dict[str, Any] = {"num_parameters": count_parameters(checkpoint.model)}
    with open_engine(checkpoint, config, PROMPT) as plain:
        if dev is not None:
            answers = Answers(str(folder / "dev.jsonl"), checkpoint)
            remembering = RememberingEngine(plain, answers)
            ways[CHOSEN] = calibrate(remembering, list(dev()), PROMPT, BUDGET, SAMPLED).refinement
            facts["chosen"] = ways[CHOSEN].model_dump(exclude_defaults=True)
        engine = RememberingEngine(plain, Answers(str(folder / "held-out.jsonl"), checkpoint))
        free = RefinementConfig(max_rounds=0)
        drafts = [each.draft for each in ask(engine, asked, free)]
        arms = [Arm(name="draft", verdicts=judge(drafts, asked), tokens=fmean(each.num_tokens for each in drafts))]
        arms += [refined(name, ask(engine, asked, policy), asked) for name, policy in ways.items()]
        constrained = GREEDY.model_copy(update={"constrain": True})
        arms.append(refined("constrained decoding", ask(engine, asked, free, constrained), asked))
        if num_samples:
            arms += sampled_arms(plain, asked, num_samples)
    invalid = [find_fault(draft, each.prompt.tools) is not None for draft, each in zip(drafts, asked, strict=True)]
    facts["invalid"] = marks(invalid)
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(arms), facts=facts, scale=scale)


def run_mix_cell(
    folder: Path,
    *,
    study: str,
    condition: str,
    material: Material,
    corpus: CorpusConfig,
    held_out: Questions,
    policies: Collection[str],
    seed: int,
    scale: Scale,
) -> Cell:
    """Train by the full method with other refinement data, and answer by policies that refine drafts."""
    config = build_full("nano", material, seed, scale)
    config = config.model_copy(update={"baseline": False, "evaluation": EvaluationConfig(), "corpus": corpus})
    with open_run(folder / FULL, config) as run:
        trained = train(config, run)
    return run_policy_cell(
        folder,
        study=study,
        condition=condition,
        checkpoint=trained,
        dev=None,
        held_out=held_out,
        seed=seed,
        scale=scale,
        policies=policies,
        num_samples=0,
    )


def count_parameters(model: str) -> int:
    """Of a model, from its config."""
    config = AutoConfig.from_pretrained(resolve_model(model))
    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


def ask(
    engine: Engine, asked: Sequence[Question], policy: RefinementConfig, params: SamplingParams = GREEDY
) -> list[Refinement]:
    """Answers to questions by a policy."""
    return [
        refinement
        for chunk in chunks(asked, CHUNK_SIZE)
        for refinement in refine(engine, [each.prompt for each in chunk], policy, PROMPT, params)
    ]


def refined(name: str, found: Sequence[Refinement], asked: Sequence[Question]) -> Arm:
    """An arm from the rounds of a policy."""
    return Arm(
        name=name,
        verdicts=judge([each.final for each in found], asked),
        calls=fmean(each.num_calls for each in found),
        tokens=fmean(each.num_tokens for each in found),
    )


def sampled_arms(engine: Engine, asked: Sequence[Question], num_samples: int) -> Iterator[Arm]:
    """Votes and best-of-n of samples drawn without a greedy draft."""
    groups: list[list[Completion]] = []
    for chunk in chunks(asked, CHUNK_SIZE):
        groups += engine.sample([each.prompt for each in chunk], num_samples, SAMPLED)
    ways: dict[str, tuple[Callable[[Sequence[Completion]], int], tuple[int, ...]]] = {
        "vote": (vote, (3, 5, 8)),
        "best": (best, (2, 5, 8)),
    }
    for way, (pick, sizes) in ways.items():
        for n in [size for size in sizes if size <= num_samples]:
            chosen = [group[pick(group[:n])] for group in groups]
            tokens = fmean(sum(each.num_tokens for each in group[:n]) for group in groups)
            yield Arm(name=f"{way} of {n} samples", verdicts=judge(chosen, asked), calls=float(n), tokens=tokens)


def judge(completions: Sequence[Completion], asked: Sequence[Question]) -> str:
    """Verdicts as Arm has them."""
    return marks(each.is_right(completion) for completion, each in zip(completions, asked, strict=True))
