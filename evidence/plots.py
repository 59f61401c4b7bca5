"""The plots of docs/evidence.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evidence.analysis import Group
from toolrefine.intervals import Accuracy

MARKERS = "osD^vPX*<>hd"
SHOWN = (
    "plain SFT",
    "one round",
    "iteration 3",
    "no refinement data",
    "frontier",
    "unsuspected",
    "unsuspected without refinement data",
    "labels scored",
    "labels checked",
    "labels checked and scored",
    "oracle",
)
REPAIR = ("draft", *(f"invalid: resample, {number}" for number in ("1 round", "4 rounds", "8 rounds")))
RIVALS = ("vote of", "best of", "constrained decoding")


def plot_noise(groups: Sequence[Group], path: Path) -> None:
    """Accuracy against the share of wrong labels, a line an arm."""
    figure, axes = new_figure("share of wrong labels", "right, %")
    for name, marker in zip(SHOWN, MARKERS, strict=False):
        known = [group for group in groups if name in group.arm_names]
        draw(axes, [group.condition for group in known], [group.accuracy(name) for group in known], name, marker)
    base = groups[0].accuracy("base").accuracy * 100
    axes.axhline(base, color="grey", linestyle=":", label="base")
    save(figure, axes, path)


def plot_growth(groups: Sequence[Group], path: Path) -> None:
    """Accuracy from iteration to iteration, a line a condition."""
    figure, axes = new_figure("iteration", "right, %")
    for number, group in enumerate(groups):
        names = ["base", *(name for name in group.arm_names if name.startswith("iteration "))]
        label = f"{group.condition} wrong labels"
        draw(
            axes,
            [str(number) for number in range(len(names))],
            [group.accuracy(name) for name in names],
            label,
            MARKERS[number],
        )
        plain = group.accuracy("plain SFT").accuracy * 100
        axes.axhline(plain, color=f"C{number}", linestyle=":", label=f"plain SFT, {label}")
    save(figure, axes, path)


def plot_costs(group: Group, path: Path) -> None:
    """Accuracy against calls a sample, a point a policy."""
    figure, axes = new_figure("calls a sample", "right, %")
    for number, name in enumerate(group.arm_names):
        cost = group.mean(name, lambda arm: arm.calls)
        color = "grey" if name.startswith(RIVALS) else f"C{number % 10}"
        draw(axes, [cost], [group.accuracy(name)], name, MARKERS[number % len(MARKERS)], color)
    axes.set_title(group.condition)
    save(figure, axes, path)


def plot_compute(groups: Sequence[Group], path: Path) -> None:
    """Accuracy against the work of sampling, a line a base: its drafts, then more and more rounds of REPAIR."""
    figure, axes = new_figure("10⁶ operations a sample: 2 x parameters x sampled tokens", "right, %")
    for group, marker in zip(groups, MARKERS, strict=False):
        operations = 2 * group.cells[0].facts["num_parameters"] / 1e6
        costs = [operations * group.mean(name, lambda arm: arm.tokens) for name in REPAIR]
        draw(axes, costs, [group.accuracy(name) for name in REPAIR], group.condition, marker)
    axes.set_xscale("log")
    save(figure, axes, path)


def draw(
    axes: Axes,
    xs: Sequence[str] | Sequence[float],
    accuracies: Sequence[Accuracy],
    label: str,
    marker: str,
    color: str | None = None,
) -> None:
    """A line with 95 % intervals."""
    middles = [100 * each.accuracy for each in accuracies]
    lows = [100 * (each.accuracy - each.low) for each in accuracies]
    highs = [100 * (each.high - each.accuracy) for each in accuracies]
    axes.errorbar(xs, middles, yerr=[lows, highs], label=label, marker=marker, color=color, capsize=3)


def new_figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty plot."""
    mpl.rcParams["svg.hashsalt"] = "toolrefine"  # the same figures give the same bytes
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes


def save(figure: Figure, axes: Axes, path: Path) -> None:
    """With a legend beside the plot, as SVG."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
