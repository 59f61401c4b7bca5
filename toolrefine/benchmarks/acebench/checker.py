"""ACEBench (arXiv 2501.12851): verdicts on its normal and special categories, which need no judge model.

Verdict and error type are those of the official checker, whose rules are, oddities included:

- A gold call's name may end in _1, _2, ..., which tells repeated calls apart and is cut off before comparing. It is cut
  off also where it belongs to the function's own name, so such a gold can never be met. The function's document is the
  first whose name is a part of the gold call's.
- As many calls as gold has, of the same names as often; order does not matter.
- Each gold call must be met by some predicted call, and one may meet several gold calls. The error is that of the first
  gold call which is not met against the last predicted call.
- Required arguments must be there; gold's optional ones may be left out, others not be added.
- An argument must have exactly the Python type that stands for the schema's, which is int for "number", or that of
  gold. The text "true" or "false" is a boolean. Of a list or an object, gold must hold something.
- Where gold's type is not the schema's, and for numbers and booleans, the value is not compared.
- Strings match when gold is a substring of the output, after removing blanks and , . / - _ * ^, replacing ' by " and in
  any letter case. Lists match item by item, their strings so prepared.
- Objects need the keys of gold. Other values in them match when gold, written as text, is a substring of the output
  written as text; only strings are prepared, not those in lists.

Where the official checker raises, the prediction is wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from toolrefine.benchmarks.verdict import Verdict
from toolrefine.matching import bfcl_string

_COUNTER = re.compile(r"_\d+$")

_PHRASES = {
    "special_incomplete": "Missing necessary parameters",
    "special_error_param": "There is incorrect value",
    "special_irrelevant": "the limitations of the function",
}

_TYPES: dict[str, type] = {
    "any": str,
    "array": list,
    "boolean": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "integer": int,
    "list": list,
    "number": int,
    "object": dict,
    "string": str,
    "tuple": list,
}
_WITH_ITEMS = ("array", "tuple", "object")
_BOOLEANS = {"true": True, "false": False}


def check_normal(
    functions: Sequence[Mapping[str, Any]],
    prediction: Any,
    gold: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Mapping[str, Any]]],
    question: str,
    category: str,
) -> Verdict:
    """Judge the calls predicted for a row of a normal category.

    functions are the row's documents, prediction is one {name: arguments} a call, gold its ground truth. Where gold is
    a list of alternatives, meeting any one is enough, and the error is that of the first. Verdicts depend on neither
    question nor category.
    """
    alternatives = [gold] if isinstance(gold, Mapping) else gold
    verdicts = [_check(functions, _calls(prediction), alternative) for alternative in alternatives]
    return next((verdict for verdict in verdicts if verdict.valid), verdicts[0])


def check_special(text: str, gold: str | Mapping[str, Sequence[Any]], category: str) -> Verdict:
    """Judge an answer to a row of a special category, in which the request cannot be carried out as it stands.

    The answer must hold the category's phrase, which is English in both languages, and more that gold names: the
    function and its missing parameters for special_incomplete, the bad values, but not their parameters, for
    special_error_param, nothing for special_irrelevant. Letter case counts. The error types are toolrefine's own:
    wrong_phrase, missing_name for a key of gold, missing_item for one of its items.

    Raises:
        KeyError: another category.
    """
    if _PHRASES[category] not in text:
        return Verdict(valid=False, error_type="wrong_phrase")
    named = gold if isinstance(gold, Mapping) else {}
    if category == "special_incomplete" and not all(name in text for name in named):
        return Verdict(valid=False, error_type="missing_name")
    if not all(str(item) in text for items in named.values() for item in items):
        return Verdict(valid=False, error_type="missing_item")
    return Verdict(valid=True)


def _calls(prediction: Any) -> list[tuple[Any, Any]]:
    """Return name and arguments of each call; the name of what is no call is None."""
    if not isinstance(prediction, list):
        return []
    return [
        next(iter(call.items())) if isinstance(call, dict) and len(call) == 1 else (None, None) for call in prediction
    ]


def _check(
    functions: Sequence[Mapping[str, Any]], calls: Sequence[tuple[Any, Any]], gold: Mapping[str, Mapping[str, Any]]
) -> Verdict:
    if len(calls) != len(gold):
        return Verdict(valid=False, error_type="wrong functions number")
    names = {key: _COUNTER.sub("", key) for key in gold}
    if Counter(name for name, _ in calls) != Counter(names.values()):
        return Verdict(valid=False, error_type="function_mismatch")
    for key, wanted in gold.items():
        function = next((function for function in functions if function["name"] in key), None)
        error = ""
        for name, arguments in calls:
            if name != names[key]:
                error = "simple_function_checker:unclear"
            elif function is None:
                error = "wrong_function_name"
            else:
                error = _call_error(name, arguments, wanted, function)
            if not error:
                break
        if error:
            return Verdict(valid=False, error_type=error)
    return Verdict(valid=True)


def _call_error(name: str, arguments: Any, wanted: Mapping[str, Any], function: Mapping[str, Any]) -> str:
    """Return the error type of the arguments, empty where there is no error."""
    schema = function.get("parameters") or function.get("arguments") or {}  # which key it is depends on the category
    if not schema and arguments == {}:
        return ""
    if not isinstance(arguments, dict) or not arguments or not schema:
        return "wrong_param"
    properties = schema.get("properties") or {}
    if wanted == properties:
        return ""
    if not wanted:
        return "wrong_param"
    if name != function["name"]:
        return "wrong_function_name"
    if any(required not in arguments for required in schema.get("required") or ()):
        return "lack_args"
    for argument, value in arguments.items():
        if argument not in properties or argument not in wanted:
            return "addition_args"
        try:
            error = _argument_error(value, wanted[argument], properties[argument])
        except (ArithmeticError, RecursionError, ValueError):  # too deep to compare, or too many digits
            error = "value_error"
        if error:
            return error
    return ""


def _argument_error(value: Any, wanted: Any, schema: Mapping[str, Any]) -> str:
    described = schema.get("type")
    expected = _TYPES.get(described) if isinstance(described, str) else None
    items = _items_type(schema) if described in _WITH_ITEMS else None
    if described == "float" and type(value) is int:
        value = float(value)
    if not _fits(value, wanted, expected, items):
        return "type_error"
    if wanted != "" and type(wanted) is not expected:
        return ""
    if expected is list and items is not dict:
        return "" if _prepared(value) == _prepared(wanted) else "value_error:list/tuple"
    if expected is list:
        if len(value) != len(wanted):
            return "value_error:list_dict_count"
        pairs = zip(value, wanted, strict=True)
        return "" if all(_same_object(ours, theirs) for ours, theirs in pairs) else "value_error"
    if expected is dict:
        return "" if _same_object(value, wanted) else "value_error"
    if expected is str:
        return "" if bfcl_string(wanted) in bfcl_string(value) else "value_error:string"
    return ""


def _items_type(schema: Mapping[str, Any]) -> type | None:
    items = schema.get("items")
    described = items.get("type") if isinstance(items, Mapping) else None
    return dict if described is None else _TYPES.get(described)


def _fits(value: Any, wanted: Any, expected: type | None, items: type | None) -> bool:
    """Whether a value has the type that the schema expects, with items of the type that it expects of them, or gold's.

    A list or object of the expected type is held against every item of gold; one that is no list itself decides for it.
    """
    if isinstance(value, str) and value in _BOOLEANS:
        value = _BOOLEANS[value]
    kind = type(value)
    if kind is expected and items is not None:
        alternatives = wanted if isinstance(wanted, list | dict | str) else ()
        return any(not isinstance(each, list) or _all_fit(value, each, items) for each in alternatives)
    return kind is expected or (wanted != "" and (kind is type(wanted) or value == wanted))


def _all_fit(values: Sequence[Any], wanted: Any, expected: type) -> bool:
    return all(_fits(each, wanted, expected, None) for each in values)


def _prepared(values: Any) -> Any:
    return [bfcl_string(value) if isinstance(value, str) else value for value in values]


def _same_object(value: Any, wanted: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(wanted, dict) or value.keys() != wanted.keys():
        return False
    return all(_same_entry(value[key], wanted[key]) for key in wanted)


def _same_entry(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return _same_object(value, wanted)
    if isinstance(value, str):
        value = _BOOLEANS.get(value, bfcl_string(value))
    return str(bfcl_string(wanted) if isinstance(wanted, str) else wanted) in str(value)
