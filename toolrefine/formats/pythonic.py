"""Calls as a list in Python's clothes: `[f(a=1), g(b="x")]` (ToolACE, BFCL's prompt mode, Llama 3.2)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from toolrefine.errors import DataError
from toolrefine.formats.base import (
    MAX_NESTING,
    SURROGATE,
    Parsed,
    UnreadableError,
    looks_like_call,
    parse_answer,
)
from toolrefine.formats.json_object import skip_blanks
from toolrefine.types import Outcome, Tool, ToolCall

MAX_DIGITS = 4300
"""Digits of an integer, at most: what Python converts by default, because conversion is not linear."""

# Possessive quantifiers (++, *+) keep every pattern linear in the text.
_TOOL_NAME = re.compile(r"""[^=(),'"\[\]{}\r\n]++""")
_ARGUMENT_NAME = re.compile(r"""[^=(),'"\s]++""")
_LIST_START = re.compile(r"""\[[^=(),'"\[\]{}]++\(""")
_LIST_INSIDE = re.compile(r"""\[[^=(),'"\[\]{}]++\(\s*+(?:[^=(),'"\[\]{}\s]++\s*+=|\))""")
_LIST_ENDS = re.compile(r"\[(?s:.*)\)\s*+\]\Z")
_BARE_START = re.compile(r"""[^=(),'"\[\]{}\s]++\(\s*+(?:[^=(),'"\[\]{}\s]++\s*+=|\))""")
_NUMBER = re.compile(r"[+-]?(?:(?P<int>[0-9]++)(?P<fraction>\.[0-9]*+)?|\.[0-9]++)(?P<exponent>[eE][+-]?[0-9]++)?")
_WORD = re.compile(r"[A-Za-z]++")
_PLAIN = {quote: re.compile(rf"[^{quote}\\\r\n]*+") for quote in "\"'"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|([^uxU\r\n]))")

_WORDS: dict[str, bool | None] = {
    "True": True,
    "true": True,
    "False": False,
    "false": False,
    "None": None,
    "null": None,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}
_ESCAPES |= {char: char for char in "\\'\"/"}


class Pythonic:
    """One list of calls with keyword arguments, and nothing else beside it.

    A text is read as calls or MALFORMED where it starts like a list of calls, `[name(`, or like calls without their
    brackets, `name(argument=` or `name()`, the name free of blanks. It is MALFORMED too where such a list stands
    inside or before other text, where all of it stands in `[` and `)]`, as a list of calls does, and where it is a call
    in JSON. Every other text is NO_CALL, `[]` included.

    Tool names may hold dots, dashes and blanks, but none of =(),'"[]{} and no line break; argument names may hold
    none of =(),'" and no blank. Values are strings, numbers, True, False, None (also true, false, null), lists,
    tuples and dicts with string keys. Escapes in strings are those of Python and JSON, without octal numbers and
    character names; an unknown escape stands for itself.
    """

    name = "pythonic"

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Write the calls as one list.

        Raises:
            DataError: a tool or an argument has a name that cannot be written.
            ValueError: an argument is not JSON.
        """
        return render_list(calls)

    def parse(self, text: str, truncated: bool = False, tools: Sequence[Tool] = ()) -> Parsed:
        """Read a text; see the class for what is MALFORMED."""
        return parse_answer(text, ("[",), read_list, truncated)


def render_list(calls: Sequence[ToolCall]) -> str:
    """The calls as one list; raises as Pythonic.render does."""
    return "[" + ", ".join(_render_call(call) for call in calls) + "]"


def _render_call(call: ToolCall) -> str:
    if call.name != call.name.strip() or not _TOOL_NAME.fullmatch(call.name):
        raise DataError(
            f"tool name {call.name!r} cannot be written in the pythonic format: "
            "rename the tool without any of =(),'\"[]{} or choose another prompt.format"
        )
    for argument in call.arguments:
        if not _ARGUMENT_NAME.fullmatch(argument):
            raise DataError(
                f"argument name {argument!r} of {call.name} cannot be written in the pythonic format: "
                "rename it without blanks and any of =(),'\" or choose another prompt.format"
            )
    arguments = ", ".join(f"{name}={_render_value(value)}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def _render_value(value: Any) -> str:
    match value:
        case None | bool():
            return repr(value)
        case list():
            return "[" + ", ".join(map(_render_value, value)) + "]"
        case dict():
            entries = (f"{_render_value(key)}: {_render_value(item)}" for key, item in value.items())
            return "{" + ", ".join(entries) + "}"
        case _:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_list(text: str, calls: list[ToolCall]) -> Outcome:
    """Read a stripped answer, adding its calls.

    Raises:
        UnreadableError: it is malformed. So is an answer for which MALFORMED is returned.
    """
    if _LIST_START.match(text):
        position, closer = 1, "]"
    elif _BARE_START.match(text):
        position, closer = 0, ""
    elif _LIST_INSIDE.search(text) or _LIST_ENDS.match(text) or looks_like_call(text):
        return Outcome.MALFORMED
    else:
        return Outcome.NO_CALL
    _Scanner(text, position).read_calls(calls, closer)
    return Outcome.CALLS


class _Scanner:
    """Reads from left to right and never goes back; every method starts and ends on a non-blank character."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = skip_blanks(text, position)

    def read_calls(self, calls: list[ToolCall], closer: str) -> None:
        """Read calls separated by commas up to the closer, where there is one, and then the end of the text."""
        while True:
            calls.append(self._call())
            if not self._accept(",") or (closer and self._peek() == closer):
                break
        if closer:
            self._expect(closer)
        if self.position < len(self.text):
            raise UnreadableError

    def _call(self) -> ToolCall:
        name = self._match(_TOOL_NAME).group().strip()
        if not name:
            raise UnreadableError
        self._expect("(")
        arguments: dict[str, Any] = {}

        def read_argument() -> None:
            argument = self._match(_ARGUMENT_NAME).group()
            self._expect("=")
            self._add(arguments, argument, self._value(depth=2))

        self._items(")", read_argument)
        return ToolCall(name=name, arguments=arguments)

    def _value(self, depth: int) -> Any:
        opener = self._peek()
        if opener in ('"', "'"):
            return self._string()
        if opener not in ("[", "(", "{"):
            return self._word() if opener.isalpha() else self._number()
        if depth > MAX_NESTING:
            raise UnreadableError
        self._expect(opener)
        if opener == "{":
            return self._dict(depth)
        items: list[Any] = []
        comma = self._items("]" if opener == "[" else ")", lambda: items.append(self._value(depth + 1)))
        # (1) is 1 in brackets; only (1,) is a tuple.
        return items[0] if opener == "(" and len(items) == 1 and not comma else items

    def _dict(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}

        def read_entry() -> None:
            if self._peek() not in ('"', "'"):
                raise UnreadableError
            key = self._string()
            self._expect(":")
            self._add(entries, key, self._value(depth + 1))

        self._items("}", read_entry)
        return entries

    def _items(self, closer: str, read_item: Callable[[], None]) -> bool:
        """Read items separated by commas, then the closer; returns whether a comma followed the last item."""
        comma = False
        while self._peek() != closer:
            read_item()
            comma = self._accept(",")
            if not comma:
                break
        self._expect(closer)
        return comma

    @staticmethod
    def _add(entries: dict[str, Any], key: str, value: Any) -> None:
        if key in entries:
            raise UnreadableError
        entries[key] = value

    def _word(self) -> bool | None:
        word = self._match(_WORD).group()
        if word not in _WORDS:
            raise UnreadableError
        return _WORDS[word]

    def _number(self) -> int | float:
        number = self._match(_NUMBER)
        digits = number["int"] or ""
        if number["fraction"] is None and number["exponent"] is None and digits:
            if len(digits) > MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"):
                raise UnreadableError
            return int(number.group())
        value = float(number.group())
        if not math.isfinite(value):
            raise UnreadableError
        return value

    def _string(self) -> str:
        quote = self._peek()
        position = self.position + 1
        parts: list[str] = []
        while True:
            plain = _PLAIN[quote].match(self.text, position)
            if plain is None or plain.end() == len(self.text):
                raise UnreadableError
            parts.append(plain.group())
            position = plain.end()
            if self.text[position] == quote:
                break
            escape = _ESCAPE.match(self.text, position)
            if escape is None:
                raise UnreadableError
            parts.append(_unescape(escape))
            position = escape.end()
        self.position = skip_blanks(self.text, position + 1)
        value = "".join(parts)
        if not SURROGATE.search(value):
            return value
        try:
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            raise UnreadableError from None

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _accept(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self.position = skip_blanks(self.text, self.position + 1)
        return True

    def _expect(self, char: str) -> None:
        if not self._accept(char):
            raise UnreadableError

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.position)
        if found is None:
            raise UnreadableError
        self.position = skip_blanks(self.text, found.end())
        return found


def _unescape(escape: re.Match[str]) -> str:
    char = escape[4]
    if char is not None:
        return _ESCAPES.get(char, escape.group())
    code = int(escape[1] or escape[2] or escape[3], 16)
    if code > 0x10FFFF:
        raise UnreadableError
    return chr(code)
