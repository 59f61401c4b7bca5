"""What an ablation has measured, as one record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from toolrefine.ablation.arms import ITERATIVE, Answers, Arm, Way
from toolrefine.ablation.variants import Ablation
from toolrefine.benchmarks.task import Figure
from toolrefine.config import Config
from toolrefine.intervals import Accuracy, holm, mcnemar, measure
from toolrefine.summary import BASE, BASELINE, Comparison, RunSummary, compare, summarize
from toolrefine.types import Record

SUFFIXES: dict[Way, str] = {"draft": "", "adaptive": " + refinement", "fixed": " + fixed rounds"}
RIVALS = (BASE, BASELINE, ITERATIVE)
"""What the other arms are compared with, and each of these with those before it."""

Measured = Mapping[tuple[str, Way], Answers]
"""Name of an arm, how it answers -> what became of that."""


class ArmSummary(Record):
    """How an arm was trained; tuples have an entry an iteration, plain SFT one."""

    name: str
    model: str
    """Name or folder of the weights or of the adapter."""
    num_steps: int
    """Optimizer steps from the base to this model."""
    num_selected: tuple[int, ...]
    """Samples trained on; of plain SFT all."""
    num_wrong_selected: tuple[int, ...]
    """Those of them whose label is known to be wrong; empty where the truth is unknown."""
    num_refine: tuple[int, ...]
    """Refinement examples."""
    num_right_drafts: tuple[int, ...]
    """Refinement examples whose draft is already right."""


class ArmScore(Record):
    """An arm that answers in one way, on one benchmark."""

    arm: str
    way: Way
    accuracy: Accuracy
    calls_per_sample: float
    """Calls of the model for an answer, what it costs."""
    figures: tuple[Figure, ...]
    """The benchmark's own summary."""


class Contrast(Comparison):
    """An arm against another; both names tell how the arm answers."""

    name: str
    p_value: float
    """McNemar's exact test, two-sided, on the samples that changed."""
    p_holm: float
    """Corrected by Holm for all contrasts of the ablation."""


class BenchmarkScores(Record):
    """All arms on one benchmark."""

    benchmark: str
    scores: tuple[ArmScore, ...]
    contrasts: tuple[Contrast, ...]


class AblationResult(Record):
    """All that an ablation has measured."""

    config: Ablation
    arms: tuple[ArmSummary, ...]
    benchmarks: tuple[BenchmarkScores, ...]

    @property
    def num_contrasts(self) -> int:
        """What p values are corrected for."""
        return sum(len(each.contrasts) for each in self.benchmarks)


def build_result(
    config: Ablation, variants: Mapping[str, Config], arms: Sequence[Arm], found: Mapping[str, Measured]
) -> AblationResult:
    """All figures. found: benchmark -> the answers of its arms."""
    summaries = {run: summarize(run) for run in dict.fromkeys(arm.run for arm in arms)}
    pairs = [(name, arm, rival) for name, measured in found.items() for arm, rival in comparisons_of(measured)]
    contrasts: dict[str, list[Contrast]] = {name: [] for name in found}
    compared = [
        (name, text_of(*arm), comparison)
        for name, arm, rival in pairs
        for comparison in compare(text_of(*rival), found[name][rival].right, found[name][arm].right)
    ]
    p_values = [mcnemar(comparison.fixed, comparison.broken) for _, _, comparison in compared]
    for (benchmark, name, comparison), p_value, p_holm in zip(compared, p_values, holm(p_values), strict=True):
        contrast = Contrast(name=name, p_value=p_value, p_holm=p_holm, **comparison.model_dump())
        contrasts[benchmark].append(contrast)
    return AblationResult(
        config=config,
        arms=tuple(summarize_arm(arm, variants[arm.run.name], summaries[arm.run]) for arm in arms),
        benchmarks=tuple(
            BenchmarkScores(
                benchmark=name,
                scores=tuple(
                    ArmScore(
                        arm=arm,
                        way=way,
                        accuracy=measure(answers.right.values()),
                        calls_per_sample=answers.calls_per_sample,
                        figures=answers.figures,
                    )
                    for (arm, way), answers in measured.items()
                ),
                contrasts=tuple(contrasts[name]),
            )
            for name, measured in found.items()
        ),
    )


def summarize_arm(arm: Arm, config: Config, run: RunSummary) -> ArmSummary:
    """How an arm was trained, from the summary of its run."""
    model = arm.checkpoint.adapter or arm.checkpoint.model
    if arm.iteration is None:
        return ArmSummary(
            name=arm.name,
            model=model,
            num_steps=run.baseline.num_steps if run.baseline else 0,
            num_selected=(run.num_samples or 0,),
            num_wrong_selected=() if run.num_wrong_labels is None else (run.num_wrong_labels,),
            num_refine=(0,),
            num_right_drafts=(0,),
        )
    iterations = [it for it in run.iterations if it.iteration <= arm.iteration]
    steps = [it.num_steps or 0 for it in iterations]
    return ArmSummary(
        name=arm.name,
        model=model,
        num_steps=sum(steps[-1:] if config.sft.restart else steps),
        num_selected=tuple(it.num_selected or 0 for it in iterations),
        num_wrong_selected=tuple(it.num_wrong_selected for it in iterations if it.num_wrong_selected is not None),
        num_refine=tuple(it.num_refine or 0 for it in iterations),
        num_right_drafts=tuple(it.num_right_drafts or 0 for it in iterations),
    )


def comparisons_of(measured: Measured) -> Iterator[tuple[tuple[str, Way], tuple[str, Way]]]:
    """Which answers to compare with which: arms that answer in the same way, and the ways of an arm."""
    own: dict[Way, tuple[Way, ...]] = {"draft": (), "adaptive": ("draft",), "fixed": ("draft", "adaptive")}
    for arm, way in measured:
        rivals = RIVALS[: RIVALS.index(arm)] if arm in RIVALS else RIVALS
        others = [*((rival, way) for rival in rivals), *((arm, less) for less in own[way])]
        yield from (((arm, way), other) for other in others if other in measured)


def text_of(arm: str, way: Way) -> str:
    """Name of an arm and of how it answers."""
    return arm + SUFFIXES[way]
