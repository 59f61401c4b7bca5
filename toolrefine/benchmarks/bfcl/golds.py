"""BFCL's gold calls as a model would write them, to see which of them its own checker accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imports nothing, so that BFCL's own environment can load it for comparisons
    from toolrefine.benchmarks.bfcl.decode import Call, Language

_WORDS = {True: "true", False: "false", None: "null"}

Gold = Sequence[Mapping[str, Mapping[str, Sequence[Any]]]]
"""One {name: {argument: alternatives}} a call."""


def gold_text(functions: Sequence[Mapping[str, Any]], gold: Gold, language: Language) -> str:
    """Gold calls as text: the first alternatives, without what may be left out."""
    calls = []
    for name, arguments in _calls(functions, gold):
        values = (f"{key}={gold_source(value, schema, language)}" for key, value, schema in arguments)
        calls.append(f"{name}({', '.join(values)})")
    return f"[{', '.join(calls)}]"


def gold_calls(functions: Sequence[Mapping[str, Any]], gold: Gold, language: Language) -> list[Call]:
    """The same as calls of tools, whose arguments are text in Java and JavaScript."""
    return [
        {
            name: {
                key: value if language == "python" or isinstance(value, str) else gold_source(value, schema, language)
                for key, value, schema in arguments
            }
        }
        for name, arguments in _calls(functions, gold)
    ]


def gold_source(value: Any, schema: Mapping[str, Any], language: Language) -> str:
    """A value in the source of a language, as its type is written there."""
    kind, items = schema.get("type"), schema.get("items", {})
    match value:
        case _ if language == "python":
            return repr(tuple(value) if kind == "tuple" else value)
        case bool() | None:
            return _WORDS[value]
        case int() | float():
            suffix = {"long": "L", "Bigint": "n", "float": "f" if language == "java" else ""}.get(str(kind), "")
            return f"{float(value) if kind in ('float', 'double') else value}{suffix}"
        case list():
            body = ", ".join(gold_source(item, items, language) for item in value)
            if language == "javascript":
                return f"[{body}]"
            return f"new Object[]{{{body}}}" if kind == "Array" else f"new ArrayList<Object>(Arrays.asList({body}))"
        case dict() if language == "javascript":
            return "{" + ", ".join(f"{key}: {gold_source(item, {}, language)}" for key, item in value.items()) + "}"
        case dict():
            puts = " ".join(f'put("{key}", {gold_source(item, {}, language)});' for key, item in value.items())
            return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
        case _:
            return str(value) if '"' in value or kind == "char" else f'"{value}"'


def _calls(
    functions: Sequence[Mapping[str, Any]], gold: Gold
) -> Iterator[tuple[str, list[tuple[str, Any, Mapping[str, Any]]]]]:
    """The name of each call, and name, value and schema of its arguments."""
    schemas = {function["name"]: function["parameters"] for function in functions}
    for call in gold:
        [(name, answers)] = call.items()
        schema, arguments = schemas[name], []
        for key, alternatives in answers.items():
            if alternatives and (key in schema["required"] or "" not in alternatives):
                value = _choice(next((each for each in alternatives if each != ""), ""))
                arguments.append((key, value, schema["properties"].get(key, {})))
        yield name, arguments


def _choice(gold: Any) -> Any:
    """A value that meets an alternative; only objects at the top and in lists have alternatives of their own."""
    if isinstance(gold, dict):
        return {key: next(each for each in given if each != "") for key, given in gold.items() if "" not in given}
    return [_choice(item) if isinstance(item, dict) else item for item in gold] if isinstance(gold, list) else gold
