"""Choosing a refinement policy on a development set, within a budget: all candidates share what is computed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from toolrefine.config import UNREFINED, MatchingConfig, PromptConfig, RefinementConfig
from toolrefine.engines import Engine, SamplingParams
from toolrefine.errors import ConfigError, RequestError
from toolrefine.intervals import Accuracy, Paired, mcnemar, measure, paired
from toolrefine.matching import EXACT, score
from toolrefine.refine import find_fault, refine
from toolrefine.rollout import chunks, to_prompt
from toolrefine.rundir import Progress, Silent
from toolrefine.scoreboard import Sheet, change, percent
from toolrefine.types import Record, Refinement, Sample

log = logging.getLogger(__name__)

CHUNK_SIZE = 256
UNSURE_SHARES = (0.05, 0.1, 0.2, 0.4)
"""Shares of the drafts without a fault that lie below the thresholds of when = uncertain."""
RESAMPLES = (1, 2, 4, 8)
ORDERS: tuple[dict[str, Any], ...] = ({}, *({"shuffle": True, "margin": margin} for margin in (0.5, 1.0)))
MAX_P_VALUE = 0.05
CONSTRAINED = RefinementConfig(max_rounds=0, constrain=True)

NOTE = (
    "chosen among all candidates by these very samples, so that the figures of the best are optimistic; measure the "
    "policy on others before you report it"
)


class Candidate(Record):
    """A policy on the development set."""

    refinement: RefinementConfig
    accuracy: Accuracy
    change: Paired
    """Against the drafts."""
    p_value: float
    """McNemar's exact test against the drafts, two-sided, not corrected."""
    calls_per_sample: float
    """Completions and scoring passes."""
    scored_per_sample: float
    """Scoring passes."""
    tokens_per_sample: float
    """Sampled tokens."""


class Budget(Record):
    """What a sample may cost on average."""

    calls: float | None = None
    tokens: float | None = None
    broken: float | None = None
    """Share of the samples whose right draft may be replaced by a wrong answer."""

    def allows(self, candidate: Candidate) -> bool:
        """Whether a candidate stays within it."""
        costs = (
            (candidate.calls_per_sample, self.calls),
            (candidate.tokens_per_sample, self.tokens),
            (candidate.change.broken / max(1, candidate.change.n), self.broken),
        )
        return all(most is None or cost <= most for cost, most in costs)


class Calibration(Record):
    """What a calibration has found."""

    refinement: RefinementConfig
    """The chosen policy; max_rounds = 0 where none is surely better than the drafts."""
    n: int
    budget: Budget
    draft: Accuracy
    candidates: tuple[Candidate, ...]


def calibrate(
    engine: Engine,
    samples: Sequence[Sample],
    prompt: PromptConfig,
    budget: Budget,
    sampled: SamplingParams,
    matching: MatchingConfig = EXACT,
    progress: Progress | None = None,
) -> Calibration:
    """Try every policy of `policies` on the samples; engine should remember what it has computed.

    Drafts and refinements are greedy; sampled says how further samples are drawn.

    The most accurate within the budget is chosen, the cheapest of equals, among those that are better than the drafts
    by McNemar's exact test at 5 %, corrected for the number of candidates (Bonferroni).
    """
    progress = progress or Silent()
    params = sampled.model_copy(update={"temperature": 0.0})

    def run(config: RefinementConfig, advance: Callable[[int], None] = lambda done: None) -> list[Refinement]:
        refinements: list[Refinement] = []
        for chunk in chunks(samples, CHUNK_SIZE):
            refinements += refine(engine, [to_prompt(sample) for sample in chunk], config, prompt, params)
            advance(len(refinements))
        return refinements

    def draft(what: str, config: RefinementConfig) -> list[Refinement]:
        progress.begin(what, len(samples))
        refinements = run(config, progress.advance)
        progress.end(what, False)
        return refinements

    drafts = draft("drafts", UNREFINED)
    constrained = draft("constrained drafts", CONSTRAINED) if can_constrain(engine, samples, prompt, params) else []
    configs = list(policies(thresholds(drafts, samples), sampled.temperature))
    if constrained:
        configs += constrained_policies(thresholds(constrained, samples), sampled.temperature)
    else:
        configs = [config for config in configs if not config.needs_constraint]
    if not can_score(engine, samples, drafts):
        configs = [config for config in configs if config.accept != "likelier" or config.asks_afresh]
    before = [score(each.draft, sample, matching).correct for each, sample in zip(drafts, samples, strict=True)]
    candidates = []
    progress.begin("policies", len(configs))
    for number, config in enumerate(configs, 1):
        candidates.append(judge(config, run(config), before, samples, matching))
        progress.advance(number)
    progress.end("policies", False)
    chosen = choose(candidates, budget)
    return Calibration(
        refinement=chosen.refinement if chosen else UNREFINED,
        n=len(samples),
        budget=budget,
        draft=measure(before),
        candidates=tuple(candidates),
    )


