"""Grammars of the answers that fit a prompt's tools, in the Lark dialect of llguidance.

Every answer that a grammar allows can be read, names tools of the prompt, and keeps to what their schemas say of
properties, required ones, types and enums, in branches (allOf, anyOf, oneOf) too; or it calls nothing. Left open is
what a schema leaves open, what it says by other keywords, and what is nested deeper than MAX_DEPTH; where an object may
have properties beside those listed, one of these may come twice. Of an object with more than MAX_PROPERTIES the last
cannot be written, and neither can names that the format has no way to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from toolrefine.errors import DataError
from toolrefine.formats import get_format
from toolrefine.formats.base import THOUGHT_CLOSE, THOUGHT_OPEN
from toolrefine.json_schema import allows, arguments_schema
from toolrefine.matching import may_have_more
from toolrefine.types import Tool, ToolCall

MAX_DEPTH = 12
MAX_PROPERTIES = 64
"""Bits of the numbers that rules of llguidance carry."""
MAX_WAYS = 256
"""To meet a schema with branches; where there are more, it allows everything."""

_ESCAPES = r'\\["\\\/bfnrt]|\\u([0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})'
_JSON_STRING = rf'"([^"\\\x00-\x1f]|{_ESCAPES})*"'
_OTHER_STRING = r"'([^'\\\x00-\x1f]|\\['\\nrt])*'"
# Bounded: a number with very many digits, or an infinite one, cannot be read.
_INTEGER = r"-?(0|[1-9][0-9]{0,18})"
_NUMBER = rf"{_INTEGER}(\.[0-9]{{1,18}})?([eE][+-]?[0-9]{{1,2}})?"
_NAME = r"[^=(),'\"\s\[\]{}]+"
_COMMA = '"," " "?'


class Dialect(NamedTuple):
    """How values are written."""

    words: dict[bool | None, tuple[str, ...]]
    string: str
    quotes: str
    """Of strings, one character each."""


JSON = Dialect({True: ("true",), False: ("false",), None: ("null",)}, _JSON_STRING, '"')
PYTHON = Dialect(
    {True: ("True", "true"), False: ("False", "false"), None: ("None", "null")},
    f"{_JSON_STRING}|{_OTHER_STRING}",
    "\"'",
)


class Keys(NamedTuple):
    """How the names of an object's members are written."""

    quote: Callable[[str], str]
    """A name."""
    end: str
    """What follows a name."""
    other: str
    """The terminal of any name."""
    plain: str
    """The terminal of any name that can be written in one way only."""
    can_write: Callable[[str], object]

    def write(self, name: str) -> str:
        """One name and what follows it."""
        return literal(self.quote(name) + self.end[:1]) + self.end[1:]

    def write_other(self, terminal: str) -> str:
        """Any name of a terminal and what follows it."""
        return f"{terminal} {literal(self.end[:1])}{self.end[1:]}"


def build_grammar(format_name: str, tools: Sequence[Tool], specials: Collection[str] = ()) -> str | None:
    """The grammar of answers in a wire format, None where it is not known for the format, or no tool can be written.

    specials are texts that the tokenizer writes as one token which llguidance holds for special: no literal allows it.
    """
    build = GRAMMARS.get(format_name)
    return build(tools, specials) if build else None


def _pythonic(tools: Sequence[Tool], specials: Collection[str]) -> str | None:
    rules = Rules(PYTHON, specials)
    for tool in tools:
        schema = arguments_schema(tool.parameters)
        if can_write(tool.name, schema):
            rules.calls.append(f'{literal(f"{tool.name}(")} {rules.members(schema, _NAMES, 0)} ")"')
    # Neither a list of calls nor one without its brackets can be in a text.
    return rules.write(f'"[" call ({_COMMA} call)* "]"', r"[^\s\[{(<][^\s\[(<]*(\s[^\[<]*)?")


