"""ACEBench's official summary, by language.

A category of several turns scores by conversations, each right where all its turns are; any other by rows. Normal,
special and agent are the unweighted means of their categories.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolrefine.benchmarks.acebench.data import AGENT, ATOM, LANGUAGES, MULTI_TURN, NORMAL, SINGLE_TURN, SPECIAL
from toolrefine.benchmarks.task import Figure
from toolrefine.intervals import Accuracy

WEIGHTS = {"normal": 0.578, "special": 0.2676, "agent": 0.1545}
_GROUPS = {
    "atom": ATOM,
    "single_turn": SINGLE_TURN,
    "multi_turn": MULTI_TURN,
    "normal": NORMAL,
    "special": SPECIAL,
    "agent": AGENT,
}
_ASKED, _RIGHT = "asked in conversation ", "right in conversation "


def count_turn(row_id: str, *, valid: bool) -> dict[str, float]:
    """What the verdict on a row of several turns adds to the counts: ids end in _CONVERSATION_TURN."""
    conversation = row_id.rsplit("_", 2)[-2]
    return {_ASKED + conversation: 1.0, _RIGHT + conversation: float(valid)}


def build_figures(accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]) -> tuple[Figure, ...]:
    """The figures of each language that was run."""
    scores = {name: _score(accuracy, counts.get(name, {})) for name, accuracy in accuracies.items()}
    return tuple(figure for language in LANGUAGES for figure in _of_language(language, scores))


def _score(accuracy: Accuracy, counts: Mapping[str, float]) -> float:
    asked = {name.removeprefix(_ASKED): n for name, n in counts.items() if name.startswith(_ASKED)}
    if not asked:
        return accuracy.accuracy
    return sum(counts[_RIGHT + conversation] == n for conversation, n in asked.items()) / len(asked)


def _of_language(language: str, scores: Mapping[str, float]) -> list[Figure]:
    """One figure for each category run, for each group that has some, and the weighted means of the groups."""
    values: dict[str, float | None] = {name: score for name, score in scores.items() if name.startswith(f"{language}/")}
    if not values:
        return []
    figures = [Figure(name=name, value=value, of=(name,)) for name, value in values.items()]
    for group, members in _GROUPS.items():
        figure = _mean(f"{language}/{group}", {f"{language}/{name}": 1.0 for name in members}, values)
        values[figure.name] = figure.value
        if len(figure.missing) < len(figure.of) or group in WEIGHTS:
            figures.append(figure)
    weights = {f"{language}/{group}": weight for group, weight in WEIGHTS.items()}
    figures.append(_mean(f"{language}/overall", weights, values, total=1.0))
    del weights[f"{language}/agent"]
    figures.append(_mean(f"{language}/overall of normal and special", weights, values))
    return figures


def _mean(
    name: str, weights: Mapping[str, float], values: Mapping[str, float | None], total: float | None = None
) -> Figure:
    """The weighted mean, or the weighted sum over total; None where a value is missing."""
    found = {part: value for part, value in values.items() if part in weights and value is not None}
    missing = tuple(part for part in weights if part not in found)
    value = None
    if not missing:
        value = sum(weights[part] * found[part] for part in weights) / (total or sum(weights.values()))
    return Figure(name=name, value=value, of=tuple(weights), missing=missing)
