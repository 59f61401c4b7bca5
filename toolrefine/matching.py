"""Predicted calls against target calls, and calls against the schemas of their tools."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from toolrefine.config import MatchingConfig
from toolrefine.types import Completion, Outcome, Reason, Sample, Score, Tool, ToolCall, ViolationKind

_MAX_SCHEMA_DEPTH = 64

MAX_CHECKS = 50_000
"""Checks of a value against a schema, at most, for all calls of an answer together. A thousand alternatives tried on
each item of a long list would take minutes; no schema that is meant comes near."""

_BFCL = str.maketrans("'", '"', " ,./-_*^")

Accepted = dict[str, set[str | None]]
"""By argument: the keys of further values that are right."""

MORE_PROPERTIES = {"patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
"""Keywords that may tell of properties beside those listed."""

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


EXACT = MatchingConfig()
RIGHT = Score(correct=True, reason=Reason.OK)


def score(completion: Completion, sample: Sample, config: MatchingConfig = EXACT) -> Score:
    """Judge a completion against the target of its sample.

    An answer that cannot be read or was cut off is wrong. One without calls is right where the target has none; its
    text is not compared.
    """
    match completion.outcome:
        case Outcome.MALFORMED:
            return Score(correct=False, reason=Reason.MALFORMED)
        case Outcome.TRUNCATED:
            return Score(correct=False, reason=Reason.TRUNCATED)
        case _:
            return match(completion.calls, sample.target.tool_calls, sample.tools, config, sample.alternatives)


def match(
    predicted: Sequence[ToolCall],
    target: Sequence[ToolCall],
    tools: Sequence[Tool] = (),
    config: MatchingConfig = EXACT,
    alternatives: Sequence[Mapping[str, Sequence[Any]]] = (),
) -> Score:
    """Judge predicted calls: right when they are the target's calls, in any order unless config.ordered.

    Names are compared exactly, strings as config.strings says, numbers by value (1 is 1.0, but true is not 1), lists
    and dicts item by item. An argument that equals the default in its tool's schema may be left out on either side.
    The reason for a wrong answer is that of the closest pair of calls that differ.

    alternatives hold, for each target call in order, what an argument may be beside the target's value. They may be
    fewer than the target's calls.
    """
    if len(predicted) != len(target):
        if not target:
            return Score(correct=False, reason=Reason.UNEXPECTED_CALL)
        return Score(correct=False, reason=Reason.WRONG_COUNT if predicted else Reason.MISSING_CALL)
    if all(map(_equal_calls, predicted, target)):
        return RIGHT
    by_name = {tool.name: tool for tool in tools}
    ours = [_prepare(call, by_name.get(call.name), config) for call in predicted]
    theirs = [_prepare(call, by_name.get(call.name), config) for call in target]
    accepted: list[Accepted] = [{} for _ in target]
    for place, (call, values) in enumerate(zip(target, alternatives, strict=False)):
        accepted[place] = _accepted(values, by_name.get(call.name), config)
    if config.ordered:
        pairs = [*zip(ours, theirs, accepted, strict=True)]
    elif any(accepted):
        pairs = _unassigned(ours, theirs, accepted)
    else:
        ours, theirs = _unmatched(ours, theirs), _unmatched(theirs, ours)
        pairs = [(our, their, {}) for our in ours for their in theirs]
    differences = [difference for pair in pairs if (difference := _difference(*pair))]
    if not differences:
        return RIGHT
    return Score(correct=False, reason=min(differences, key=lambda difference: difference[0])[1])


def same_calls(a: Completion, b: Completion) -> bool:
    """Whether two answers are the same calls, in any order: the "unchanged" of arXiv 2504.01400, algorithm 1.

    Two answers without calls are the same. One that cannot be read or was cut off is not even the same as itself.
    """
    readable = (Outcome.CALLS, Outcome.NO_CALL)
    return a.outcome in readable and b.outcome in readable and canonical_key(a.calls) == canonical_key(b.calls)


def majority(completions: Sequence[Completion]) -> tuple[int, int] | None:
    """Place of the earliest completion with the answer that most agree on, and how many do.

    Answers agree when they are the same calls, or both make none. One that cannot be read or was cut off agrees with
    nothing; None where that holds for all.
    """
    keys = [
        canonical_key(completion.calls) if completion.outcome in (Outcome.CALLS, Outcome.NO_CALL) else None
        for completion in completions
    ]
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return None
    key, count = votes.most_common(1)[0]
    return keys.index(key), count


def canonical_key(calls: Sequence[ToolCall]) -> str:
    """Return a text that two sequences of calls share exactly when they are the same calls in any order."""
    return "\n".join(sorted(map(_call_key, calls)))


class Violation(NamedTuple):
    """A way in which a call breaks the schema of its tool."""

    kind: ViolationKind
    text: str
    """One sentence."""


class _Found(NamedTuple):
    """A violation whose sentence is written once it is wanted: most are of alternatives, another of which fits."""

    kind: ViolationKind
    tell: Callable[[], str]


class _TooManyChecksError(Exception):
    """More than there may be."""


class _Work:
    """What may still be checked."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, amount: int) -> None:
        """Count what takes as long as so many checks."""
        self.left -= amount
        if self.left < 0:
            raise _TooManyChecksError