def can_write(name: str, schema: dict[str, Any]) -> bool:
    """Whether a tool of this name, with the arguments that it needs, can be called in Python's syntax."""
    needed = [name for way in ways(schema) for name in required_names(way)]
    try:
        get_format("pythonic").render([ToolCall(name=name, arguments=dict.fromkeys(needed))])
    except DataError:
        return False
    return all(_NAMES.can_write(name) for name in needed)


def _hermes(tools: Sequence[Tool], specials: Collection[str]) -> str | None:
    opener, closer = (tag if tag in specials else literal(tag) for tag in ("<tool_call>", "</tool_call>"))
    block = rf'{opener} "\n"? call "\n"? {closer}'
    return _json_calls(tools, "arguments", specials).write(rf'TEXT? {block} ("\n"? {block})*', _JSON_TEXT)


def _llama3_json(tools: Sequence[Tool], specials: Collection[str]) -> str | None:
    return _json_calls(tools, "parameters", specials).write('call (";" " "? call)*', _JSON_TEXT)


def _xlam(tools: Sequence[Tool], specials: Collection[str]) -> str | None:
    return _json_calls(tools, "arguments", specials).write(f'"[" call ({_COMMA} call)* "]"', _JSON_TEXT)


_JSON_TEXT = r"[^\s{\[`<][^<]*"


def _json_calls(tools: Sequence[Tool], arguments_key: str, specials: Collection[str]) -> Rules:
    rules = Rules(JSON, specials)
    for tool in tools:
        name = literal(f"{json.dumps(tool.name, ensure_ascii=False)},")
        arguments = rules.object(arguments_schema(tool.parameters), 0)
        rules.calls.append(
            f'{literal("{")} {_STRINGS.write("name")} {name} " "? {_STRINGS.write(arguments_key)} {arguments} '
            f"{literal('}')}"
        )
    return rules


GRAMMARS: dict[str, Callable[[Sequence[Tool], Collection[str]], str | None]] = {
    "pythonic": _pythonic,
    "hermes": _hermes,
    "llama3_json": _llama3_json,
    "xlam": _xlam,
}


