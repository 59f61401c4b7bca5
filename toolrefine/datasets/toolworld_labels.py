"""Wrong labels, wrong in the ways that real ones are."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from toolrefine.datasets.toolworld_domains import Domain
from toolrefine.types import Message, Sample, ToolCall


def make_wrong(sample: Sample, rng: Random, domain: Domain) -> Sample:
    """The sample with a wrong target; meta["label"] becomes "wrong:HOW"."""
    ways = [how for how, way in WAYS.items() if way(sample, Random(0), domain) is not None]
    how = rng.choice(ways)
    calls = WAYS[how](sample, rng, domain)
    assert calls is not None  # noqa: S101 - whether a way applies does not depend on the random numbers
    target = Message(role="assistant", tool_calls=calls)
    return sample.model_copy(update={"target": target, "meta": {**sample.meta, "label": f"wrong:{how}"}})


def _another_tool(sample: Sample, rng: Random, domain: Domain) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    others = [t.name for t in sample.tools if t.name not in {c.name for c in calls}]
    if not calls or not others:
        return None
    return _replace(calls, rng.randrange(len(calls)), name=rng.choice(others))


def _changed_value(sample: Sample, rng: Random, domain: Domain) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    place = _pick_argument(calls, rng)
    if place is None:
        return None
    i, key = place
    parameter = next(p for p in domain.parameters if p.name == key)
    old = calls[i].arguments[key]
    new = not old if isinstance(old, bool) else parameter.draw(rng)
    while new == old:
        new = parameter.draw(rng)
    return _replace(calls, i, arguments={**calls[i].arguments, key: new})


def _missing_value(sample: Sample, rng: Random, domain: Domain) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    place = _pick_argument(calls, rng)
    if place is None:
        return None
    i, key = place
    return _replace(calls, i, arguments={k: v for k, v in calls[i].arguments.items() if k != key})


def _dropped_call(sample: Sample, rng: Random, domain: Domain) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    if len(calls) < 2:
        return None
    dropped = rng.randrange(len(calls))
    return calls[:dropped] + calls[dropped + 1 :]


def _needless_call(sample: Sample, rng: Random, domain: Domain) -> tuple[ToolCall, ...] | None:
    if sample.target.tool_calls:
        return None
    name = rng.choice(sample.tools).name
    tool = next(t for t in domain.tools if t.tool.name == name)
    return (ToolCall(name=name, arguments={p.name: p.draw(rng) for p in tool.parameters[: tool.num_required]}),)


def _pick_argument(calls: tuple[ToolCall, ...], rng: Random) -> tuple[int, str] | None:
    """(index of a call, name of one of its arguments), or None where no call has any."""
    places = [(i, key) for i, call in enumerate(calls) for key in call.arguments]
    return rng.choice(places) if places else None


def _replace(calls: tuple[ToolCall, ...], index: int, **update: Any) -> tuple[ToolCall, ...]:
    return (*calls[:index], calls[index].model_copy(update=update), *calls[index + 1 :])


WAYS: dict[str, Callable[[Sample, Random, Domain], tuple[ToolCall, ...] | None]] = {
    "another_tool": _another_tool,
    "changed_value": _changed_value,
    "missing_value": _missing_value,
    "dropped_call": _dropped_call,
    "needless_call": _needless_call,
}
"""How a label is made wrong; None where it does not apply to the sample."""
