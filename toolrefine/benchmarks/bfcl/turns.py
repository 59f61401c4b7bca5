"""Turns of BFCL's multi-turn tasks: what of an answer is executed, and BFCL's verdict on all of it.

Calls are text here, written as BFCL's handlers write them before they execute them. BFCL's oddities are kept where
verdicts depend on them: in prompt mode a nested call with named arguments is executed too, an object that holds nothing
but objects is taken for one, and an empty object makes the whole answer unreadable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from toolrefine.benchmarks.bfcl.decode import DecodeError, decode_response
from toolrefine.benchmarks.bfcl.simulation import Simulation
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.types import ToolCall

Step = tuple[str, ...]
"""The calls of one answer."""


def calls_in_text(text: str) -> Step:
    """The calls of an answer in prompt mode; none where it cannot be read."""
    try:
        calls = decode_response(text, "python")
        return tuple(_call(name, arguments) for call in calls for name, arguments in call.items())
    except (DecodeError, ValueError, RecursionError):
        return ()


def calls_as_text(calls: Iterable[ToolCall]) -> Step:
    """The calls of an answer in tools mode."""
    return tuple(
        f"{call.name}({','.join(f'{name}={value!r}' for name, value in call.arguments.items())})" for call in calls
    )


def judge_turns(
    turns: Sequence[Sequence[Step]], gold: Sequence[Sequence[str]], model: Simulation, reference: Simulation
) -> Verdict:
    """BFCL's verdict on the steps of all turns, given the gold calls of each and two fresh simulations of the task.

    After each turn that has gold calls, the state of all instances must be that of the gold calls, and each of their
    results must have been seen, in this turn or before.
    """
    error = _error(turns, gold, model, reference)
    return Verdict(valid=not error, error_type=error and f"multi_turn:{error}")


def _error(
    turns: Sequence[Sequence[Step]], gold: Sequence[Sequence[str]], model: Simulation, reference: Simulation
) -> str:
    if len(turns) != len(gold):
        return "force_terminated"
    seen: Counter[str] = Counter()
    for steps, gold_calls in zip(turns, gold, strict=True):
        steps = [step for step in steps if step]
        seen.update(model.execute(call) for step in steps for call in step)
        expected = Counter(reference.execute(call) for call in gold_calls)
        if not expected:
            continue
        if not steps:
            return "empty_turn_model_response"
        if not model.same_state(reference):
            return "instance_state_mismatch"
        if not expected <= seen:
            return "execution_response_mismatch"
    return ""


def _call(name: str, arguments: dict[Any, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_argument(value)}' for key, value in arguments.items())})"


def _argument(value: Any) -> str:
    """An argument as Python writes it, but for objects.

    Raises:
        ValueError: an empty object, or an integer with too many digits.
    """
    if not isinstance(value, dict):
        return repr(value)
    if not value:
        raise ValueError("an empty object")
    if all(isinstance(inner, dict) for inner in value.values()):
        return _call(*next(iter(value.items())))
    return "{" + ", ".join(f"'{key}': {_argument(inner)}" for key, inner in value.items()) + "}"
