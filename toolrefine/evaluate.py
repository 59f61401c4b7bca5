"""Evaluation: held-out samples answered greedily, refined, and scored round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolrefine.config import UNREFINED, MatchingConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.matching import EXACT, score
from toolrefine.refine import refine
from toolrefine.rollout import chunks, to_prompt
from toolrefine.types import EvalItem, Sample


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
        bent = [place for place, each in enumerate(refinements) if refinement.constrain and each.draft.bent]
        unbound = refine(engine, [prompts[place] for place in bent], UNREFINED, prompt, params)
        alone = {place: each.draft for place, each in zip(bent, unbound, strict=True)}
        yield [
            EvalItem(
                sample_id=sample.id,
                kind=sample.kind,
                refinement=answered,
                scores=tuple(score(completion, sample, matching) for completion in answered.answers),
                alone=(alone[place], score(alone[place], sample, matching)) if place in alone else None,
            )
            for place, (sample, answered) in enumerate(zip(chunk, refinements, strict=True))
        ]
        engine.forget()
