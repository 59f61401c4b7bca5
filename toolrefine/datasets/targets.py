"""Targets that contradict the schemas of their tools: what kind of fault it is, and what mends it without loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple, get_args

from toolrefine.json_schema import allows
from toolrefine.matching import Violation, find_violation, has_type
from toolrefine.types import Sample, Tool, ToolCall, ViolationKind

KINDS: tuple[ViolationKind, ...] = get_args(ViolationKind)
Policy = Literal["quarantine", "repair", "keep"]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0)?")
_MAX_DEPTH = 64


class Verdict(NamedTuple):
    """What becomes of a sample whose target was checked."""

    sample: Sample | None
    """The sample, repaired where it had to be; None if it is quarantined."""
    outcomes: dict[ViolationKind, Literal["kept", "repaired", "quarantined"]]
    """Every kind of fault that was there; of a quarantined sample, the one that it is quarantined for."""
    reason: str = ""
    """Why it is quarantined, beginning with the kind."""


def check_target(sample: Sample, policies: Policy | Mapping[ViolationKind, Policy]) -> Verdict:
    """Keep, repair or quarantine a sample by the faults of its target.

    policies holds for all kinds or is given by kind, quarantine where none is. What cannot be repaired without loss is
    quarantined.
    """
    by_kind: dict[ViolationKind, Policy] = {
        kind: policies if isinstance(policies, str) else policies.get(kind, "quarantine") for kind in KINDS
    }
    to_repair = frozenset(kind for kind in KINDS if by_kind[kind] == "repair")
    found = find_violations(sample)
    mended = repair(sample, to_repair) if to_repair else sample
    left = find_violations(mended) if found else {}
    for kind, violation in left.items():
        if by_kind[kind] != "keep":
            reason = f"{kind}: the target of sample {sample.id} is invalid: {violation}"
            return Verdict(None, {kind: "quarantined"}, reason)
    return Verdict(mended, {kind: "kept" if kind in left else "repaired" for kind in {**found, **left}})


def find_violations(sample: Sample) -> dict[ViolationKind, str]:
    """Kinds of faults in the target's calls, each with a sentence for the first of it."""
    found: dict[ViolationKind, str] = {}
    for call in sample.target.tool_calls:
        for violation in _violations(call, sample.tools):
            found.setdefault(violation.kind, violation.text)
    return found


def repair(sample: Sample, kinds: frozenset[ViolationKind]) -> Sample:
    """The sample with faults of some kinds mended where nothing is lost by it.

    wrong_type: text that is a number or a truth value where the schema wants one, a number where it wants text. A whole
    number for an integer is written without a fraction, although 5.0 is no fault in JSON Schema.
    outside_enum: the one value of the enum that differs in nothing but the case of its letters.
    """
    schemas = {tool.name: tool.parameters for tool in sample.tools}
    calls = tuple(
        call.model_copy(update={"arguments": _mend(call.arguments, schemas.get(call.name), kinds)})
        for call in sample.target.tool_calls
    )
    return sample.model_copy(update={"target": sample.target.model_copy(update={"tool_calls": calls})})


def _violations(call: ToolCall, tools: tuple[Tool, ...]) -> Iterator[Violation]:
    """The first fault of a call, then the first of each argument by itself, so that none hides behind another kind."""
    whole = find_violation([call], tools)
    if whole is None:
        return
    yield whole
    for tool in tools:
        if tool.name == call.name:
            alone = tool.model_copy(update={"parameters": {**tool.parameters, "required": []}})
            for name, value in call.arguments.items():
                part = find_violation([ToolCall(name=call.name, arguments={name: value})], [alone])
                if part is not None:
                    yield part


def _mend(value: Any, schema: Any, kinds: frozenset[ViolationKind], depth: int = 0) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return value
    value = _mend_branches(value, schema, kinds, depth)
    if "wrong_type" in kinds:
        value = _mend_type(value, schema.get("type"))
    choices = schema.get("enum")
    if "outside_enum" in kinds and isinstance(choices, list) and isinstance(value, str) and value not in choices:
        same = [item for item in choices if isinstance(item, str) and item.casefold() == value.casefold()]
        value = same[0] if len(same) == 1 else value
    match value:
        case dict():
            properties = schema.get("properties")
            known: Mapping[str, Any] = properties if isinstance(properties, dict) else {}
            return {name: _mend(item, known.get(name), kinds, depth + 1) for name, item in value.items()}
        case list():
            return [_mend(item, schema.get("items"), kinds, depth + 1) for item in value]
        case _:
            return value


def _mend_branches(value: Any, schema: dict[str, Any], kinds: frozenset[ViolationKind], depth: int) -> Any:
    """The value as a branch of anyOf or oneOf wants it, where no branch takes it and one alone can be served."""
    for keyword in ("anyOf", "oneOf"):
        listed = schema.get(keyword)
        branches = [branch for branch in listed if isinstance(branch, dict)] if isinstance(listed, list) else []
        if not branches or any(allows(branch, value) for branch in branches):
            continue
        mended = [_mend(value, branch, kinds, depth + 1) for branch in branches]
        served = [new for new, branch in zip(mended, branches, strict=True) if allows(branch, new)]
        if served and all(json.dumps(new) == json.dumps(served[0]) for new in served):
            value = served[0]
    return value


def _mend_type(value: Any, wanted: Any) -> Any:
    types = [name for name in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(name, str)]
    if types == ["integer"] and isinstance(value, float) and value.is_integer():
        return int(value)
    if not types or any(has_type(value, name) for name in types):
        return value
    for name in types:
        mended = _convert(value, name)
        if mended is not None:
            return mended
    return value


def _convert(value: Any, wanted: str) -> Any:
    """The value as a JSON type, or None where that would lose or guess something."""
    match wanted, value:
        case "integer", str() if _WHOLE.fullmatch(value):
            return int(value.removesuffix(".0"))
        case "number", str() if _NUMBER.fullmatch(value):
            number = json.loads(value)
            return number if Decimal(repr(number)) == Decimal(value) else None
        case "boolean", str() if value.lower() in ("true", "false"):
            return value.lower() == "true"
        case "string", int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case _:
            return None
