"""Grammars of the answers that fit a prompt's tools, in the Lark dialect of llguidance.

Every answer that a grammar allows can be read, names tools of the prompt, and keeps to what their schemas say of
properties, required ones, types and enums; or it calls nothing. Left open is what a schema leaves open, what it says by
other keywords, and what is nested deeper than MAX_DEPTH. Of an object with more than MAX_PROPERTIES the last cannot be
written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from toolrefine.json_schema import allows, arguments_schema
from toolrefine.types import Tool

MAX_DEPTH = 12
MAX_PROPERTIES = 64
"""Bits of the numbers that rules of llguidance carry."""

_ESCAPES = r'\\["\\\/bfnrt]|\\u([0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})'
_JSON_STRING = rf'"([^"\\\x00-\x1f]|{_ESCAPES})*"'
_OTHER_STRING = r"'([^'\\\x00-\x1f]|\\['\\nrt])*'"
# Bounded: a number with very many digits, or an infinite one, cannot be read.
_INTEGER = r"-?(0|[1-9][0-9]{0,18})"
_NUMBER = rf"{_INTEGER}(\.[0-9]{{1,18}})?([eE][+-]?[0-9]{{1,2}})?"
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


def build_grammar(format_name: str, tools: Sequence[Tool], specials: Collection[str] = ()) -> str | None:
    """The grammar of answers in a wire format, None where it is not known for the format.

    specials are texts that the tokenizer writes as one special token.
    """
    build = GRAMMARS.get(format_name)
    return build(tools, specials) if build else None


def _pythonic(tools: Sequence[Tool], specials: Collection[str]) -> str:
    rules = Rules(PYTHON)
    for tool in tools:
        arguments = rules.members(arguments_schema(tool.parameters), lambda name: literal(f"{name}="), 'NAME "="', 0)
        rules.calls.append(f'{literal(f"{tool.name}(")} {arguments} ")"')
    # Neither a list of calls nor one without its brackets can be in a text.
    return rules.write(f'"[" call ({_COMMA} call)* "]"', r"[^\s\[{(<][^\s\[(<]*(\s[^\[<]*)?")


def _hermes(tools: Sequence[Tool], specials: Collection[str]) -> str:
    opener, closer = (tag if tag in specials else literal(tag) for tag in ("<tool_call>", "</tool_call>"))
    block = rf'{opener} "\n"? call "\n"? {closer}'
    return _json_calls(tools, "arguments").write(rf'TEXT? {block} ("\n"? {block})*', _JSON_TEXT)


def _llama3_json(tools: Sequence[Tool], specials: Collection[str]) -> str:
    return _json_calls(tools, "parameters").write('call (";" " "? call)*', _JSON_TEXT)


def _xlam(tools: Sequence[Tool], specials: Collection[str]) -> str:
    return _json_calls(tools, "arguments").write(f'"[" call ({_COMMA} call)* "]"', _JSON_TEXT)


_JSON_TEXT = r"[^\s{\[`<][^<]*"


def _json_calls(tools: Sequence[Tool], arguments_key: str) -> Rules:
    rules = Rules(JSON)
    for tool in tools:
        name = literal(f"{json.dumps(tool.name, ensure_ascii=False)},")
        arguments = rules.object(arguments_schema(tool.parameters), 0)
        rules.calls.append(
            f'{literal("{")} {literal(_key("name"))} " "? {name} " "? {literal(_key(arguments_key))} " "? '
            f"{arguments} {literal('}')}"
        )
    return rules


GRAMMARS: dict[str, Callable[[Sequence[Tool], Collection[str]], str]] = {
    "pythonic": _pythonic,
    "hermes": _hermes,
    "llama3_json": _llama3_json,
    "xlam": _xlam,
}


class Rules:
    """The rules of a grammar, by name; equal ones are written once."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.calls: list[str] = []
        self.names: dict[str, str] = {}
        self.orders: dict[tuple[tuple[str, ...], int], str] = {}
        """Members of an object, and how many of them are required -> the rule in which they come in any order."""

    def write(self, calls: str, text: str) -> str:
        """The grammar: calls, or a text that holds none. calls refers to `call`, any call of a tool."""
        words = {value: self._either([literal(word) for word in words]) for value, words in self.dialect.words.items()}
        lines = [
            f"start: {calls} | TEXT",
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
            r"NAME: /[^=(),'\"\s\[\]{}]+/",
            f"TEXT: /{text}/",
        ]
        return "\n".join(lines)

    def rule(self, body: str) -> str:
        """The name of a rule."""
        return self.names.setdefault(body, f"rule{len(self.names)}")

    def value(self, schema: Any, depth: int) -> str:
        """What a value must look like."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return "any"
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(choices, list) and choices:
            fitting = [choice for choice in choices if allows(schema, choice)] or choices
            return self.rule(self._either([written for choice in fitting for written in self._written(choice)]))
        for keyword in ("anyOf", "oneOf"):
            branches = schema.get(keyword)
            if isinstance(branches, list) and branches:
                rest = {key: value for key, value in schema.items() if key != keyword}
                found = [self.value({**rest, **each}, depth + 1) for each in branches if isinstance(each, dict)]
                return self.rule(self._either(found)) if found else "any"
        wanted = schema.get("type")
        kinds = wanted if isinstance(wanted, list) and wanted else [wanted]
        return self.rule(self._either([self._of_type(kind, schema, depth) for kind in kinds]))

    def _of_type(self, kind: Any, schema: dict[str, Any], depth: int) -> str:
        match kind:
            case "string" | "integer" | "number":
                return str(kind).upper()
            case "boolean" | "null":
                return str(kind)
            case "array":
                item = self.value(schema.get("items"), depth + 1)
                return self.rule(f'"[" ({item} ({_COMMA} {item})*)? "]"')
            case "object":
                return self.object(schema, depth)
            case _:
                return "any"

    def object(self, schema: dict[str, Any], depth: int) -> str:
        """An object in braces."""
        members = self.members(schema, lambda name: f'{literal(_key(name))} " "?', 'STRING ":" " "?', depth)
        return self.rule(f"{literal('{')} {members} {literal('}')}")

    def members(self, schema: dict[str, Any], key: Callable[[str], str], any_key: str, depth: int) -> str:
        """The properties of an object with commas between them, each once at most and in any order."""
        properties = schema.get("properties")
        is_open = bool(schema.get("additionalProperties"))
        if not isinstance(properties, dict) or (not properties and is_open):
            return self.rule(f"({any_key} any ({_COMMA} {any_key} any)*)?")
        wanted = schema.get("required")
        required = [name for name in properties if isinstance(wanted, list) and name in wanted]
        names = [*required, *(name for name in properties if name not in required)][:MAX_PROPERTIES]
        members = [self.rule(f"{key(name)} {self.value(properties[name], depth + 1)}") for name in names]
        if not members:
            return '""'
        name = self.orders.setdefault((tuple(members), len(required)), f"order{len(self.orders)}")
        return self.rule(f"{name}::0x0")

    def _write_orders(self) -> Iterator[str]:
        """Rules with a number each, whose bits say which members have been written; the required ones come first."""
        for (members, num_required), name in self.orders.items():
            end = f'"" %if is_ones([0:{num_required}])' if num_required else '""'
            steps = [f"{member} {name}_more::set_bit({bit})" for bit, member in enumerate(members)]
            more = [f"{_COMMA} {step} %if bit_clear({bit})" for bit, step in enumerate(steps)]
            yield f"{name}::_: {' | '.join([end, *steps])}"
            yield f"{name}_more::_: {' | '.join([end, *more])}"

    def _written(self, value: Any) -> list[str]:
        """How a value may be written."""
        if value is None or isinstance(value, bool):
            return [literal(word) for word in self.dialect.words[value]]
        text = json.dumps(value, ensure_ascii=False)
        plain = isinstance(value, str) and text == f'"{value}"' and "'" not in value
        return [literal(text), *(literal(f"'{value}'") for quote in self.dialect.quotes[1:] if plain)]

    @staticmethod
    def _either(parts: Sequence[str]) -> str:
        return " | ".join(dict.fromkeys(parts))


def literal(text: str) -> str:
    """A text that must stand as it is."""
    return json.dumps(text, ensure_ascii=False)


def _key(name: str) -> str:
    return f"{json.dumps(name, ensure_ascii=False)}:"
