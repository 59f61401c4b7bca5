"""The charts of the report as inline SVG; colours and type come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from toolrefine.intervals import Accuracy
from toolrefine.summary import BASE, BASELINE, Arm, Comparison, IterationSummary

CELL_WIDTH, CELL_HEIGHT = 230, 30
"""Charts inside a table row, in pixels."""


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """One SVG element. class_ becomes class and text_anchor text-anchor; children that are not Markup are escaped."""
    names = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    written = "".join(
        f' {name}="{escape(f"{value:.1f}".removesuffix(".0") if isinstance(value, int | float) else value)}"'
        for name, value in names
    )
    return Markup(f"<{tag}{written}>{Markup('').join(children)}</{tag}>")  # noqa: S704 - every part is escaped


def drawing(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """An SVG drawing with a description for those who cannot see it."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *parts, viewBox=box, width=width, height=height, role="img", aria_label=label)


def text(x: float, y: float, content: str, anchor: str = "start", class_: str = "tick") -> Markup:
    """A line of text."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def ticks(low: float, high: float) -> list[float]:
    """Round values that cover low to high in at most six steps."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= 6 * s or s == 0.2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 2) for i in range(first, max(last, first + 1) + 1)]


def accuracy_ticks(arms: Sequence[Arm]) -> list[float]:
    """The ticks of an axis that holds the intervals of all arms."""
    return ticks(min(arm.accuracy.low for arm in arms), max(arm.accuracy.high for arm in arms))


def model_class(arm: Arm) -> str:
    """CSS class of an arm: who trained the model, and hollow where refinement is on."""
    family = {BASE: "base", BASELINE: "plain"}.get(arm.model, "iteration")
    return f"{family} hollow" if arm.refined else family


def interval_axis(marks: Sequence[float]) -> Markup:
    """The head of a column of interval_cell."""
    labels = [text(cell_x(mark, marks), 14, f"{100 * mark:.0f}", "middle") for mark in marks]
    return drawing(CELL_WIDTH, 18, "Accuracy in percent", labels)


def interval_cell(arm: Arm, marks: Sequence[float]) -> Markup:
    """An accuracy and its interval on the axis of interval_axis."""
    grid = [line(cell_x(mark, marks), 0, cell_x(mark, marks), CELL_HEIGHT, "grid") for mark in marks]
    middle, accuracy = CELL_HEIGHT / 2, arm.accuracy
    whisker = line(
        cell_x(accuracy.low, marks), middle, cell_x(accuracy.high, marks), middle, f"mark {model_class(arm)}"
    )
    dot = element("circle", cx=cell_x(accuracy.accuracy, marks), cy=middle, r=4, class_=f"mark {model_class(arm)}")
    return drawing(CELL_WIDTH, CELL_HEIGHT, interval_words(accuracy), [*grid, whisker, dot])


def cell_x(value: float, marks: Sequence[float]) -> float:
    """Place of a value in a table cell."""
    return 12 + (value - marks[0]) / (marks[-1] - marks[0]) * (CELL_WIDTH - 24)


def interval_words(accuracy: Accuracy) -> str:
    """An accuracy for a screen reader."""
    return f"{100 * accuracy.accuracy:.1f} %, interval {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"


def trend(arms: Sequence[Arm]) -> Markup:
    """Accuracy over iterations with intervals; plain SFT stands apart at the right, on no line."""
    models = list(dict.fromkeys(arm.model for arm in arms if arm.model != BASELINE))
    columns = [*models, *(arm.model for arm in arms if arm.model == BASELINE and not arm.refined)]
    step = min(120.0, 560 / max(1, len(columns) - 1))
    left, top, bottom = 56, 16, 216
    width = left + 60 + step * (len(columns) - 1) + 40
    marks = accuracy_ticks(arms)

    def y(value: float) -> float:
        return bottom - (value - marks[0]) / (marks[-1] - marks[0]) * (bottom - top)

    def x(arm: Arm) -> float:
        nudge = 0 if not any(a.refined for a in arms) else 6 if arm.refined else -6
        return left + 40 + step * columns.index(arm.model) + nudge

    parts = []
    for mark in marks:
        parts += [line(left, y(mark), width, y(mark), "grid"), text(left - 8, y(mark) + 4, f"{100 * mark:.0f}", "end")]
    for place, model in enumerate(columns):
        label = model.removeprefix("iteration ") if len(columns) > 8 else model
        parts.append(text(left + 40 + step * place, bottom + 20, label, "middle", "label"))
    for refined in (False, True):
        course = [arm for arm in arms if arm.refined is refined and arm.model in models]
        points = " ".join(f"{x(arm):.1f},{y(arm.accuracy.accuracy):.1f}" for arm in course)
        if len(course) > 1:
            parts.append(element("polyline", points=points, class_="course refined" if refined else "course"))
    for arm in arms:
        kind = f"mark {model_class(arm)}"
        parts.append(line(x(arm), y(arm.accuracy.low), x(arm), y(arm.accuracy.high), kind))
        parts.append(element("circle", cx=x(arm), cy=y(arm.accuracy.accuracy), r=4, class_=kind))
    middle = (top + bottom) / 2
    parts.append(
        element(
            "text",
            "accuracy, %",
            x=14,
            y=middle,
            transform=f"rotate(-90 14 {middle:g})",
            text_anchor="middle",
            class_="tick",
        )
    )
    return drawing(width, bottom + 30, "Accuracy over iterations", parts)


