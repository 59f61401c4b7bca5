"""A run on the terminal: the table of arms, the iterations, and transcripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from unicodedata import category

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolrefine.benchmarking import ANSWERS, DRAFTS, TASKS
from toolrefine.errors import RequestError
from toolrefine.formats import get_format
from toolrefine.intervals import Accuracy
from toolrefine.rundir import POOL, ROLLOUTS, Stage, evaluation_stage
from toolrefine.summary import BASE, BASELINE, REFINED, Arm, Comparison, RunSummary, load
from toolrefine.types import Completion, Message, Sample, Score, Suspect, Tool

NOT_ACCEPTED = "[dim]not accepted[/]"


def print_table(summary: RunSummary, console: Console) -> None:
    """Everything that fits into a screen."""
    if summary.iterations:
        print_iterations(summary, console)
    for dataset in dict.fromkeys(arm.dataset for arm in summary.arms):
        print_arms([arm for arm in summary.arms if arm.dataset == dataset], console)


def print_iterations(summary: RunSummary, console: Console) -> None:
    """What each iteration selected from the pool."""
    wrong = "" if summary.num_wrong_labels is None else f", {summary.num_wrong_labels} of them with a wrong label"
    bad = f"; {summary.num_quarantined} bad rows quarantined" if summary.num_quarantined else ""
    table = Table(
        title=f"Pool: {summary.num_samples} samples{wrong}{bad}", title_justify="left", box=None, pad_edge=False
    )
    for column in (
        "iteration",
        "pass@1",
        "pass@k",
        "selected",
        "wrong labels",
        "suspects",
        "direct",
        "refine",
        "steps",
    ):
        table.add_column(column, justify="right" if column != "iteration" else "left")
    for it in summary.iterations:
        suspects = _text(it.num_suspects)
        if it.num_wrong_suspects is not None:
            suspects += f" ({it.num_wrong_suspects} wrong)"
        table.add_row(
            str(it.iteration),
            f"{it.pass_at_1:.3f}",
            f"{it.pass_at_k:.3f}",
            _text(it.num_selected),
            _text(it.num_wrong_selected),
            suspects,
            _text(it.num_direct),
            _text(it.num_refine),
            _text(it.num_steps),
        )
    console.print(table)
    console.print()


def print_arms(arms: Sequence[Arm], console: Console) -> None:
    """The arms of one evaluation set; every interval is a 95 % interval."""
    title = f"Held out: {plain(arms[0].dataset)}, n = {arms[0].accuracy.n}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for column in ("accuracy", "single", "parallel", "no call", "calls", "against", "fixed", "broken", "difference"):
        table.add_column(column, justify="right" if column != "against" else "left")
    for arm in arms:
        comparison = headline(arm)
        table.add_row(
            plain(arm.name),
            f"{_percent(arm.accuracy)}  [dim]{100 * arm.accuracy.low:.1f} to {100 * arm.accuracy.high:.1f}[/]",
            *(_percent(arm.by_kind.get(kind)) for kind in ("single", "parallel", "no_call")),
            f"{arm.calls_per_sample:.2f}",
            *(_comparison(comparison) if comparison else ("", "", "", "")),
        )
    console.print(table)
    console.print("[dim]fixed: wrong before, right after; broken: the other way round. Ranges are 95 % intervals.[/]\n")


def headline(arm: Arm) -> Comparison | None:
    """The comparison that says most about an arm: with its drafts, else with plain SFT, else with the base."""
    by_name = {comparison.against: comparison for comparison in arm.comparisons}
    for name in (arm.name.removesuffix(REFINED), BASELINE, BASE):
        if name in by_name:
            return by_name[name]
    return None


def _comparison(comparison: Comparison) -> tuple[str, str, str, str]:
    difference = (
        f"{100 * comparison.difference:+.1f}  [dim]{100 * comparison.low:+.1f} to {100 * comparison.high:+.1f}[/]"
    )
    return plain(comparison.against), str(comparison.fixed), str(comparison.broken), difference


def _percent(accuracy: Accuracy | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy.accuracy:.1f}"


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def print_transcripts(
    run_dir: Path, iteration: int, console: Console, *, sample_id: str | None = None, limit: int = 3
) -> None:
    """Samples with what the model made of them: rollouts of the pool, and held-out answers with their refinements.

    Raises:
        RequestError: the run has no such sample or iteration.
    """
    folder = run_dir / f"iterations/{iteration:03d}"
    pool = {sample.id: sample for sample in load(run_dir, POOL)}
    shown = 0
    for group in load(folder, ROLLOUTS):
        if shown < limit and sample_id in (None, group.sample_id):
            print_sample(pool[group.sample_id], console)
            for number, (completion, score) in enumerate(zip(group.completions, group.scores, strict=True)):
                print_answer(f"completion {number}", completion, score, console)
            shown += 1
    for path in sorted(folder.glob("eval/*.jsonl")):
        samples = {s.id: s for s in load(run_dir / "held_out", Stage(path.name, Sample))}
        items = load(folder, evaluation_stage(path.stem))
        for item in sorted(items, key=lambda item: -len(item.scores))[: None if sample_id else limit]:
            if sample_id in (None, item.sample_id) and item.sample_id in samples:
                print_sample(samples[item.sample_id], console)
                for label, completion, verdict in item.refinement.listed(item.scores, item.alone):
                    print_answer(label, completion, verdict, console)
                console.print(f"  stopped: {item.refinement.stop_reason.value}\n")
                shown += 1
    if not shown:
        raise RequestError(
            f"{folder}: nothing to show{f' of sample {sample_id}' if sample_id else ''}; "
            f"toolrefine show {run_dir} lists the iterations, pool.jsonl and held_out/ hold the samples"
        )


def print_answers(folder: Path, console: Console, *, task_id: str | None = None, limit: int = 3) -> None:
    """Tasks of a benchmark with the answers and their verdicts.

    Raises:
        RequestError: the folder has no such task.
    """
    tasks = {task.id: task for task in load(folder, TASKS)}
    drafts = {each.task_id: each for each in load(folder, DRAFTS)}
    wanted = [each for each in load(folder, ANSWERS) if task_id in (None, each.task_id)]
    if not wanted:
        raise RequestError(f"{folder}: has no answer to a task {task_id}; {TASKS.path} there lists the tasks")
    for answer in wanted[:limit]:
        task = tasks[answer.task_id]
        print_prompt(task.id, task.tools, task.messages, console)
        console.print(f"[dim]gold[/] {plain(json.dumps(task.gold, ensure_ascii=False))}")
        if answer.transcript:
            for message in answer.transcript:
                console.print(f"  [dim]{message.role}[/] {plain(describe(message))}")
            console.print(f"  {mark(answer.verdicts[0].valid, answer.verdicts[0].error_type)}\n")
            continue
        for label, completion, verdict in answer.listed(drafts.get(task.id)):
            found = mark(verdict.valid, verdict.error_type) if verdict else NOT_ACCEPTED
            console.print(f"  [dim]{label}[/] {found} {plain(completion.text)}")
        console.print(f"  stopped: {answer.steps[0].stop_reason.value}\n")


def print_suspects(suspects: Sequence[Suspect], pool: Sequence[Sample], console: Console) -> None:
    """Suspects with what the model says instead of their label."""
    samples = {sample.id: sample for sample in pool}
    for suspect in suspects:
        print_sample(samples[suspect.sample_id], console)
        doubt = "" if suspect.doubt is None else f", by {suspect.doubt:.0f} nats likelier"
        console.print(f"[dim]model[/]  {plain(describe(suspect.answer))}")
        console.print(f"  [dim]{100 * suspect.agreement:.0f} % of the completions{doubt}[/]\n")


def print_sample(sample: Sample, console: Console) -> None:
    """The prompt and the target."""
    print_prompt(sample.id, sample.tools, sample.messages, console)
    console.print(f"[dim]target[/] {plain(describe(sample.target))}")


def print_prompt(name: str, tools: Sequence[Tool], messages: Sequence[Message], console: Console) -> None:
    """What the model gets to see."""
    console.rule(plain(name), align="left")
    for tool in tools:
        console.print(f"[dim]tool[/] {plain(signature(tool))}")
    for message in messages:
        console.print(f"[dim]{message.role}[/] {plain(describe(message))}")


def print_answer(label: str, completion: Completion, score: Score | None, console: Console) -> None:
    """One answer with its verdict, None where it was not accepted."""
    found = mark(score.correct, score.reason.value) if score else NOT_ACCEPTED
    console.print(f"  [dim]{label}[/] {found} {plain(completion.text)}")


def mark(correct: bool, reason: str) -> str:
    """A verdict in colour."""
    return "[green]right[/]" if correct else f"[red]{plain(reason)}[/]"


def plain(text: str) -> str:
    """Text that is safe to print: neither rich's markup nor a terminal's control sequences have an effect."""
    return escape("".join("\ufffd" if category(c) in ("Cc", "Cs") and c not in "\n\t" else c for c in text))


def signature(tool: Tool) -> str:
    """A tool's name and parameters; a schema without properties has none."""
    properties = tool.parameters.get("properties")
    return f"{tool.name}({', '.join(properties) if isinstance(properties, dict) else ''})"


def describe(message: Message) -> str:
    """A turn in one line."""
    if not message.tool_calls:
        return message.content
    try:
        return get_format("pythonic").render(message.tool_calls)
    except (RequestError, ValueError):  # a name that this format cannot write
        return ", ".join(f"{call.name} {call.arguments}" for call in message.tool_calls)