def policies(min_logprobs: Sequence[float], temperature: float) -> Iterator[RefinementConfig]:
    """The candidates: the paper's algorithm, and what can be put together from the parts without doing the same."""
    gates: list[dict[str, Any]] = [{"when": "always"}, {"when": "invalid"}]
    gates += [{"when": "uncertain", "min_logprob": value} for value in min_logprobs]
    for max_rounds in (1, 2):
        yield RefinementConfig(max_rounds=max_rounds)
    for gate in gates:
        for accept in ("valid",) if gate["when"] == "invalid" else ("valid", "likelier"):
            for how in ("ask", "explain"):
                for max_rounds in (1, 2):
                    yield RefinementConfig(max_rounds=max_rounds, how=how, accept=accept, **gate)
        accept = "valid" if gate["when"] == "invalid" else "likelier"
        orders = ORDERS if accept == "likelier" else ORDERS[:2]  # a margin means nothing to accept = valid
        for max_rounds, order in product(RESAMPLES, orders):
            yield RefinementConfig(
                max_rounds=max_rounds, how="resample", temperature=temperature, accept=accept, **gate, **order
            )
        yield RefinementConfig(max_rounds=1, how="constrain", accept=accept, **gate)


def constrained_policies(min_logprobs: Sequence[float], temperature: float) -> Iterator[RefinementConfig]:
    """Candidates whose answers all fit their tools, so that further samples are left for what is uncertain."""
    yield CONSTRAINED
    for min_logprob, max_rounds, order in product(min_logprobs, RESAMPLES, ORDERS):
        yield RefinementConfig(
            max_rounds=max_rounds,
            how="resample",
            temperature=temperature,
            accept="likelier",
            when="uncertain",
            min_logprob=min_logprob,
            constrain=True,
            **order,
        )


def thresholds(drafts: Sequence[Refinement], samples: Sequence[Sample]) -> list[float]:
    """Mean log-probabilities below which lie UNSURE_SHARES of the drafts without a fault; none where none is known."""
    known = sorted(
        each.draft.mean_logprob
        for each, sample in zip(drafts, samples, strict=True)
        if each.draft.mean_logprob is not None and find_fault(each.draft, sample.tools) is None
    )
    found = [round(known[int(share * len(known))], 4) for share in UNSURE_SHARES if known]
    return sorted({min(0.0, value) for value in found})


def can_score(engine: Engine, samples: Sequence[Sample], drafts: Sequence[Refinement]) -> bool:
    """Whether the engine can score answers, tried with the first."""
    if not samples:
        return False
    try:
        engine.score([to_prompt(samples[0])], [drafts[0].draft])
    except RequestError as error:
        log.info("accept=likelier is left out: %s", error)
        return False
    return True


def can_constrain(engine: Engine, samples: Sequence[Sample], prompt: PromptConfig, params: SamplingParams) -> bool:
    """Whether the engine can keep answers to their tools, tried with the first sample."""
    try:
        refine(engine, [to_prompt(sample) for sample in samples[:1]], CONSTRAINED, prompt, params)
    except ConfigError as error:
        log.info("constrained answers are left out: %s", error)
        return False
    return True


