"""The HTML report of a run: one file, no outside reference, readable offline."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from toolrefine.benchmarks.answers import Answer
from toolrefine.report import charts
from toolrefine.report.excerpts import pick_suspects, pick_transcripts
from toolrefine.report.words import points, tell
from toolrefine.results import DRAFT, RESULT, Answered, BenchmarkResult, read_result
from toolrefine.rundir import write_text
from toolrefine.scoreboard import notes, sheets
from toolrefine.show import describe, signature
from toolrefine.summary import BASE, BASELINE, REFINED, Arm, Comparison, IterationSummary, RunSummary, summarize
from toolrefine.types import Message, Reason, Sample

MAX_CHARACTERS = 2000
"""Of a turn or an answer that is shown; a model can write without end."""


EXCERPTS = 8
"""Answers to a benchmark that are shown of a kind."""


def write_report(run_dir: Path) -> Path:
    """Write report.html into a run directory, finished or not; the path of the file.

    Raises:
        RunDirError: it is no run directory.
    """
    return write_page(run_dir, render(run_dir))


def write_benchmark_report(folder: Path, answered: Answered, result: BenchmarkResult) -> Path:
    """Write report.html into a folder of evaluate's; the path of the file."""
    return write_page(folder, render_benchmark(folder.resolve().name, answered, result))


def write_page(folder: Path, page: str) -> Path:
    """Write report.html, whole or not at all."""
    path = folder / "report.html"
    write_text(path, page)
    return path


def environment() -> Environment:
    """The templates. Everything that a model or a data set wrote is escaped."""
    found = Environment(
        loader=PackageLoader("toolrefine.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(as_json=as_json, clip=clip, points=points, request=request, signature=signature, turn=turn)
    found.globals.update(
        by_question=by_question, charts=charts, most_changes=most_changes, reasons=reasons, tallest=tallest
    )
    return found


def render(run_dir: Path) -> str:
    """The report of a run as text, with the benchmarks in its folder `benchmarks`."""
    summary = summarize(run_dir)
    results = [read_result(path.parent) for path in sorted((run_dir / "benchmarks").glob(f"**/{RESULT}"))]
    return (
        environment()
        .get_template("run.html.j2")
        .render(
            summary=summary,
            name=run_dir.resolve().name,
            findings=tell(summary),
            datasets=group_arms(summary),
            benchmarks=[
                (f"{result.benchmark}: {result.model}", list(sheets(result)), list(notes(result)))
                for result in results
                if result is not None
            ],
            suspects=pick_suspects(run_dir, summary),
            sections=pick_transcripts(run_dir, summary),
            files={name: read_if_there(run_dir / name) for name in ("config.json", "env.json")},
        )
    )


def render_benchmark(name: str, answered: Answered, result: BenchmarkResult) -> str:
    """The report of one benchmark as text."""
    tasks = {task.id: task for task in answered.tasks}
    right_at_first = {task_id: outcome.right for task_id, outcome in answered.arms[DRAFT].items()}
    kinds: dict[str, Callable[[Answer], bool]] = {
        "Fixed by refinement": lambda each: each.verdicts[-1].valid and not right_at_first[each.task_id],
        "Broken by refinement": lambda each: right_at_first[each.task_id] and not each.verdicts[-1].valid,
        "Wrong": lambda each: not each.verdicts[-1].valid,
    }
    sections = {
        heading: [(tasks[each.task_id], each) for each in islice(filter(is_one, answered.answers), EXCERPTS)]
        for heading, is_one in kinds.items()
    }
    return (
        environment()
        .get_template("benchmark.html.j2")
        .render(
            name=name,
            result=result,
            drafts=answered.drafts,
            sheets=list(sheets(result)),
            notes=list(notes(result)),
            sections=[(heading, excerpts) for heading, excerpts in sections.items() if excerpts],
        )
    )


def group_arms(summary: RunSummary) -> dict[str, list[Arm]]:
    """Evaluation set -> its arms."""
    groups: dict[str, list[Arm]] = {}
    for arm in summary.arms:
        groups.setdefault(arm.dataset, []).append(arm)
    return groups


def most_changes(arms: Sequence[Arm]) -> int:
    """The longest bar of change_cell on one evaluation set."""
    return max(max(c.fixed, c.broken) for arm in arms for c in arm.comparisons)


def by_question(arms: Sequence[Arm]) -> list[tuple[str, list[tuple[Arm, Comparison]]]]:
    """The comparisons of an evaluation set under what they tell about, each once."""
    pairs = [(arm, comparison) for arm in arms for comparison in arm.comparisons]
    questions = {
        "refinement, against the same model's draft": [p for p in pairs if p[0].refined and p[1].against == p[0].model],
        "training, against the base": [p for p in pairs if not p[0].refined and p[1].against == BASE],
        "iterations, against plain SFT": [p for p in pairs if p[1].against == BASELINE and p[0].model != BASELINE],
        "iterations, against plain SFT, both with refinement": [p for p in pairs if p[1].against == BASELINE + REFINED],
        "training and refinement, against the base": [
            p for p in pairs if p[0].refined and p[1].against == BASE and p[0].model != BASE
        ],
    }
    return [(question, found) for question, found in questions.items() if found]


def tallest(iterations: Sequence[IterationSummary]) -> int:
    """The tallest bar of all histograms."""
    return max(count for it in iterations for count in it.histogram)


def reasons(iterations: Sequence[IterationSummary]) -> list[Reason]:
    """Verdicts that occur, right answers first, then by how often they came in the last iteration."""
    found = {reason for it in iterations for reason in it.reasons}
    return sorted(found, key=lambda r: (r is not Reason.OK, -iterations[-1].reasons.get(r, 0), r.value))


def turn(message: Message) -> str:
    """A turn of a conversation, calls as a model would write them."""
    return clip(describe(message))


def request(sample: Sample) -> str:
    """What the user asked for last, cut to about two lines."""
    said = [message.content for message in sample.messages if message.role == "user"]
    return textwrap.shorten(said[-1], 200, placeholder=" …") if said else sample.id


def as_json(value: Any) -> str:
    """A value as JSON, escaped by the template."""
    return json.dumps(value, ensure_ascii=False)


def clip(text: str) -> str:
    """The beginning of a text that is too long to show, and how much was left out."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} characters more)"


def read_if_there(path: Path) -> str:
    """The text of a file; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
