"""Wrong labels, wrong in the ways that real ones are: planted on purpose, to see how well they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Protocol

from toolrefine.matching import canonical_key, match, schema_violation
from toolrefine.types import Message, Sample, Tool, ToolCall

NUM_TRIES = 20
"""Values to try until one fits the schema of its tool."""


class Values(Protocol):
    """Where the arguments of wrong labels come from."""

    def change(self, tool: Tool, arguments: dict[str, Any], key: str, rng: Random) -> dict[str, Any] | None:
        """The arguments with another value for one of them; None if there is none."""
        ...

    def fill(self, tool: Tool, rng: Random) -> dict[str, Any] | None:
        """Arguments for a call that nobody asked for; None if there are none."""
        ...


class SeenValues:
    """Values that the calls of some samples have for arguments of the same name, if they fit the tool's schema."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        seen: dict[str, dict[str, Any]] = {}
        for sample in samples:
            for call in sample.target.tool_calls:
                for key, value in call.arguments.items():
                    seen.setdefault(key, {}).setdefault(repr(value), value)
        self._seen = {key: list(values.values()) for key, values in seen.items()}

    def change(self, tool: Tool, arguments: dict[str, Any], key: str, rng: Random) -> dict[str, Any] | None:
        """The arguments with another value for one of them; None if none of some drawn ones fits."""
        old = ToolCall(name=tool.name, arguments=arguments)
        for value in self._draw(tool, key, rng):
            new = ToolCall(name=tool.name, arguments={**arguments, key: value})
            if canonical_key([new]) != canonical_key([old]) and not schema_violation([new], [tool]):
                return new.arguments
        return None

    def fill(self, tool: Tool, rng: Random) -> dict[str, Any] | None:
        """The required arguments; None if no drawn ones fit."""
        required = tool.parameters.get("required")
        keys = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
        for values in zip(*(self._draw(tool, key, rng) for key in keys), strict=False):
            call = ToolCall(name=tool.name, arguments=dict(zip(keys, values, strict=True)))
            if not schema_violation([call], [tool]):
                return call.arguments
        return None if keys else {}

    def _draw(self, tool: Tool, key: str, rng: Random) -> list[Any]:
        properties = tool.parameters.get("properties")
        schema = properties.get(key) if isinstance(properties, dict) else None
        choices = schema.get("enum") if isinstance(schema, dict) else None
        if isinstance(schema, dict) and schema.get("type") == "boolean":
            choices = [True, False]
        values = choices if isinstance(choices, list) else self._seen.get(key, [])
        return rng.sample(values, min(len(values), NUM_TRIES))


def make_wrong(sample: Sample, rng: Random, values: Values) -> Sample:
    """The sample with a wrong target; meta["label"] becomes "wrong:HOW". As it was where there is no way to do so."""
    ways = [how for how, way in WAYS.items() if way(sample, Random(0), values) is not None]
    while ways:
        how = rng.choice(ways)
        calls = WAYS[how](sample, rng, values)
        if calls is not None and not is_right(calls, sample):
            target = Message(role="assistant", tool_calls=calls)
            return sample.model_copy(update={"target": target, "meta": {**sample.meta, "label": f"wrong:{how}"}})
        ways.remove(how)
    return sample


def is_right(calls: tuple[ToolCall, ...], sample: Sample) -> bool:
    """Whether calls are those of the sample's target."""
    target = sample.target.tool_calls
    return match(calls, target, sample.tools, alternatives=sample.alternatives).correct


def _another_tool(sample: Sample, rng: Random, values: Values) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    others = [t.name for t in sample.tools if t.name not in {c.name for c in calls}]
    if not calls or not others:
        return None
    return _replace(calls, rng.randrange(len(calls)), name=rng.choice(others))


def _changed_value(sample: Sample, rng: Random, values: Values) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    tools = {tool.name: tool for tool in sample.tools}
    places = _arguments(calls)
    while places:
        i, key = rng.choice(places)
        tool = tools.get(calls[i].name)
        arguments = tool and values.change(tool, calls[i].arguments, key, rng)
        if arguments:
            return _replace(calls, i, arguments=arguments)
        places.remove((i, key))
    return None


def _missing_value(sample: Sample, rng: Random, values: Values) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    places = _arguments(calls)
    if not places:
        return None
    i, key = rng.choice(places)
    return _replace(calls, i, arguments={k: v for k, v in calls[i].arguments.items() if k != key})


def _dropped_call(sample: Sample, rng: Random, values: Values) -> tuple[ToolCall, ...] | None:
    calls = sample.target.tool_calls
    if len(calls) < 2:
        return None
    dropped = rng.randrange(len(calls))
    return calls[:dropped] + calls[dropped + 1 :]


def _needless_call(sample: Sample, rng: Random, values: Values) -> tuple[ToolCall, ...] | None:
    if sample.target.tool_calls or not sample.tools:
        return None
    tool = rng.choice(sample.tools)
    arguments = values.fill(tool, rng)
    return None if arguments is None else (ToolCall(name=tool.name, arguments=arguments),)


def _arguments(calls: tuple[ToolCall, ...]) -> list[tuple[int, str]]:
    """(index of a call, name of one of its arguments)."""
    return [(i, key) for i, call in enumerate(calls) for key in call.arguments]


def _replace(calls: tuple[ToolCall, ...], index: int, **update: Any) -> tuple[ToolCall, ...]:
    return (*calls[:index], calls[index].model_copy(update=update), *calls[index + 1 :])


WAYS: dict[str, Callable[[Sample, Random, Values], tuple[ToolCall, ...] | None]] = {
    "another_tool": _another_tool,
    "changed_value": _changed_value,
    "missing_value": _missing_value,
    "dropped_call": _dropped_call,
    "needless_call": _needless_call,
}
"""How a label is made wrong; None where it does not apply to the sample."""
