"""Arithmetic in the arguments of calls, computed without evaluating anything, in bounded time."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_BITS = 14_000
"""Of an integer on the way; Python prints no more than 4,300 digits."""

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def compute(node: ast.BinOp) -> Any:
    """The value of arithmetic on numbers, or of a sum of strings or of lists of such values.

    Raises:
        ValueError: it has no value, holds anything else, or an integer on the way is too long.
    """
    try:
        return _value(node)
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"arithmetic without a value: {error}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | complex() | str()):
            return node.value
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](_value(operand))
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _combine(_value(left), type(sign), _value(right))
        case _:
            raise ValueError("no arithmetic")


def _combine(left: Any, sign: type[ast.operator], right: Any) -> Any:
    numbers = isinstance(left, int | float | complex) and isinstance(right, int | float | complex)
    if not numbers and not (sign is ast.Add and type(left) is type(right)):
        raise ValueError("no arithmetic")
    if sign is ast.Pow and isinstance(left, int) and isinstance(right, int):
        _check_length(left.bit_length() * max(right, 1))
    result = _OPERATORS[sign](left, right)
    if isinstance(result, int):
        _check_length(result.bit_length())
    return result


def _check_length(bits: int) -> None:
    """Make sure that an integer is not too long.

    Raises:
        ValueError: it is.
    """
    if bits > MAX_BITS:
        raise ValueError("too long an integer")
