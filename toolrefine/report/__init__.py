"""The HTML report of a run: one file, no outside reference, readable offline."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from toolrefine.report import charts
from toolrefine.report.excerpts import pick_suspects, pick_transcripts
from toolrefine.report.words import points, tell
from toolrefine.show import describe, signature
from toolrefine.summary import BASE, BASELINE, REFINED, Arm, Comparison, IterationSummary, RunSummary, summarize
from toolrefine.types import Message, Reason, Sample

MAX_CHARACTERS = 2000
"""Of a turn or an answer that is shown; a model can write without end."""


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
    environment.filters.update(clip=clip, points=points, request=request, signature=signature, turn=turn)
    environment.globals.update(
        by_question=by_question, charts=charts, most_changes=most_changes, reasons=reasons, tallest=tallest
    )
    template = environment.from_string(resources.files(__package__).joinpath("template.html.j2").read_text("utf-8"))
    return template.render(
        summary=summary,
        name=run_dir.resolve().name,
        findings=tell(summary),
        datasets=group_arms(summary),
        suspects=pick_suspects(run_dir, summary),
        sections=pick_transcripts(run_dir, summary),
        files={name: read_if_there(run_dir / name) for name in ("config.json", "env.json")},
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


def clip(text: str) -> str:
    """The beginning of a text that is too long to show, and how much was left out."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS:,} characters more)"


def read_if_there(path: Path) -> str:
    """The text of a file; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
