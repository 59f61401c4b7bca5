"""Evaluation: held-out samples answered greedily, refined, and scored round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolrefine.config import UNREFINED, MatchingConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import EXACT, score
from toolrefine.refine import refine
from toolrefine.rollout import chunks, to_prompt
from toolrefine.types import Completion, EvalItem, Sample


def evaluate(
    skip: int,
    chunk_size: int,
    engine: Engine,
    samples: Sequence[Sample],
    refinement: RefinementConfig,
    prompt: PromptConfig,
    matching: MatchingConfig = EXACT,
    *,
    max_new_tokens: int,
) -> Iterator[list[EvalItem]]:
    """Yield the scored answers to samples[skip:], chunk_size at a time, in order."""
    params = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)
    for chunk in chunks(samples[skip:], chunk_size):
        prompts = [to_prompt(sample) for sample in chunk]
        refinements = refine(engine, prompts, refinement, prompt, params)
        drafts: Sequence[Completion | None] = [None] * len(chunk)
        if refinement.constrain:
            drafts = [each.draft for each in refine(engine, prompts, UNREFINED, prompt, params)]
        yield [
            EvalItem(
                sample_id=sample.id,
                kind=sample.kind,
                refinement=answered,
                scores=tuple(score(completion, sample, matching) for completion in answered.answers),
                alone=(draft, score(draft, sample, matching)) if draft else None,
            )
            for sample, answered, draft in zip(chunk, refinements, drafts, strict=True)
        ]
        engine.forget()
