"""The tables of an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolrefine.ablation.arms import Way
from toolrefine.ablation.result import AblationResult, ArmSummary, BenchmarkScores
from toolrefine.ablation.variants import fixed_rounds
from toolrefine.scoreboard import Sheet, change, figure_text, interval, percent

COLUMN_OF: dict[Way, str] = {"draft": "draft", "adaptive": "adaptive", "fixed": "fixed rounds"}


def sheets(result: AblationResult) -> Iterator[Sheet]:
    """All tables of a result."""
    yield training_sheet(result.arms)
    steps = {arm.name: arm.num_steps for arm in result.arms}
    for scores in result.benchmarks:
        yield accuracy_sheet(scores, steps)
        yield from figure_sheets(scores)
        yield contrast_sheet(scores)


def notes(result: AblationResult) -> Iterator[str]:
    """What a reader of the tables must know."""
    refinement = result.config.recipe.refinement
    rounds = refinement.max_rounds
    yield (
        "Figures with arrows are those of the iterations. Steps are optimizer steps from the base; plain SFT takes as "
        "many as the iterative method."
    )
    if rounds:
        fixed = f"always {rounds} of them" if fixed_rounds(refinement) else "the same here"
        yield (
            f"adaptive: refinement as the recipe has it, {rounds} rounds at most; fixed rounds: {fixed}. calls: calls "
            "of the model for an average answer."
        )
    yield (
        "fixed: wrong in the other arm, right in this one; broken: the other way round. p: McNemar's exact test; Holm: "
        f"corrected for the {result.num_contrasts} comparisons of all tables."
    )
    yield (
        "Intervals and p tell what other held-out samples could change, not what another training would: for that, "
        "repeat with seed=1 and run=ANOTHER."
    )


def training_sheet(arms: Sequence[ArmSummary]) -> Sheet:
    """How the arms were trained."""
    return Sheet(
        "Training",
        ("arm", "samples selected", "wrong labels", "refinement examples", "right drafts", "steps"),
        [
            (
                arm.name,
                *(
                    " → ".join(map(str, counts))
                    for counts in (arm.num_selected, arm.num_wrong_selected, arm.num_refine, arm.num_right_drafts)
                ),
                str(arm.num_steps),
            )
            for arm in arms
        ],
    )


def accuracy_sheet(scores: BenchmarkScores, steps: dict[str, int]) -> Sheet:
    """Accuracy in percent, a row an arm. steps: arm -> optimizer steps."""
    ways = list(dict.fromkeys(score.way for score in scores.scores))
    found = {(score.arm, score.way): score for score in scores.scores}
    rows = []
    for arm in dict.fromkeys(score.arm for score in scores.scores):
        row = [arm, str(steps[arm]), str(found[arm, ways[0]].accuracy.n)]
        for way in ways:
            score = found.get((arm, way))
            row += [percent(score.accuracy), interval(score.accuracy)] if score else ["", ""]
            if way != "draft":
                row.append(f"{score.calls_per_sample:.2f}" if score else "")
        rows.append(tuple(row))
    columns = [name for way in ways for name in (COLUMN_OF[way], "95 %", *(["calls"] if way != "draft" else []))]
    return Sheet(f"{scores.benchmark}: accuracy", ("arm", "steps", "n", *columns), rows)


def figure_sheets(scores: BenchmarkScores) -> Iterator[Sheet]:
    """The benchmark's own summary, where it has one."""
    for way, column in COLUMN_OF.items():
        figures = {
            score.arm: {figure.name: figure for figure in score.figures} for score in scores.scores if score.way == way
        }
        names = list(dict.fromkeys(name for each in figures.values() for name in each))
        if names:
            yield Sheet(
                f"{scores.benchmark}: the benchmark's own summary, {column}",
                ("", *figures),
                [(name, *(figure_text(each.get(name)) for each in figures.values())) for name in names],
            )


def contrast_sheet(scores: BenchmarkScores) -> Sheet:
    """Arms compared sample by sample."""
    return Sheet(
        f"{scores.benchmark}: comparisons on the same samples",
        ("arm", "against", "fixed", "broken", "difference", "95 %", "p", "Holm"),
        [
            (each.name, each.against, *change(each), f"{each.p_value:.2g}", f"{each.p_holm:.2g}")
            for each in scores.contrasts
        ],
    )
