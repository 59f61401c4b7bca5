"""ACEBench (arXiv 2501.12851): verdicts on its normal and special categories, which need no judge model.

The rules of check_normal are inferred from verdicts of the official checker, and so are its error types. What those
verdicts show:

- A gold call's name may end in _1, _2, ..., which tells repeated calls apart and is cut off before comparing. It is cut
  off also where it belongs to the function's own name, so such a gold can never be met.
- As many calls as gold has, of the same names as often; order does not matter.
- Each gold call must be met by some predicted call, and one may meet several gold calls. The error is that of the first
  gold call which is not met against the last predicted call.
- Required arguments must be there; gold's optional ones may be left out.
- An argument's type is checked against the schema, with all numbers alike. The value of a top-level number or boolean
  is not compared at all.
- Strings match when gold is a substring of the output in any letter case; inside objects too.
- Objects need the keys of gold. Lists are ordered, and an empty gold list is a type error.

What they leave open, and what is assumed:

- Strings and list items are compared like in BFCL, whose error types these are: after removing blanks and , . / - _ * ^
  and replacing ' by ". Golds such as "January1,2023" suggest so. Items must be equal.
- Arguments and keys of objects that gold does not have are wrong, though the schema may list them.
- Below the top level, numbers and booleans are compared by value; true is not 1.
- The type that gold itself has is accepted besides that of the schema.
- The error type of what is no call at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from toolrefine.benchmarks.verdict import Verdict
from toolrefine.matching import bfcl_string, type_name

_COUNTER = re.compile(r"_\d+$")

_PHRASES = {
    "special_incomplete": "Missing necessary parameters",
    "special_error_param": "There is incorrect value",
    "special_irrelevant": "the limitations of the function",
}


def check_normal(
    functions: Sequence[Mapping[str, Any]],
    prediction: Any,
    gold: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Mapping[str, Any]]],
    question: str,
    category: str,
) -> Verdict:
    """Judge the calls predicted for a row of a normal category.

    functions are the row's documents, prediction is one {name: arguments} a call, gold its ground truth. Where gold is
    a list of alternatives, meeting any one is enough, and the error is that of the first: an assumption, as the
    official verdicts at hand are all against a single gold. No verdict seen depends on question or category.
    """
    alternatives = [gold] if isinstance(gold, Mapping) else gold
    verdicts = [_check(functions, _calls(prediction), alternative) for alternative in alternatives]
    return next((verdict for verdict in verdicts if verdict.valid), verdicts[0])


def check_special(text: str, gold: str | Mapping[str, Sequence[Any]], category: str) -> Verdict:
    """Judge an answer to a row of a special category, in which the request cannot be carried out as it stands.

    The answer must hold the category's phrase, which is English in both languages, and all that gold names: the
    function and its missing parameters for special_incomplete, the parameters and their bad values for
    special_error_param, nothing more for special_irrelevant. Letter case counts. The error types are toolrefine's own:
    wrong_phrase, missing_name for a key of gold, missing_item for one of its items.

    Raises:
        KeyError: another category.
    """
    if _PHRASES[category] not in text:
        return Verdict(valid=False, error_type="wrong_phrase")
    named = gold if isinstance(gold, Mapping) else {}
    if not all(name in text for name in named):
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
    wanted_calls = [(_COUNTER.sub("", name), arguments) for name, arguments in gold.items()]
    if len(calls) != len(wanted_calls):
        return Verdict(valid=False, error_type="wrong functions number")
    if Counter(name for name, _ in calls) != Counter(name for name, _ in wanted_calls):
        return Verdict(valid=False, error_type="function_mismatch")
    by_name = {function["name"]: function for function in functions}
    for wanted_name, wanted in wanted_calls:
        error = ""
        for name, arguments in calls:
            if wanted_name not in by_name:
                error = "wrong_function_name"
            elif name != wanted_name:
                error = "simple_function_checker:unclear"
            else:
                error = _call_error(arguments, wanted, by_name[wanted_name])
            if not error:
                break
        if error:
            return Verdict(valid=False, error_type=error)
    return Verdict(valid=True)


def _call_error(arguments: Any, wanted: Mapping[str, Any], function: Mapping[str, Any]) -> str:
    """Return the error type of the arguments, empty where there is no error."""
    if not isinstance(arguments, dict) or (wanted and not arguments):
        return "wrong_param"
    schema = function.get("parameters") or function.get("arguments") or {}  # which key it is depends on the category
    if any(name not in arguments for name in schema.get("required") or ()):
        return "lack_args"
    properties = schema.get("properties") or {}
    for name, value in arguments.items():
        if name not in properties or name not in wanted:
            return "addition_args"
        error = _argument_error(value, wanted[name], properties[name].get("type"))
        if error:
            return error
    return ""


def _argument_error(value: Any, wanted: Any, schema_type: Any) -> str:
    kind = type_name(value)
    if wanted == [] or (kind != type_name(wanted) and kind != ("number" if schema_type == "integer" else schema_type)):
        return "type_error"
    if kind == type_name(wanted) and (kind in ("number", "boolean") or _matches(value, wanted)):
        return ""
    match wanted:
        case str():
            return "value_error:string"
        case [dict(), *_]:
            is_short = isinstance(value, list) and len(value) != len(wanted)
            return "value_error:list_dict_count" if is_short else "value_error"
        case list():
            return "value_error:list/tuple"
        case _:
            return "value_error"


def _matches(value: Any, wanted: Any, *, whole: bool = False) -> bool:
    """Whether a value is gold's. A string must be the whole of gold's only where asked for, which is in lists."""
    if type_name(value) != type_name(wanted):
        return False
    match wanted:
        case str():
            ours, theirs = bfcl_string(value), bfcl_string(wanted)
            return ours == theirs if whole else theirs in ours
        case list():
            pairs = zip(value, wanted, strict=False)
            return len(value) == len(wanted) and all(_matches(ours, theirs, whole=True) for ours, theirs in pairs)
        case dict():
            return value.keys() == wanted.keys() and all(_matches(value[name], wanted[name]) for name in wanted)
        case _:
            return bool(value == wanted)
