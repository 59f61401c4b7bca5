"""BFCL's summary: the figures of its leaderboard in their version 3 and 4.

In version 4 irrelevance is a figure of its own; in version 3 it is part of the non-live and the live figure, which have
the version in their names here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolrefine.benchmarks.task import Figure
from toolrefine.intervals import Accuracy

NON_LIVE = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
)
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
)
MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")

WEIGHTS_V4 = {"non-live": 0.1, "live": 0.1, "irrelevance": 0.1, "multi-turn": 0.3, "agentic": 0.4}


def summarize(accuracies: Mapping[str, Accuracy]) -> tuple[Figure, ...]:
    """All figures, from the accuracies of the categories that were run.

    A figure that needs another category has no value. The official one would count that category as 0.
    """
    ran = {name: each.accuracy for name, each in accuracies.items()}
    simple = _mean("simple", NON_LIVE[:3], ran)
    non_live = _mean("non-live", ("simple", *NON_LIVE[3:6]), ran | _value(simple))
    live = _weighted("live", LIVE[:4], accuracies)
    irrelevance = _mean("irrelevance", ("irrelevance", "live_irrelevance"), ran)
    multi_turn = _mean("multi-turn", MULTI_TURN, ran)
    non_live_v3 = _mean("non-live (v3)", ("simple", *NON_LIVE[3:]), ran | _value(simple))
    live_v3 = _weighted("live (v3)", LIVE, accuracies)
    overall_v3 = _mean(
        "overall (v3)",
        ("non-live (v3)", "live (v3)", "multi-turn"),
        _value(non_live_v3) | _value(live_v3) | _value(multi_turn),
    )
    parts_v4 = _value(non_live) | _value(live) | _value(irrelevance) | _value(multi_turn)
    overall_v4 = _sum("overall (v4)", WEIGHTS_V4, parts_v4)
    return simple, non_live, live, irrelevance, multi_turn, non_live_v3, live_v3, overall_v3, overall_v4


def _value(figure: Figure) -> dict[str, float]:
    return {} if figure.value is None else {figure.name: figure.value}


def _mean(name: str, of: Sequence[str], values: Mapping[str, float]) -> Figure:
    return _sum(name, dict.fromkeys(of, 1 / len(of)), values)


def _weighted(name: str, of: Sequence[str], accuracies: Mapping[str, Accuracy]) -> Figure:
    """The mean over all tasks of some categories."""
    counts = {category: accuracies[category].n for category in of if category in accuracies}
    total = sum(counts.values()) or 1
    weights = {category: counts.get(category, 0) / total for category in of}
    return _sum(name, weights, {category: accuracies[category].accuracy for category in counts})


def _sum(name: str, weights: Mapping[str, float], values: Mapping[str, float]) -> Figure:
    missing = tuple(part for part in weights if part not in values)
    value = None if missing else sum(weight * values[part] for part, weight in weights.items())
    return Figure(name=name, value=value, of=tuple(weights), missing=missing)
