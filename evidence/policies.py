"""Study 3: what refinement policies are worth, against other ways to spend calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from evidence.cells import Arm, Cell, Scale, marks
from toolrefine.benchmarking import best, vote
from toolrefine.calibration import Budget, calibrate
from toolrefine.config import EngineConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams, open_engine
from toolrefine.engines.answers import Answers
from toolrefine.engines.memory import RememberingEngine
from toolrefine.matching import score
from toolrefine.refine import find_fault, refine
from toolrefine.rollout import chunks, to_prompt
from toolrefine.types import Checkpoint, Completion, Refinement, Sample

PROMPT = PromptConfig()
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=128)
SAMPLED = SamplingParams(temperature=0.7, max_new_tokens=128)
CHUNK_SIZE = 500
MAX_CALLS = 1.5
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
    "invalid: constrain": RefinementConfig(max_rounds=1, when="invalid", how="constrain", accept="valid"),
    "resample, accept likelier, 1 round": RefinementConfig(max_rounds=1, how="resample", accept="likelier"),
    "resample, accept likelier, 4 rounds": RefinementConfig(max_rounds=4, how="resample", accept="likelier"),
}
CHOSEN = "calibrated"
Source = Callable[[], Iterable[Sample]]
"""Makes samples, in the process that needs them."""


def run_policy_cell(
    folder: Path,
    *,
    study: str,
    condition: str,
    checkpoint: Checkpoint,
    dev: Source,
    held_out: Source,
    seed: int,
    scale: Scale,
) -> Cell:
    """Answer the held-out samples in every way; one policy has been chosen on dev within MAX_CALLS calls a sample.

    The first arm is the greedy draft. Facts of the cell tell which drafts break their schema, and the chosen policy.
    """
    dev_samples, samples = list(dev()), list(held_out())
    config = EngineConfig(max_batch_rows=512)
    free = RefinementConfig(max_rounds=0)
    with open_engine(checkpoint, config, PROMPT) as plain:
        answers = Answers(str(folder / "dev.jsonl"), checkpoint)
        found = calibrate(RememberingEngine(plain, answers), dev_samples, PROMPT, Budget(calls=MAX_CALLS), SAMPLED)
        engine = RememberingEngine(plain, Answers(str(folder / "held-out.jsonl"), checkpoint))
        drafts = [each.draft for each in ask(engine, samples, free)]
        arms = [Arm(name="draft", verdicts=judge(drafts, samples), tokens=mean(each.num_tokens for each in drafts))]
        for name, policy in (POLICIES | {CHOSEN: found.refinement}).items():
            arms.append(refined(name, ask(engine, samples, policy), samples))
        constrained = GREEDY.model_copy(update={"constrain": True})
        arms.append(refined("constrained decoding", ask(engine, samples, free, constrained), samples))
        arms += sampled_arms(plain, samples)
    invalid = [find_fault(draft, sample.tools) is not None for draft, sample in zip(drafts, samples, strict=True)]
    facts = {"invalid": marks(invalid), "chosen": found.refinement.model_dump(exclude_defaults=True)}
    return Cell(study=study, condition=condition, seed=seed, arms=tuple(arms), facts=facts, scale=scale)


def ask(
    engine: Engine, samples: Sequence[Sample], policy: RefinementConfig, params: SamplingParams = GREEDY
) -> list[Refinement]:
    """Answers to samples by a policy."""
    return [
        refinement
        for chunk in chunks(samples, CHUNK_SIZE)
        for refinement in refine(engine, [to_prompt(sample) for sample in chunk], policy, PROMPT, params)
    ]


def refined(name: str, found: Sequence[Refinement], samples: Sequence[Sample]) -> Arm:
    """An arm from the rounds of a policy."""
    return Arm(
        name=name,
        verdicts=judge([each.final for each in found], samples),
        calls=mean(each.num_calls for each in found),
        tokens=mean(each.num_tokens for each in found),
    )


def sampled_arms(engine: Engine, samples: Sequence[Sample]) -> Iterator[Arm]:
    """Votes and best-of-n of samples drawn without a greedy draft."""
    groups: list[list[Completion]] = []
    for chunk in chunks(samples, CHUNK_SIZE):
        groups += engine.sample([to_prompt(sample) for sample in chunk], NUM_SAMPLES, SAMPLED)
    ways: dict[str, tuple[Callable[[Sequence[Completion]], int], tuple[int, ...]]] = {
        "vote": (vote, (3, 5, 8)),
        "best": (best, (2, 5, 8)),
    }
    for way, (choose, sizes) in ways.items():
        for n in sizes:
            chosen = [group[choose(group[:n])] for group in groups]
            tokens = mean(sum(each.num_tokens for each in group[:n]) for group in groups)
            yield Arm(name=f"{way} of {n} samples", verdicts=judge(chosen, samples), calls=float(n), tokens=tokens)


def judge(completions: Sequence[Completion], samples: Sequence[Sample]) -> str:
    """Verdicts as Arm has them."""
    return marks(score(each, sample).correct for each, sample in zip(completions, samples, strict=True))


def mean(numbers: Iterable[int]) -> float:
    """The arithmetic mean."""
    every = list(numbers)
    return sum(every) / len(every)