def change_cell(comparison: Comparison, most: int) -> Markup:
    """Broken answers to the left, fixed ones to the right of a middle line."""
    centre, full = CELL_WIDTH / 2, CELL_WIDTH / 2 - 34
    broken, fixed = (full * count / max(1, most) for count in (comparison.broken, comparison.fixed))
    parts = [
        element("rect", x=centre - broken, y=8, width=broken, height=14, class_="broken"),
        element("rect", x=centre, y=8, width=fixed, height=14, class_="fixed"),
        line(centre, 0, centre, CELL_HEIGHT, "axis"),
        text(centre - broken - 5, 19, str(comparison.broken), "end", "value"),
        text(centre + fixed + 5, 19, str(comparison.fixed), "start", "value"),
    ]
    return drawing(CELL_WIDTH, CELL_HEIGHT, f"{comparison.broken} broken, {comparison.fixed} fixed", parts)


def change_axis() -> Markup:
    """The head of a column of change_cell."""
    centre = CELL_WIDTH / 2
    labels = [text(centre - 8, 14, "← broken", "end"), text(centre + 8, 14, "fixed →")]
    return drawing(CELL_WIDTH, 18, "Broken to the left, fixed to the right", labels)


def selection_cell(it: IterationSummary) -> Markup:
    """The selected part of the pool; wrong labels among it stand at its end where they are known."""
    full = CELL_WIDTH - 12
    scale = full / max(1, it.num_samples)
    wrong = it.num_wrong_selected or 0
    selected = it.num_selected or 0
    parts = [
        element("rect", x=6, y=8, width=full, height=14, class_="pool"),
        element("rect", x=6, y=8, width=scale * (selected - wrong), height=14, class_="some"),
        element("rect", x=6 + scale * (selected - wrong), y=8, width=scale * wrong, height=14, class_="broken"),
    ]
    return drawing(CELL_WIDTH, CELL_HEIGHT, f"{selected} of {it.num_samples} samples selected", parts)


def pass_curves(iterations: Sequence[IterationSummary]) -> Markup:
    """Mean pass@k over k, a line an iteration, later ones stronger."""
    left, right, top, bottom = 50, 330, 14, 176
    ks = sorted({k for it in iterations for k in it.pass_at})
    values = [value for it in iterations for value in it.pass_at.values()]
    marks = ticks(min(values), max(values))

    def x(k: int) -> float:
        return left + 12 + (math.log2(k) / max(1.0, math.log2(ks[-1]))) * (right - left - 24)

    def y(value: float) -> float:
        return bottom - (value - marks[0]) / (marks[-1] - marks[0]) * (bottom - top)

    parts = []
    for mark in marks:
        parts += [line(left, y(mark), right, y(mark), "grid"), text(left - 8, y(mark) + 4, f"{100 * mark:.0f}", "end")]
    parts += [text(x(k), bottom + 18, str(k), "middle") for k in ks]
    ends = spread([y(it.pass_at[max(it.pass_at)]) for it in iterations], 14)
    for place, (it, end) in enumerate(zip(iterations, ends, strict=True)):
        strength = 0.4 + 0.6 * (place + 1) / len(iterations)
        points = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in it.pass_at.items())
        parts.append(element("polyline", points=points, class_="course", opacity=f"{strength:.2f}"))
        parts += [
            element("circle", cx=x(k), cy=y(value), r=3, class_="mark iteration", opacity=f"{strength:.2f}")
            for k, value in it.pass_at.items()
        ]
        parts.append(text(right + 4, end + 4, f"iteration {it.iteration}", class_="label"))
    middle = (top + bottom) / 2
    parts.append(text((left + right) / 2, bottom + 36, "k", "middle"))
    parts.append(
        element(
            "text",
            "pass@k, %",
            x=14,
            y=middle,
            transform=f"rotate(-90 14 {middle:g})",
            text_anchor="middle",
            class_="tick",
        )
    )
    return drawing(420, bottom + 44, "Mean pass@k of the pool", parts)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved apart to lie at least gap from one another, in the same order from low to high."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    shift = sum(moved[i] - places[i] for i in order) / max(1, len(order))
    return [place - shift for place in moved]


def histogram(it: IterationSummary, most: int) -> Markup:
    """Samples by how many of their completions are correct; most is the tallest bar of all iterations."""
    bar, floor = 208 / len(it.histogram), 122
    parts = [line(6, floor, 214, floor, "axis")]
    for correct, count in enumerate(it.histogram):
        height = 84 * count / max(1, most)
        middle = 6 + (correct + 0.5) * bar
        parts.append(
            element(
                "rect",
                x=6 + correct * bar + 1.5,
                y=floor - height,
                width=bar - 3,
                height=height,
                class_="none" if correct == 0 else "some",
            )
        )
        parts.append(text(middle, floor + 15, str(correct), "middle"))
        if len(it.histogram) <= 9:
            parts.append(text(middle, floor - height - 4, str(count), "middle", "tiny"))
    parts.append(text(6, 10, f"iteration {it.iteration}", class_="label"))
    parts.append(text(110, floor + 32, f"correct completions of {it.k}", "middle"))
    return drawing(220, floor + 38, f"Samples by correct completions, iteration {it.iteration}", parts)