def find_violation(calls: Sequence[ToolCall], tools: Sequence[Tool], max_checks: int = MAX_CHECKS) -> Violation | None:
    """Find the first way in which calls break the schemas of their tools, or None.

    Checked are tool names, required and unknown arguments, type, enum, const, properties, items, anyOf, oneOf and
    allOf. Keywords and types that JSON Schema does not know, references, and schemas that are none are passed over.
    Unlike in JSON Schema, where properties are listed an unlisted one is unknown unless additionalProperties allows
    it. What is beyond max_checks is not checked.
    """
    by_name = {tool.name: tool for tool in tools}
    work = _Work(max_checks)
    for call in calls:
        if call.name not in by_name:
            return Violation("unknown_tool", f"There is no tool {call.name!r}.")
        try:
            found = _violation(call.arguments, by_name[call.name].parameters, "", 0, work)
        except _TooManyChecksError:
            continue
        if found:
            return Violation(found.kind, f"{call.name}: {found.tell()}.")
    return None


def schema_violation(calls: Sequence[ToolCall], tools: Sequence[Tool], max_checks: int = MAX_CHECKS) -> str | None:
    """The sentence of find_violation."""
    found = find_violation(calls, tools, max_checks)
    return found.text if found else None


def _equal_calls(a: ToolCall, b: ToolCall) -> bool:
    return a.name == b.name and _equal(a.arguments, b.arguments)


def _equal(a: Any, b: Any) -> bool:
    """Whether two values have the same key, found without writing the keys."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_equal, a, b))
    # True == 1 in Python.
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _call_key(call: ToolCall) -> str:
    return _key([call.name, call.arguments])


def _key(value: Any) -> str:
    return json.dumps(_canonical(value), ensure_ascii=False, sort_keys=True)


def _canonical(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _canonical(item) for key, item in value.items()}
        case list():
            return [_canonical(item) for item in value]
        case _:
            return value


def _prepare(call: ToolCall, tool: Tool | None, config: MatchingConfig) -> ToolCall:
    """The call without arguments that equal their defaults, its strings normalised where the config says so."""
    properties, normalise = _properties(tool), _NORMALISERS[config.strings]
    arguments = {
        name: value
        for name, value in zip(call.arguments, map(normalise, call.arguments.values()), strict=True)
        if not _equals_default(value, properties.get(name), normalise)
    }
    return ToolCall.model_construct(name=call.name, arguments=arguments)


def _properties(tool: Tool | None) -> dict[str, Any]:
    properties = tool.parameters.get("properties") if tool else None
    return properties if isinstance(properties, dict) else {}


def _accepted(alternatives: Mapping[str, Sequence[Any]], tool: Tool | None, config: MatchingConfig) -> Accepted:
    """Keys of the alternative values; None stands for leaving the argument out, since that is its default."""
    properties, normalise = _properties(tool), _NORMALISERS[config.strings]
    return {
        name: {
            None if _equals_default(value, properties.get(name), normalise) else _key(value)
            for value in map(normalise, values)
        }
        for name, values in alternatives.items()
    }


def bfcl_string(text: str) -> str:
    """A string as BFCL's checker compares it: without case, blanks and ,./-_*^, and with ' for "."""
    return text.translate(_BFCL).lower()


