"""The HTML report of a run: one file, no outside reference, readable offline."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from toolrefine.rundir import POOL, SUSPECTS, Stage, evaluation_stage
from toolrefine.show import describe, headline
from toolrefine.summary import BASE, REFINED, Arm, RunSummary, load, summarize
from toolrefine.types import EvalItem, Sample

MAX_SUSPECTS = 12
MAX_TRANSCRIPTS = 6


def write_report(run_dir: Path) -> Path:
    """Write report.html into a run directory, finished or not; the path of the file.

    Raises:
        RunDirError: it is no run directory.
    """
    path = run_dir / "report.html"
    partial = run_dir / "report.html.partial"
    partial.write_text(render(run_dir), encoding="utf-8")
    partial.replace(path)
    return path


def render(run_dir: Path) -> str:
    """The report as text. Everything that a model or a data set wrote is escaped."""
    summary = summarize(run_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["turn"] = describe
    template = environment.from_string(resources.files(__package__).joinpath("template.html.j2").read_text("utf-8"))
    datasets = list(dict.fromkeys(arm.dataset for arm in summary.arms))
    return template.render(
        summary=summary,
        datasets=[(name, [arm for arm in summary.arms if arm.dataset == name]) for name in datasets],
        headline=headline,
        findings=[sentence for name in datasets for sentence in findings(summary, name)],
        suspects=find_suspects(run_dir, summary),
        transcripts=find_transcripts(run_dir, summary),
    )


def findings(summary: RunSummary, dataset: str) -> list[str]:
    """What happened on one evaluation set, in sentences that say when an interval includes zero."""
    arms = {arm.name: arm for arm in summary.arms if arm.dataset == dataset}
    names = [name for name in arms if name.startswith("iteration") and not name.endswith(REFINED)]
    if not names:
        return [f"{dataset}: no iteration has been measured yet."] if arms else []
    last = arms[names[-1]]
    sentences = [f"On {dataset} (n = {last.accuracy.n}), {last.name} answers {percent(last)} right."]
    sentences += [
        f"Against {comparison.against} ({percent(arms[comparison.against])}) that is {change(comparison)}."
        for comparison in last.comparisons
    ]
    refined = arms.get(last.name + REFINED)
    if refined is not None and (comparison := headline(refined)) is not None:
        sentences.append(
            f"Refinement on top of it makes that {percent(refined)}, {change(comparison)}, "
            f"at {refined.calls_per_sample:.2f} answers a sample."
        )
    return sentences


def percent(arm: Arm) -> str:
    """Accuracy as text."""
    return f"{100 * arm.accuracy.accuracy:.1f} %"


def change(comparison: Any) -> str:
    """A paired difference in words."""
    interval = f"95 % interval {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}"
    counts = f"{comparison.fixed} fixed, {comparison.broken} broken, {interval}"
    verdict = "; no clear difference" if comparison.low <= 0 <= comparison.high else ""
    return f"{100 * comparison.difference:+.1f} points ({counts}{verdict})"


def find_suspects(run_dir: Path, summary: RunSummary) -> list[dict[str, Any]]:
    """The label-noise suspects of the last iteration, with the request they are about."""
    if not summary.iterations:
        return []
    pool = {sample.id: sample for sample in load(run_dir, POOL)}
    last = run_dir / f"iterations/{summary.iterations[-1].iteration:03d}"
    return [{"suspect": suspect, "sample": pool[suspect.sample_id]} for suspect in load(last, SUSPECTS)[:MAX_SUSPECTS]]


def find_transcripts(run_dir: Path, summary: RunSummary) -> list[dict[str, Any]]:
    """A few held-out answers of the last measured model, the ones that refinement changed first."""
    measured = [arm for arm in summary.arms if not arm.name.endswith(REFINED)]
    if not measured:
        return []
    arm = measured[-1]
    number = 0 if arm.name == BASE else max((it.iteration for it in summary.iterations if it.num_steps), default=0)
    folder = run_dir / f"iterations/{number:03d}"
    samples = {sample.id: sample for sample in load(run_dir / "held_out", Stage(f"{arm.dataset}.jsonl", Sample))}
    items = sorted(load(folder, evaluation_stage(arm.dataset)), key=interest)
    return [{"item": item, "sample": samples[item.sample_id]} for item in items[:MAX_TRANSCRIPTS]]


def interest(item: EvalItem) -> tuple[bool, int]:
    """Sorts answers that refinement fixed or broke before the others, then the long ones."""
    return item.scores[0].correct == item.scores[-1].correct, -len(item.scores)
