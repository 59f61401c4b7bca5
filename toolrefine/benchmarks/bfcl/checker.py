"""The single-turn checker of the Berkeley Function Calling Leaderboard (BFCL v4): verdicts and official error types.

A verdict is that of BFCL's own checker, bfcl-eval 2026.3.23, wherever that one gives a verdict. Its rules:

- Each gold argument is a list of alternatives; "" among them makes the argument optional.
- Checks go by name, required arguments, then argument by argument (expected, type, value), then missing optional ones.
- Types are exact: an integer may stand for a float at the top level of a Python call, and nothing else for anything. A
  value of the type of the first alternative is accepted too, whatever the schema says; it is compared as it is.
- Strings are equal regardless of case, blanks and , . / - _ * ^ and with ' for ". In lists and objects that holds for
  the first level; below it, values are compared as they are.
- Lists are ordered. In an object each key has its own alternatives, "" among them making it optional.
- Java and JavaScript arguments must all be text, which is converted first.
- Of several predicted calls for a parallel category, each gold call takes the first left over that meets it.

Where BFCL's checker raises instead, which its runner has not guarded against, this one goes on: a prediction that is
not a list of {name: arguments} has the error type that BFCL gives such decoded text, no value has a type that BFCL does
not know, an integer beyond the floats is no float, and an alternative of the wrong shape is never met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from toolrefine.benchmarks.bfcl.decode import Language
from toolrefine.benchmarks.bfcl.values import java_value, javascript_value
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.matching import bfcl_string

_PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_JAVA_TYPES: dict[str, type] = {
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "char": str,
    "String": str,
    "any": str,
    "Array": list,
    "ArrayList": list,
    "Queue": list,
    "Stack": list,
    "Set": set,
    "HashMap": dict,
    "Hashtable": dict,
}
_JAVASCRIPT_TYPES: dict[str, type] = {
    "String": str,
    "any": str,
    "integer": int,
    "Bigint": int,
    "float": float,
    "Boolean": bool,
    "array": list,
    "dict": dict,
}
_TYPES: dict[Language, dict[str, type]] = {
    "python": _PYTHON_TYPES,
    "java": _JAVA_TYPES,
    "javascript": _JAVASCRIPT_TYPES,
}
_LISTS: dict[Language, tuple[str, ...]] = {
    "python": ("array", "tuple"),
    "java": ("Array", "ArrayList"),
    "javascript": ("array",),
}

_WRONG_FORMAT = "ast_decoder:decoder_wrong_output_format"

_CONTAINERS = (dict, list, tuple, str)  # built once: a union of types costs more than the check


def language_of(category: str) -> Language:
    """The language of a category's calls, which decode_response needs to know."""
    if "javascript" in category:
        return "javascript"
    return "java" if "java" in category else "python"


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    prediction: Any,
    possible_answer: Sequence[Mapping[str, Mapping[str, Any]]],
    category: str,
    underscore_to_dot: bool = False,
) -> Verdict:
    """Judge the calls predicted for a row of a single-turn category that has gold calls.

    functions are the row's documents, prediction is one {name: arguments} a call, possible_answer its ground truth.
    underscore_to_dot says that the model wrote _ for the dots in names, as some interfaces demand.

    Raises:
        LookupError: the row is broken: gold has no call, or names a function that the row does not have.
    """
    error = _error(functions, prediction, possible_answer, category, underscore_to_dot)
    return Verdict(valid=not error, error_type=error)


def _error(
    functions: Sequence[Mapping[str, Any]],
    prediction: Any,
    possible_answer: Sequence[Mapping[str, Mapping[str, Any]]],
    category: str,
    underscore_to_dot: bool,
) -> str:
    """Return the error type of a prediction, empty where it is right; so do all functions below that end in _error."""
    language = language_of(category)

    def call_error(call: Any, function: Mapping[str, Any], gold: Mapping[str, Mapping[str, Any]]) -> str:
        name = function["name"].replace(".", "_") if underscore_to_dot else function["name"]
        return _call_error(call, name, function["parameters"], next(iter(gold.values())), language)

    if not isinstance(prediction, _CONTAINERS):
        return _WRONG_FORMAT
    calls = [None] * len(prediction) if isinstance(prediction, dict) else prediction
    if "parallel" in category:
        if len(calls) != len(possible_answer):
            return "parallel_function_checker_no_order:wrong_count"
        left = list(calls)
        for gold in possible_answer:
            function = _function_of(gold, functions)
            for index, call in enumerate(left):
                error = call_error(call, function, gold)
                if error == _WRONG_FORMAT:
                    return error
                if not error:
                    del left[index]
                    break
            else:
                return "parallel_function_checker_no_order:cannot_find_match"
        return ""
    if "multiple" in category:
        if len(calls) != len(possible_answer):
            return "multiple_function_checker:wrong_count"
        return call_error(calls[0], _function_of(possible_answer[0], functions), possible_answer[0])
    if len(calls) != 1:
        return "simple_function_checker:wrong_count"
    return call_error(calls[0], functions[0], possible_answer[0])