def judge(
    config: RefinementConfig,
    refinements: Sequence[Refinement],
    before: Sequence[bool],
    samples: Sequence[Sample],
    matching: MatchingConfig,
) -> Candidate:
    """A policy's figures."""
    after = [score(each.final, sample, matching).correct for each, sample in zip(refinements, samples, strict=True)]
    pair = paired(before, after)
    n = max(1, len(samples))
    return Candidate(
        refinement=config,
        accuracy=measure(after),
        change=pair,
        p_value=mcnemar(pair.fixed, pair.broken),
        calls_per_sample=sum(each.num_calls for each in refinements) / n,
        scored_per_sample=sum(each.num_scored for each in refinements) / n,
        tokens_per_sample=sum(each.num_tokens for each in refinements) / n,
    )


def choose(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The best candidate within the budget, None where none is surely better than the drafts."""
    better = [
        each
        for each in candidates
        if budget.allows(each) and each.change.difference > 0 and each.p_value * len(candidates) < MAX_P_VALUE
    ]
    return max(better, key=lambda each: (each.change.difference, -each.calls_per_sample), default=None)


def to_toml(calibration: Calibration, source: dict[str, Any]) -> str:
    """A policy file: the policy as load_policy reads it, what it was chosen on, and every candidate's figures."""
    found = {"n": calibration.n, "draft_accuracy": calibration.draft.accuracy, "note": NOTE}
    budget = {f"budget_{name}": value for name, value in calibration.budget.model_dump().items() if value is not None}
    tables = [
        ("[refinement]", calibration.refinement.model_dump()),
        ("[chosen_on]", {**source, **found, **budget}),
        *(("[[candidates]]", row(each)) for each in calibration.candidates),
    ]
    return "\n".join(
        "\n".join([head, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()), ""])
        for head, table in tables
    )


def policy_sheet(calibration: Calibration, num_rows: int = 12) -> Sheet:
    """The drafts, and the best candidates within the budget, whether they are surely better or not."""
    within = [each for each in calibration.candidates if calibration.budget.allows(each)]
    within.sort(key=lambda each: (-each.change.difference, each.calls_per_sample))
    rows = [
        (
            f"{policy_text(each.refinement)}{' (chosen)' if each.refinement == calibration.refinement else ''}",
            percent(each.accuracy),
            *change(each.change),
            f"{each.calls_per_sample:.2f}",
            f"{each.tokens_per_sample:.0f}",
        )
        for each in within[:num_rows]
    ]
    return Sheet(
        f"{calibration.n} samples, {len(within)} of {len(calibration.candidates)} candidates within the budget",
        ("policy", "accuracy %", "fixed", "broken", "points", "95 % interval", "calls a sample", "tokens a sample"),
        [("draft", percent(calibration.draft), "", "", "", "", "1.00", ""), *rows],
    )


def policy_text(config: RefinementConfig) -> str:
    """A policy in a few words."""
    if config == CONSTRAINED:
        return "constrained draft"
    gate = f"uncertain < {config.min_logprob}" if config.when == "uncertain" else config.when
    how = f"{config.how} {config.max_rounds}{' shuffled' if config.shuffle else ''}"
    accept = f"{config.accept} by {config.margin}" if config.margin else config.accept
    return f"{'constrained, ' if config.constrain else ''}{gate}, {how}, accept {accept}"


def row(candidate: Candidate) -> dict[str, Any]:
    """A candidate's figures, and what of its policy is not the default."""
    pair = candidate.change
    return {
        **candidate.refinement.model_dump(exclude_defaults=True),
        "accuracy": round(candidate.accuracy.accuracy, 4),
        "fixed": pair.fixed,
        "broken": pair.broken,
        "difference": round(pair.difference, 4),
        "low": round(pair.low, 4),
        "high": round(pair.high, 4),
        "p_value": candidate.p_value,
        "calls_per_sample": round(candidate.calls_per_sample, 3),
        "scored_per_sample": round(candidate.scored_per_sample, 3),
        "tokens_per_sample": round(candidate.tokens_per_sample, 1),
    }
