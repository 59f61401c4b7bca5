"""The tables of benchmark results, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from toolrefine.benchmarks.task import Figure
from toolrefine.intervals import Accuracy, Paired
from toolrefine.results import DRAFT, BenchmarkResult, CategoryResult, RunComparison
from toolrefine.show import plain

COLUMNS = ("", "arm", "n", "right", "95 %", "fixed", "broken", "difference", "95 %", "calls", "tokens")
NOTE = (
    "fixed: wrong in the draft, right in this arm; broken: the other way round. Calls and sampled tokens are those of "
    "an average task."
)


class Sheet(NamedTuple):
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[str, ...]]


def sheets(result: BenchmarkResult) -> Iterator[Sheet]:
    """All tables of a result."""
    categories = [result.overall, *(each for each in result.categories if len(result.categories) > 1)]
    yield Sheet(
        f"{result.benchmark}: {result.model}",
        COLUMNS,
        [row for category in categories for row in category_rows(category)],
    )
    names = list(dict.fromkeys(figure.name for figures in result.figures.values() for figure in figures))
    if names:
        arms = list(result.figures)
        found = {(arm, figure.name): figure for arm, figures in result.figures.items() for figure in figures}
        yield Sheet(
            "The benchmark's own summary",
            ("", *arms, "not run"),
            [
                (name, *(figure_text(found.get((arm, name))) for arm in arms), missing_text(found.get((DRAFT, name))))
                for name in names
            ],
        )
    refined = next((arm for arm in result.overall.arms if arm.by_round), None)
    if refined is not None:
        yield Sheet(
            "Refinement, round by round",
            ("round", "right", "95 %"),
            [
                (
                    str(number) if number or result.config.refinement.constrain else "draft",
                    percent(accuracy),
                    interval(accuracy),
                )
                for number, accuracy in enumerate(refined.by_round)
            ],
        )


def notes(result: BenchmarkResult) -> Iterator[str]:
    """What a reader of the tables must know."""
    yield NOTE
    unanswered = result.overall.arms[0].num_unanswered
    if unanswered:
        yield f"{unanswered} tasks have no answer, as their prompts leave no room for one or were refused: wrong."
    if result.wrong_golds:
        listed = ", ".join(result.wrong_golds[:20]) + (", ..." if len(result.wrong_golds) > 20 else "")
        yield f"{len(result.wrong_golds)} tasks are not solved even by their gold answer, but count: {listed}."
    for reason in dict.fromkeys(result.not_run.values()):
        names = [name for name, why in result.not_run.items() if why == reason]
        yield f"Not run: {', '.join(names)}: {reason}."


def category_rows(category: CategoryResult) -> Iterator[tuple[str, ...]]:
    """One row an arm."""
    for number, arm in enumerate(category.arms):
        yield (
            "" if number else category.name,
            arm.name,
            str(arm.accuracy.n),
            percent(arm.accuracy),
            interval(arm.accuracy),
            *change(arm.against_draft),
            f"{arm.calls_per_task:.2f}",
            f"{arm.tokens_per_task:.1f}",
        )


def comparison_sheet(comparisons: Sequence[RunComparison]) -> Sheet:
    """Two runs side by side."""
    before, after = comparisons[0].arm_before, comparisons[0].arm
    arms = f"arm {after}" if before == after else f"arms {before} and {after}"
    return Sheet(
        f"Before against after, {arms}",
        ("", "n", "fixed", "broken", "difference", "95 %", "p"),
        [(each.name, str(each.n), *change(each), f"{each.p_value:.3g}") for each in comparisons],
    )


def percent(accuracy: Accuracy) -> str:
    """In percent."""
    return f"{100 * accuracy.accuracy:.1f}"


def interval(value: Accuracy | Paired) -> str:
    """A 95 % interval in points; that of a difference with its signs."""
    sign = "+" if isinstance(value, Paired) else ""
    return f"{100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f}"


def change(pair: Paired | None) -> tuple[str, str, str, str]:
    """Fixed, broken, difference and its interval."""
    if pair is None:
        return "", "", "", ""
    return str(pair.fixed), str(pair.broken), f"{100 * pair.difference:+.1f}", interval(pair)


def figure_text(figure: Figure | None) -> str:
    """In percent; a dash where it cannot be computed."""
    return "" if figure is None else "-" if figure.value is None else f"{100 * figure.value:.2f}"


def missing_text(figure: Figure | None) -> str:
    """What a figure lacks."""
    return ", ".join(figure.missing) if figure else ""


def print_sheet(sheet: Sheet, console: Console) -> None:
    """On a terminal."""
    table = Table(title=plain(sheet.title), title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(sheet.columns):
        table.add_column(column, justify="right" if number > 1 else "left")
    for row in sheet.rows:
        table.add_row(*map(plain, row))
    console.print(table)
    console.print()


def print_sheets(tables: Iterable[Sheet], remarks: Iterable[str], console: Console) -> None:
    """Tables and notes on a terminal."""
    for sheet in tables:
        print_sheet(sheet, console)
    for remark in remarks:
        console.print(f"[dim]{plain(remark)}[/]")


def to_markdown(tables: Iterable[Sheet], remarks: Iterable[str]) -> str:
    """Tables and notes as Markdown."""
    lines = []
    for sheet in tables:
        rule = f"|{'|'.join(['---'] * len(sheet.columns))}|"
        lines += [f"## {cell(sheet.title)}", "", row_text(sheet.columns), rule, *map(row_text, sheet.rows), ""]
    return "\n".join([*lines, *(f"{cell(remark)}\n" for remark in remarks)])


def row_text(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(cell, cells))} |"


def cell(text: str) -> str:
    """Text that breaks no table and makes no markup of its own."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