class Rules:
    """The rules of a grammar, by name; equal ones are written once."""

    def __init__(self, dialect: Dialect, specials: Collection[str] = ()) -> None:
        self.dialect = dialect
        self.may_think = THOUGHT_OPEN in specials and THOUGHT_CLOSE in specials
        self.calls: list[str] = []
        self.names: dict[str, str] = {}
        self.terminals: dict[str, str] = {}
        self.orders: dict[tuple[tuple[str, ...], int, str], str] = {}
        """Members of an object, how many of them are required, and any other -> the rule of them all in any order."""

    def write(self, calls: str, text: str) -> str | None:
        """The grammar: calls, or a text that holds none. calls refers to `call`, any call of a tool.

        None where there is none. The model may think before.
        """
        if not self.calls:
            return None
        thought = rf"({THOUGHT_OPEN} /(.|\n)*/ {THOUGHT_CLOSE} /\s*/)? " if self.may_think else ""
        words = {value: self._either([literal(word) for word in words]) for value, words in self.dialect.words.items()}
        lines = [
            f"start: {thought}({calls} | TEXT)",
            f"call: {' | '.join(self.calls)}",
            f"any: STRING | NUMBER | boolean | null | anylist | {self.object({}, 0)}",
            f'anylist: "[" (any ({_COMMA} any)*)? "]"',
            f"boolean: {words[True]} | {words[False]}",
            f"null: {words[None]}",
            *(f"{name}: {body}" for body, name in self.names.items()),
            *self._write_orders(),
            f"STRING: /{self.dialect.string}/",
            f"INTEGER: /{_INTEGER}/",
            f"NUMBER: /{_NUMBER}/",
            f"NAME: /{_NAME}/",
            r'PLAIN: /"[^"\\\x00-\x1f]*"/',
            *(f"{name}: {body}" for body, name in self.terminals.items()),
            f"TEXT: /{text}/",
        ]
        return "\n".join(lines)

    def rule(self, body: str) -> str:
        """The name of a rule."""
        return self.names.setdefault(body, f"rule{len(self.names)}")

    def terminal(self, body: str) -> str:
        """The name of a terminal."""
        return self.terminals.setdefault(body, f"TERMINAL{len(self.terminals)}")

    def value(self, schema: Any, depth: int) -> str:
        """What a value must look like."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return "any"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(choices, list) and choices:
            rest = {keyword: value for keyword, value in schema.items() if keyword not in ("const", "enum")}
            fitting = [choice for choice in choices if allows(rest, choice)] or choices
            # A terminal: of rules a parser of llguidance takes 2,000 at once.
            return self.terminal(self._either([written for choice in fitting for written in self._written(choice)]))
        if not BRANCHING.isdisjoint(schema):
            return self.rule(self._either([self.value(way, depth + 1) for way in ways(schema)]))
        wanted = schema.get("type", "object" if isinstance(schema.get("properties"), dict) else None)
        kinds = wanted if isinstance(wanted, list) and wanted else [wanted]
        return self.rule(self._either([self._of_type(kind, schema, depth) for kind in kinds]))

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> str:
        match kind:
            case "string" | "integer" | "number":
                return str(kind).upper()
            case "boolean" | "null":
                return str(kind)
            case "array":
                item = "any" if "prefixItems" in schema else self.value(schema.get("items"), depth + 1)
                return self.rule(f'"[" ({item} ({_COMMA} {item})*)? "]"')
            case "object":
                return self.object(schema, depth)
            case _:
                return "any"

    def object(self, schema: dict[str, Any], depth: int) -> str:
        """An object in braces."""
        return self.rule(f"{literal('{')} {self.members(schema, _STRINGS, depth)} {literal('}')}")

    def members(self, schema: dict[str, Any], keys: Keys, depth: int) -> str:
        """The properties of an object with commas between them, each once at most and in any order."""
        return self.rule(self._either([self._members(way, keys, depth) for way in ways(schema)]))

    def _members(self, schema: dict[str, Any], keys: Keys, depth: int) -> str:
        properties = {name: value for name, value in properties_of(schema).items() if keys.can_write(name)}
        required = required_names(schema)
        names = [*required, *(name for name in properties if name not in required)][:MAX_PROPERTIES]
        members = [self.rule(f"{keys.write(name)} {self.value(properties[name], depth + 1)}") for name in names]
        other = ""
        if is_open(schema):
            other = self.rule(
                f"{keys.write_other(self._all_but(properties, keys))} {self.value(other_schema(schema), depth + 1)}"
            )
        if not members:
            return self.rule(f"({other} ({_COMMA} {other})*)?") if other else '""'
        name = self.orders.setdefault((tuple(members), len(required), other), f"order{len(self.orders)}")
        return self.rule(f"{name}::0x0")

    def _all_but(self, names: Collection[str], keys: Keys) -> str:
        """The terminal of other names than these."""
        if not names:
            return keys.other
        listed = " | ".join(literal(keys.quote(name)) for name in names)
        return self.terminal(f"{keys.plain} & ~({listed})")

    def _write_orders(self) -> Iterator[str]:
        """Rules with a number each, whose bits say which members have been written; the required ones come first."""
        for (members, num_required, other), name in self.orders.items():
            end = f'"" %if is_ones([0:{num_required}])' if num_required else '""'
            steps = [f"{member} {name}_more::set_bit({bit})" for bit, member in enumerate(members)]
            more = [f"{_COMMA} {step} %if bit_clear({bit})" for bit, step in enumerate(steps)]
            others = [f"{other} {name}_more::_"] if other else []
            yield f"{name}::_: {' | '.join([end, *steps, *others])}"
            yield f"{name}_more::_: {' | '.join([end, *more, *(f'{_COMMA} {step}' for step in others)])}"

    def _written(self, value: Any, depth: int = 0) -> list[str]:
        """How a value may be written."""
        if value is None or isinstance(value, bool):
            return [literal(word) for word in self.dialect.words[value]]
        if isinstance(value, list | dict) and value and depth < MAX_DEPTH:
            opener, closer = "[]" if isinstance(value, list) else "{}"
            items = value if isinstance(value, list) else value.values()
            parts = [f"({self._either(self._written(item, depth + 1))})" for item in items]
            if isinstance(value, dict):
                parts = [f"{_STRINGS.write(key)} {part}" for key, part in zip(value, parts, strict=True)]
            return [f"{literal(opener)} {f' {_COMMA} '.join(parts)} {literal(closer)}"]
        text = json.dumps(value, ensure_ascii=False)
        plain = isinstance(value, str) and text == f'"{value}"' and "'" not in value
        return [literal(text), *(literal(f"'{value}'") for quote in self.dialect.quotes[1:] if plain)]

    @staticmethod
    def _either(parts: Sequence[str]) -> str:
        return " | ".join(dict.fromkeys(parts))


def literal(text: str) -> str:
    """A text that must stand as it is."""
    return json.dumps(text)


_STRINGS = Keys(lambda name: json.dumps(name, ensure_ascii=False), ': " "?', "STRING", "PLAIN", lambda name: True)
_NAMES = Keys(str, "=", "NAME", "NAME", re.compile(_NAME).fullmatch)
BRANCHING = {"allOf", "anyOf", "oneOf"}


def ways(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Schemas without branches, one for each way to meet a schema; oneOf is read as anyOf."""
    found: list[dict[str, Any]] = [{keyword: value for keyword, value in schema.items() if keyword not in BRANCHING}]
    for keyword in sorted(BRANCHING & schema.keys()):
        listed = schema[keyword]
        branches = [branch for branch in listed if isinstance(branch, dict)] if isinstance(listed, list) else []
        choices = [ways(branch) for branch in branches]
        for others in choices if keyword == "allOf" else [[*chain.from_iterable(choices)]]:
            if len(found) * len(others) > MAX_WAYS:
                return [{}]
            found = [joined(one, other) for one in found for other in others] or found
    return found


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema that says what both say; the other where they contradict each other."""
    both = {**one, **other}
    properties, required = (
        [each[keyword] for each in (one, other) if isinstance(each.get(keyword), kind)]
        for keyword, kind in (("properties", dict), ("required", list))
    )
    if len(properties) == 2:
        shared = {
            name: joined(first, second)
            for name, first in properties[0].items()
            if isinstance(first, dict) and isinstance(second := properties[1].get(name), dict)
        }
        both["properties"] = {**properties[0], **properties[1], **shared}
    if len(required) == 2:
        both["required"] = [*required[0], *required[1]]
    return both


def required_names(schema: dict[str, Any]) -> list[str]:
    """The required ones among the properties of an object."""
    wanted = schema.get("required")
    return [name for name in properties_of(schema) if name in wanted] if isinstance(wanted, list) else []


def properties_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of an object, those that it must have without listing them among them, where it may."""
    listed, wanted = schema.get("properties"), schema.get("required")
    properties = listed if isinstance(listed, dict) else {}
    if not is_open(schema) or not isinstance(wanted, list):
        return properties
    unlisted = [name for name in wanted if isinstance(name, str) and name not in properties]
    return properties | dict.fromkeys(unlisted, other_schema(schema))


def is_open(schema: dict[str, Any]) -> bool:
    """Whether an object may have other properties than those listed."""
    return not isinstance(schema.get("properties"), dict) or may_have_more(schema)


def other_schema(schema: dict[str, Any]) -> Any:
    """What properties that are not listed must look like, as far as it is the same for all."""
    return None if "patternProperties" in schema else schema.get("additionalProperties")