def _function_of(gold: Mapping[str, Any], functions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    name = next(iter(gold))
    for function in functions:
        if function["name"] == name:
            return function
    raise KeyError(name)


def _call_error(call: Any, name: str, schema: Mapping[str, Any], answers: Mapping[str, Any], language: Language) -> str:
    # BFCL asks of lists and text too whether a name is in them, and goes wrong only after that.
    if not isinstance(call, _CONTAINERS):
        return _WRONG_FORMAT
    if name not in call:
        return "simple_function_checker:wrong_func_name"
    arguments = call[name] if isinstance(call, dict) else None
    if not isinstance(arguments, _CONTAINERS):
        return _WRONG_FORMAT
    for required in schema.get("required") or ():
        if required not in arguments:
            return "simple_function_checker:missing_required"
    if not isinstance(arguments, dict):
        return _WRONG_FORMAT
    properties = schema["properties"]
    for argument, value in arguments.items():
        if argument not in properties or argument not in answers:
            return "simple_function_checker:unexpected_param"
        error = _argument_error(value, answers[argument], properties[argument], language)
        if error:
            return error
    for argument, alternatives in answers.items():
        if argument not in arguments and "" not in alternatives:
            return "simple_function_checker:missing_optional"
    return ""


def _argument_error(value: Any, alternatives: Sequence[Any], schema: Mapping[str, Any], language: Language) -> str:
    if language != "python" and type(value) is not str:
        return "type_error:java" if language == "java" else "type_error:js"
    types, schema_type = _TYPES[language], schema.get("type", "")
    expected, item_type, item_schema_type = types.get(schema_type), None, None
    if schema_type in _LISTS[language]:
        item_schema_type = schema.get("items", {}).get("type")
        item_type = types.get(item_schema_type)
    value = _convert(value, schema_type, item_schema_type, language)
    own_type, answer_type = type(value), _first_type(alternatives)
    if own_type is not expected:
        return _plain_error(value, alternatives) if own_type is answer_type else "type_error:simple"
    if item_type and not any(_has_items(value, alternative, item_type) for alternative in alternatives):
        return "type_error:nested" if answer_type is expected else "type_error:simple"
    if answer_type not in (None, expected):
        return _plain_error(value, alternatives)
    if expected is dict:
        return _dict_error(value, alternatives)
    if expected is list:
        return _dicts_error(value, alternatives) if item_type is dict else _list_error(value, alternatives)
    return _string_error(value, alternatives) if expected is str else _plain_error(value, alternatives)


def _convert(value: Any, schema_type: str, item_schema_type: str | None, language: Language) -> Any:
    """Convert source text to what it stands for, and a Python value to the type for which BFCL lets it pass."""
    if language == "java":
        return java_value(value, schema_type, item_schema_type)
    if language == "javascript":
        return javascript_value(value, schema_type, item_schema_type)
    if schema_type == "tuple" and type(value) is tuple:
        return list(value)
    if schema_type == "float" and type(value) is int:
        with suppress(OverflowError):
            return float(value)
    return value


def _first_type(alternatives: Sequence[Any]) -> type | None:
    for alternative in alternatives:
        if alternative != "":
            return type(alternative)
    return None


def _has_items(value: list[Any], alternative: Any, item_type: type) -> bool:
    """Whether all items have the type of the schema or of gold; an alternative that is no list, "" say, never minds."""
    if type(alternative) is not list:
        return True
    allowed = (item_type, _first_type(alternative))
    return all(type(item) in allowed for item in value)


def _plain_error(value: Any, alternatives: Sequence[Any]) -> str:
    return "" if value in alternatives else "value_error:others"


def _string_error(value: str, alternatives: Sequence[Any]) -> str:
    if value in alternatives:
        return ""
    wanted = (_standardise(alternative) for alternative in alternatives if type(alternative) is str)
    return "" if _standardise(value) in wanted else "value_error:string"


def _list_error(value: list[Any], alternatives: Sequence[Any]) -> str:
    return "" if _standard_items(value) in map(_standard_items, alternatives) else "value_error:list/tuple"


def _dicts_error(value: list[Any], alternatives: Sequence[Any]) -> str:
    error = "list_dict_checker:unclear"
    for alternative in alternatives:
        if not isinstance(alternative, list | str) or len(alternative) != len(value):
            error = "value_error:list_dict_count"
            continue
        errors = (_dict_error(item, [wanted]) for item, wanted in zip(value, alternative, strict=True))
        error = next(filter(None, errors), "")
        if not error:
            break
    return error


def _dict_error(value: Any, alternatives: Iterable[Any]) -> str:
    error = "dict_checker:unclear"
    for alternative in alternatives:
        if isinstance(value, dict) and isinstance(alternative, dict):
            error = _entries_error(value, alternative)
            if not error:
                break
    return error


def _entries_error(value: dict[Any, Any], wanted: Mapping[Any, Any]) -> str:
    error = ""
    for key, item in value.items():
        if key not in wanted:
            return "value_error:dict_key"
        if _standardise(item) not in (_standard_items(wanted[key]) or ()):
            error = "value_error:dict_value"
            break
    # A missing key outweighs a wrong value.
    if any(key not in value and not _is_optional(alternatives) for key, alternatives in wanted.items()):
        return "value_error:dict_key"
    return error


def _is_optional(alternatives: Any) -> bool:
    return isinstance(alternatives, list | str) and "" in alternatives


def _standard_items(items: Any) -> list[Any] | None:
    """Normalise the strings of a list; text counts as the list of its characters."""
    return list(map(_standardise, items)) if isinstance(items, list | str) else None


def _standardise(value: Any) -> Any:
    """Normalise a string; other values stay as they are."""
    return bfcl_string(value) if type(value) is str else value
