"""The suspects and transcripts that a report shows: few, and chosen to tell most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from toolrefine.rundir import POOL, ROLLOUTS, SUSPECTS, Stage, read_records
from toolrefine.summary import BASE, BASELINE, RunSummary, load, read_answers
from toolrefine.types import Completion, EvalItem, Group, Record, Sample, Score, StopReason, Suspect

MAX_SUSPECTS = 12
MAX_OF_A_KIND = 2
"""Transcripts of one kind, such as answers that refinement broke."""


class Answer(Record):
    """One answer in a transcript."""

    label: str
    completion: Completion
    score: Score | None
    """None where it was not accepted."""


class Transcript(Record):
    """A sample and what was made of it."""

    kind: str
    """What it is an example of."""
    sample: Sample
    answers: tuple[Answer, ...]
    stop_reason: StopReason | None = None


def pick_suspects(run_dir: Path, summary: RunSummary) -> list[tuple[Suspect, Sample]]:
    """The suspects of the last iteration that has looked for them, most agreed first."""
    last = next((it for it in reversed(summary.iterations) if it.num_suspects is not None), None)
    if last is None:
        return []
    suspects = load(run_dir / f"iterations/{last.iteration:03d}", SUSPECTS)[:MAX_SUSPECTS]
    wanted = {suspect.sample_id for suspect in suspects}
    samples = {sample.id: sample for sample in load(run_dir, POOL) if sample.id in wanted}
    return [(suspect, samples[suspect.sample_id]) for suspect in suspects if suspect.sample_id in samples]


def pick_transcripts(run_dir: Path, summary: RunSummary) -> list[tuple[str, list[Transcript]]]:
    """(heading, transcripts): held-out answers of each evaluation set, and completions of the last iteration."""
    sections = [
        (f"Held out: {dataset}", pick_held_out(run_dir, dataset))
        for dataset in dict.fromkeys(arm.dataset for arm in summary.arms)
    ]
    if summary.iterations:
        t = summary.iterations[-1].iteration
        sections.append((f"Pool: completions of iteration {t}", pick_rollouts(run_dir, t)))
    return [(heading, transcripts) for heading, transcripts in sections if transcripts]


def pick_held_out(run_dir: Path, dataset: str) -> list[Transcript]:
    """Answers that training or refinement fixed or broke, from the last model and the base."""
    answers = read_answers(run_dir, dataset)
    last = next((name for name in reversed(answers) if answers[name] and name != BASELINE), None)
    if last is None:
        return []
    base = {item.sample_id: item for item in answers[BASE]} if last != BASE else {}
    samples = {s.id: s for s in load(run_dir / "held_out", Stage(f"{dataset}.jsonl", Sample))}
    kinds = {
        "fixed by refinement": lambda item: change(item.draft[1], item.scores[-1]) > 0,
        "broken by refinement": lambda item: change(item.draft[1], item.scores[-1]) < 0,
        "fixed by training": lambda item: (
            item.sample_id in base and change(base[item.sample_id].draft[1], item.draft[1]) > 0
        ),
        "broken by training": lambda item: (
            item.sample_id in base and change(base[item.sample_id].draft[1], item.draft[1]) < 0
        ),
    }
    return [
        Transcript(
            kind=kind,
            sample=samples[item.sample_id],
            answers=tuple(list_answers(item, last, base.get(item.sample_id) if "training" in kind else None)),
            stop_reason=item.refinement.stop_reason if len(item.scores) > 1 else None,
        )
        for kind, belongs in kinds.items()
        for item in first(filter(belongs, (item for item in answers[last] if item.sample_id in samples)))
    ]


def change(before: Score, after: Score) -> int:
    """1 for fixed, -1 for broken, else 0."""
    return after.correct - before.correct


def first(items: Iterator[EvalItem]) -> list[EvalItem]:
    """As many as a report shows of a kind."""
    return [item for item, _ in zip(items, range(MAX_OF_A_KIND), strict=False)]


def list_answers(item: EvalItem, model: str, base: EvalItem | None) -> Iterator[Answer]:
    """The base's draft where it is given, then the model's draft and rounds."""
    if base is not None:
        completion, score = base.draft
        yield Answer(label=BASE, completion=completion, score=score)
    for label, completion, verdict in item.refinement.listed(item.scores, item.alone):
        yield Answer(label=model if label == "draft" else label, completion=completion, score=verdict)


def pick_rollouts(run_dir: Path, t: int) -> list[Transcript]:
    """Groups of completions: solved sometimes, and never; read one by one, for rollouts can be large."""
    picked: dict[str, list[Group]] = {"solved sometimes": [], "never solved": []}
    for group in read_records(run_dir / f"iterations/{t:03d}" / ROLLOUTS.path, ROLLOUTS.record):
        kind = "never solved" if group.num_correct == 0 else "solved sometimes"
        if group.num_correct < group.n and len(picked[kind]) < MAX_OF_A_KIND:
            picked[kind].append(group)
    wanted = {group.sample_id for groups in picked.values() for group in groups}
    samples = {sample.id: sample for sample in load(run_dir, POOL) if sample.id in wanted}
    return [
        Transcript(
            kind=f"{kind}: {group.num_correct} of {group.n}", sample=samples[group.sample_id], answers=number(group)
        )
        for kind, groups in picked.items()
        for group in groups
        if group.sample_id in samples
    ]


def number(group: Group) -> tuple[Answer, ...]:
    """The different completions of a group, each with how often it came."""
    counts: dict[tuple[str, bool], int] = {}
    for completion, score in zip(group.completions, group.scores, strict=True):
        counts[completion.text, score.correct] = counts.get((completion.text, score.correct), 0) + 1
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    pairs: Sequence[tuple[Completion, Score]] = list(zip(group.completions, group.scores, strict=True))
    return tuple(
        Answer(label=f"{count} of {group.n}", completion=completion, score=score)
        for key, count in ranked
        for completion, score in [next((c, s) for c, s in pairs if (c.text, s.correct) == key)]
    )