def _normalise(value: Any) -> Any:
    match value:
        case str():
            return bfcl_string(value)
        case list():
            return [_normalise(item) for item in value]
        case dict():
            return {key: _normalise(item) for key, item in value.items()}
        case _:
            return value


_NORMALISERS: dict[str, Callable[[Any], Any]] = {"exact": lambda value: value, "bfcl": _normalise}
"""By MatchingConfig.strings: what values become before they are compared."""


def _equals_default(value: Any, schema: Any, normalise: Callable[[Any], Any]) -> bool:
    """Whether a normalised value is the default of its schema."""
    return isinstance(schema, dict) and "default" in schema and _key(normalise(schema["default"])) == _key(value)


def _unmatched(calls: Sequence[ToolCall], others: Sequence[ToolCall]) -> list[ToolCall]:
    """Return the calls that are left when each has been crossed out against an equal one of the others."""
    left = list(map(_call_key, others))
    unmatched = []
    for call in calls:
        key = _call_key(call)
        if key in left:
            left.remove(key)
        else:
            unmatched.append(call)
    return unmatched


def _unassigned(
    ours: Sequence[ToolCall], theirs: Sequence[ToolCall], accepted: Sequence[Accepted]
) -> list[tuple[ToolCall, ToolCall, Accepted]]:
    """Pairs of what is left when as many calls as possible are assigned to a target call that they meet.

    With alternatives one call may meet several targets, so that crossing out the first is not enough: augmenting
    paths (H. W. Kuhn, 1955).
    """
    meets = [
        [not _difference(our, their, values) for their, values in zip(theirs, accepted, strict=True)] for our in ours
    ]
    owner: dict[int, int] = {}

    def assign(our: int, tried: set[int]) -> bool:
        for their in range(len(theirs)):
            if meets[our][their] and their not in tried:
                tried.add(their)
                if their not in owner or assign(owner[their], tried):
                    owner[their] = our
                    return True
        return False

    left = [our for our in range(len(ours)) if not assign(our, set())]
    return [
        (ours[our], theirs[their], accepted[their])
        for our in left
        for their in range(len(theirs))
        if their not in owner
    ]


def _difference(predicted: ToolCall, target: ToolCall, accepted: Accepted) -> tuple[tuple[bool, int], Reason] | None:
    """How far two calls are apart, and the gravest reason for it; None where there is no difference."""
    ours, theirs = predicted.arguments, target.arguments
    missing: list[str] = []
    extra: list[str] = []
    wrong: list[str] = []
    for name in {**theirs, **ours}:
        key = _key(ours[name]) if name in ours else None
        if name in theirs and name in ours and key == _key(theirs[name]):
            continue
        if key in accepted.get(name, ()):
            continue
        (missing if name not in ours else extra if name not in theirs else wrong).append(name)
    distance = (predicted.name != target.name, len(missing) + len(extra) + len(wrong))
    if predicted.name != target.name:
        return distance, Reason.WRONG_NAME
    if missing:
        return distance, Reason.MISSING_ARG
    if extra:
        return distance, Reason.EXTRA_ARG
    if any(type_name(ours[name]) != type_name(theirs[name]) for name in wrong):
        return distance, Reason.WRONG_TYPE
    return (distance, Reason.WRONG_VALUE) if wrong else None


