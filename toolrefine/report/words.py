"""What happened in a run, in words: no claim where an interval includes zero."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.intervals import Accuracy
from toolrefine.summary import BASE, BASELINE, Arm, Comparison, RunSummary

MINUS = "\u2212"


def tell(summary: RunSummary) -> list[str]:
    """The findings of a run, a sentence or two each."""
    datasets = dict.fromkeys(arm.dataset for arm in summary.arms)
    return [
        *tell_state(summary),
        *(
            sentence
            for name in datasets
            for sentence in tell_dataset([arm for arm in summary.arms if arm.dataset == name])
        ),
        *tell_labels(summary),
    ]


def tell_state(summary: RunSummary) -> list[str]:
    """How far the run has come, unless it simply did all its iterations."""
    trained = [it.iteration for it in summary.iterations if it.training is not None]
    done = f"{len(trained)} of {summary.num_iterations} iterations"
    if not summary.finished:
        return [f"This run is not finished: {done} are trained so far."]
    if not trained:
        return [
            "Nothing was trained: no sample of the pool was selected.",
            "rollout.k, selection.policy and selection.min_solvable decide that.",
        ]
    if summary.iterations[-1].num_selected == 0:
        return [f"The loop ended after {done}, because no sample was left to select."]
    if trained[-1] < summary.num_iterations:
        return [
            f"The loop ended after {done}, because no more samples had become solvable.",
            "selection.stop_when_stalled=false goes on all the same.",
        ]
    return []


def tell_dataset(arms: Sequence[Arm]) -> list[str]:
    """The last model of one evaluation set against the base, against plain SFT, and with refinement."""
    drafts = [arm for arm in arms if not arm.refined]
    last = next((arm for arm in reversed(drafts) if arm.model not in (BASE, BASELINE)), drafts[-1])
    comparisons = {comparison.against: comparison for comparison in last.comparisons}
    accuracies = {arm.name: arm.accuracy for arm in arms}
    found = f"On {last.dataset} (n\u00a0=\u00a0{last.n:,}), {subject(last)} answers {percent(last.accuracy)} right"
    if BASE in comparisons:
        sentences = [f"{found}, the base {percent(accuracies[BASE])}: {judge(comparisons[BASE])}."]
    else:
        sentences = [f"{found}."]
    if last.model == BASE:
        sentences.append("No trained model has been measured on it yet.")
    if BASELINE in comparisons:
        plain = percent(accuracies[BASELINE])
        sentences.append(f"Against plain SFT on the same pool ({plain}), that is {judge(comparisons[BASELINE])}.")
    refined = next((arm for arm in arms if arm.refined and arm.model == last.model), None)
    if refined is not None:
        sentences.append(tell_refinement(refined))
    return sentences


def tell_refinement(arm: Arm) -> str:
    """What refinement did to the drafts of a model."""
    comparison = next(comparison for comparison in arm.comparisons if comparison.against == arm.model)
    if comparison.fixed + comparison.broken == 0:
        return f"Refinement turns none of {subject(arm)}'s answers right or wrong."
    return (
        f"Refinement fixes {comparison.fixed} of {subject(arm)}'s answers and breaks {comparison.broken}: "
        f"{judge(comparison)}."
    )


def tell_labels(summary: RunSummary) -> list[str]:
    """What selection did about labels known to be wrong."""
    last = next((it for it in reversed(summary.iterations) if it.num_wrong_selected is not None), None)
    if last is None or not summary.num_wrong_labels or not summary.num_samples or not last.num_selected:
        return []
    sentences = [
        f"Of the pool's {summary.num_samples:,} labels, {summary.num_wrong_labels:,} "
        f"({share(summary.num_wrong_labels, summary.num_samples)}) are wrong; of the {last.num_selected:,} that "
        f"iteration {last.iteration} selected, {last.num_wrong_selected:,} "
        f"({share(last.num_wrong_selected or 0, last.num_selected)})."
    ]
    if last.num_suspects and last.num_wrong_suspects is not None:
        sentences.append(f"{last.num_wrong_suspects:,} of its {last.num_suspects:,} label suspects are wrong indeed.")
    return sentences


def subject(arm: Arm) -> str:
    """A model as the subject of a sentence."""
    return "the base" if arm.model == BASE else arm.model


def judge(comparison: Comparison) -> str:
    """A paired difference with its interval, and what it shows."""
    interval = f"{points(comparison.low)} to {points(comparison.high)}"
    found = f"{points(comparison.difference)} points (95\u00a0% interval {interval})"
    if comparison.low <= 0 <= comparison.high:
        return f"{found}; the interval includes zero, so this run does not show a difference"
    return found


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", MINUS).replace("+0.0", "0.0").replace(f"{MINUS}0.0", "0.0")


def percent(accuracy: Accuracy) -> str:
    """An accuracy without its interval."""
    return f"{100 * accuracy.accuracy:.1f}\u00a0%"


def share(part: int, whole: int) -> str:
    """A part in percent."""
    return f"{100 * part / whole:.1f}\u00a0%"