def type_name(value: Any) -> str:
    """Return the JSON type of a value; every number is a number."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def _violation(value: Any, schema: Any, where: str, depth: int, work: _Work) -> _Found | None:
    """Return the first way in which a value breaks a schema. where is the path to the value, empty for arguments."""
    if not isinstance(schema, dict) or depth > _MAX_SCHEMA_DEPTH:
        work.spend(1)
        return None
    work.spend(1 + (len(schema) + len(where)) // 16)
    what = f"argument {where!r}" if where else "the arguments object"
    wanted = schema.get("type")
    types = [name for name in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(name, str)]
    work.spend(len(types) // 4)
    if types and all(name in _JSON_TYPES for name in types) and not any(has_type(value, name) for name in types):
        return _Found("wrong_type", lambda: f"{what} must be of type {' or '.join(types)}, not {type_name(value)}")
    choices = schema.get("enum")
    if isinstance(choices, list):
        work.spend(len(choices) * _size(value) // 16)
        if not any(_equal(value, choice) for choice in choices):
            return _Found("outside_enum", lambda: f"{what} must be one of {_shorten(choices)}, not {_shorten(value)}")
    if "const" in schema:
        work.spend(_size(value) // 16)
        if not _equal(value, schema["const"]):
            return _Found("outside_enum", lambda: f"{what} must be {_shorten(schema['const'])}, not {_shorten(value)}")
    return (
        _object_violation(value, schema, where, depth, work)
        or _array_violation(value, schema, where, depth, work)
        or _branch_violation(value, schema, where, depth, work)
    )


def _object_violation(value: Any, schema: dict[str, Any], where: str, depth: int, work: _Work) -> _Found | None:
    if not isinstance(value, dict):
        return None
    prefix = f"{where}." if where else ""
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    work.spend(len(required) // 8)
    for name in required:
        if isinstance(name, str) and name not in value:
            return _Found("missing_argument", partial("required argument {!r} is missing".format, prefix + name))
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return None
    is_open = may_have_more(schema)
    for name, item in value.items():
        if name not in properties and not is_open:
            return _Found("unknown_argument", partial("argument {!r} is unknown".format, prefix + name))
        found = _violation(item, properties.get(name), prefix + name, depth + 1, work)
        if found:
            return found
    return None


def may_have_more(schema: dict[str, Any]) -> bool:
    """Whether an object with a list of properties may have others."""
    return schema.get("additionalProperties", False) is not False or not MORE_PROPERTIES.isdisjoint(schema)


def _array_violation(value: Any, schema: dict[str, Any], where: str, depth: int, work: _Work) -> _Found | None:
    if not isinstance(value, list) or not isinstance(schema.get("items"), dict):
        return None
    items, prefix = schema["items"], schema.get("prefixItems")
    start = len(prefix) if isinstance(prefix, list) else 0
    found = (
        _violation(item, items, f"{where}[{index}]", depth + 1, work) for index, item in enumerate(value[start:], start)
    )
    return next(filter(None, found), None)


def _branch_violation(value: Any, schema: dict[str, Any], where: str, depth: int, work: _Work) -> _Found | None:
    """Check allOf, anyOf and oneOf. oneOf is read as anyOf: that only one branch fits says nothing about a call."""
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = schema.get(keyword)
        if not isinstance(branches, list):
            continue
        first = None
        for branch in branches:
            if not isinstance(branch, dict):
                continue
            # One branch need not list the properties of the others.
            found = _violation(value, {"additionalProperties": True} | branch, where, depth + 1, work)
            first = first or found
            if (found is None) is (keyword != "allOf"):  # that decides it
                first = found
                break
        if first:
            return first
    return None


def _size(value: Any) -> int:
    """How many values there are in a value."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def has_type(value: Any, name: str) -> bool:
    """Whether a value is of a JSON type: 1.0 is an integer, true is no number. No value has a type that JSON lacks."""
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _JSON_TYPES.get(name, ()))


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
