"""BFCL's reading of Java and JavaScript values: what an argument's source text stands for.

The conversions are BFCL's, oddities included, because verdicts depend on them: commas split lists even inside strings,
of a JavaScript object only what precedes the first closing brace is read, and what a type cannot read stays text. BFCL
reads with backtracking patterns whose time can explode; here every text takes linear time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

_WHOLE = re.compile(r"(-?\d++)$")
_DECIMAL = re.compile(r"(-?\d++(?:\.\d++)?)$")
_JAVA_LONG = re.compile(r"(-?\d++)[lL]$")
_JAVA_DOUBLE = re.compile(r"(-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?)$")
_JAVA_FLOAT = re.compile(r"(-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?)[fF]$")
_JS_BIGINT = re.compile(r"(-?\d++)n$")

_Readers = dict[str, tuple[re.Pattern[str], Callable[[str], int | float]]]

_JAVA_NUMBERS: _Readers = {
    "byte": (_WHOLE, int),
    "short": (_WHOLE, int),
    "integer": (_WHOLE, int),
    "long": (_JAVA_LONG, int),
    "float": (_JAVA_FLOAT, float),
    "double": (_JAVA_DOUBLE, float),
}
_JS_NUMBERS: _Readers = {"integer": (_WHOLE, int), "float": (_DECIMAL, float), "Bigint": (_JS_BIGINT, int)}

_BOOLEANS = {"true": True, "false": False}

# What opens a body, what closes it, and the line breaks that no body may hold.
_AS_LIST = re.compile(r"(?P<head>new\s++ArrayList<\w*+>\(Arrays\.asList\()|(?P<close>\)(?=\)))|\n")
_ARRAY = re.compile(r"(?P<head>new\s++\w++\[\]\s*+\{)|(?P<close>\})|\n")
_ADD = re.compile(r"(?P<head>add\()|(?P<close>\))|\n")
_NEW_MAP = re.compile(r"(?P<head>new\s++HashMap<)|(?P<close>>\s*+\(\))|\n")

_LIST_BLOCK = re.compile(r"new\s++ArrayList<\w*+>\(\)\s*+\{\{\s*+")
_NEW_LIST = re.compile(r"new\s++ArrayList<\w*+>\(\)")
_MAP_HEAD = re.compile(r"new\s++HashMap<")
_MAP_BLOCK = re.compile(r">\s*+\(\)\s*+\{\s*+\{?+\s*+")

_JS_ARRAY = re.compile(r"\[(?P<items>[^\]\n]*+)\]|new\s++Array\((?P<arguments>[^)\n]*+)\)")
_JS_OBJECT = re.compile(r"\{([^}\n]*+)\}")
_JS_ROWS = (
    (re.compile(r"\[\s*+\["), re.compile(r"\s*+\]")),
    (re.compile(r"new\s++Array\(\s*+\["), re.compile(r"\s*+\)")),
)
_JS_ROW = re.compile(r"\[([^\]\n]*+)\]")
_JS_NEXT_ROW = re.compile(r"\s*+,\s*+\[")
_NOT_BLANK = re.compile(r"\S")


def java_value(text: str, schema_type: str, item_type: str | None = None) -> Any:
    """Read Java source as a value of a type; item_type is that of the items of an Array or ArrayList.

    Returns the text itself where it is no such value, where BFCL has no reading for the type (Set, Queue, Stack,
    Hashtable), and where an integer has more digits than Python converts.
    """
    try:
        return _java_value(text, schema_type, item_type)
    except ValueError:
        return text


def javascript_value(text: str, schema_type: str, item_type: str | None = None) -> Any:
    """Read JavaScript source as a value of a type; item_type is that of the items of an array.

    Returns the text itself where it is no such value, or an integer with more digits than Python converts.
    """
    try:
        return _javascript_value(text, schema_type, item_type)
    except ValueError:
        return text


def _java_value(text: str, schema_type: str, item_type: str | None = None) -> Any:
    match schema_type:
        case "boolean":
            return _BOOLEANS.get(text, text)
        case "ArrayList":
            return _java_list(text, item_type)
        case "Array":
            body = next(_bodies(text, _ARRAY), None)
            items = [] if body is None else [item for item in map(str.strip, body.split(",")) if item]
            return text if body is None else [_java_item(item, item_type) for item in items]
        case "HashMap":
            return _java_map(text)
        case _:
            return _number(text, schema_type, _JAVA_NUMBERS)


def _java_list(text: str, item_type: str | None) -> str | list[Any]:
    body = next(_bodies(text, _AS_LIST, min_length=1), None)
    if body is not None:
        items = body.split(",")
    elif (block := _java_block(text)) is not None:
        items = list(_bodies(block, _ADD, min_length=1))
    else:
        return [] if _NEW_LIST.search(text) else text
    stripped = map(str.strip, items)
    if item_type in ("char", "String"):
        return [item[1:-1] for item in stripped]
    return [_java_item(item, item_type) for item in stripped]


def _java_block(text: str) -> str | None:
    """The statements of `new ArrayList<>() {{ ... }}`, None where there is no such thing."""
    head = _LIST_BLOCK.search(text)
    if head is None:
        return None
    start = head.end()
    end = text.find("}}", start + 1)
    if end >= 0:
        return text[start:end].rstrip()
    # A block has at least one character, and if need be a blank.
    is_blank = text.startswith("}}", start) and text[start - 1].isspace()
    return text[start - 1] if is_blank else None


def _java_map(text: str) -> str | dict[str, Any]:
    head = _MAP_HEAD.search(text)
    block = head and _MAP_BLOCK.search(text, head.end())
    end = text.find("}", block.end()) if block else -1
    if block and end >= 0:
        return {key: _java_item(value.strip(), None) for key, value in _java_puts(text[block.end() : end].rstrip())}
    return text if next(_bodies(text, _NEW_MAP), None) is None else {}


def _java_puts(text: str) -> Iterator[tuple[str, str]]:
    """Key and value of each `put("key", value)`; the key and the value stand in one line each."""
    position, line_end = 0, -1
    while (position := text.find('put("', position)) >= 0:
        start = position + len('put("')
        if line_end < start:
            line_end = text.find("\n", start)
            line_end = len(text) if line_end < 0 else line_end
        found = _java_put(text, start, text.find('",', start, line_end))
        if found is None:
            # The key may itself hold `",`; then only a value in the next line is left.
            key_end = start + len(text[start:line_end].rstrip()) - len('",')
            found = _java_put(text, start, key_end if key_end >= start and text.startswith('",', key_end) else -1)
        if found is None:
            position = line_end  # what fails here fails from anywhere in the line
        else:
            key, value, position = found
            yield key, value


def _java_put(text: str, start: int, key_end: int) -> tuple[str, str, int] | None:
    """The key, the value and where it ends, None where the value does not end in its line."""
    if key_end < 0:
        return None
    value_start = _skip_blanks(text, key_end + len('",'))
    end = text.find(")", value_start)
    if end < 0 or "\n" in text[value_start:end]:
        return None
    return text[start:key_end], text[value_start:end], end + 1


def _java_item(text: str, item_type: str | None) -> Any:
    """Read an item of a known type, else by what it looks like."""
    if item_type:
        return _java_value(text, item_type)
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if found := _JAVA_LONG.match(text):
        return int(found[1])
    if found := _JAVA_FLOAT.match(text):
        return float(found[1])
    return _plain_number(text)


def _javascript_value(text: str, schema_type: str, item_type: str | None = None) -> Any:
    match schema_type:
        case "String":
            return text[1:-1] if _is_quoted(text) else text
        case "Boolean":
            return _BOOLEANS.get(text, text)
        case "array":
            code = text.strip()
            try:
                return _js_array(code, item_type)
            except ValueError:
                return code
        case "dict":
            code = text.strip()
            content = _JS_OBJECT.match(code)
            return dict(_js_pairs(content[1])) if content else code
        case _:
            return _number(text, schema_type, _JS_NUMBERS)


def _js_array(code: str, item_type: str | None) -> str | list[Any]:
    end = _js_rows_end(code)
    if end >= 0:
        rows = _JS_ROW.findall(code[:end])
        rows[0] = rows[0].strip().removeprefix("[")
        return [[_js_item(item) for item in row.strip().split(",")] for row in rows]
    found = _JS_ARRAY.match(code)
    if found is None:
        return code
    body = (found["items"] if found["arguments"] is None else found["arguments"]).strip()
    items = map(str.strip, body.split(",") if body else [])
    if item_type is None:
        return [_js_item(item) for item in items]
    return [_javascript_value(item, item_type, "String" if item.startswith(("'", '"')) else None) for item in items]


def _js_rows_end(code: str) -> int:
    """Where the array of arrays ends that the code begins with, -1 if it begins with none.

    A row ends at the first bracket from which the rest can be read: a comma and another row, which goes first, or the
    end of the array. That is decided from right to left, so that no bracket is looked at twice.
    """
    for opener, closer in _JS_ROWS:
        if head := opener.match(code):
            return _js_last_row_end(code, head.end(), closer)
    return -1


def _js_last_row_end(code: str, start: int, closer: re.Pattern[str]) -> int:
    """Where the array of arrays ends whose first row starts here."""
    breaks = [found.start() for found in re.finditer("\n", code)]

    def in_line(start: int, end: int) -> bool:
        return bisect_left(breaks, start) == bisect_left(breaks, end)

    ends: dict[int, int] = {}  # behind a row that leads to the end -> the end
    nearest = -1
    for bracket in reversed([found.end() for found in re.finditer(r"\]", code[start:])]):
        row_end = start + bracket
        row, close = _JS_NEXT_ROW.match(code, row_end), closer.match(code, row_end)
        if row and nearest >= 0 and in_line(row.end(), nearest):
            ends[row_end] = ends[nearest]
        elif close:
            ends[row_end] = close.end()
        else:
            continue
        nearest = row_end
    return ends[nearest] if nearest >= 0 and in_line(start, nearest) else -1


def _js_pairs(content: str) -> Iterator[tuple[str, Any]]:
    """Key and value of each `key: value`; a comma ends a value where a colon comes before the next comma."""
    position = 0
    while position < len(content):
        colon = content.find(":", position)
        if colon < 0:
            return
        if colon == position:
            position += 1
            continue
        start = _skip_blanks(content, colon + 1)
        end, following = _js_value_end(content, start)
        key, value = content[position:colon].strip().strip("'\""), content[start:end].strip()
        if value.startswith("[") and value.endswith("]"):
            yield key, _javascript_value(value, "array")
        else:
            yield key, _js_item(value.strip("'\""))
        position = following


def _js_value_end(content: str, start: int) -> tuple[int, int]:
    """Where a value ends, and where the next key starts."""
    comma = content.find(",", start)
    while comma >= 0:
        next_comma = content.find(",", comma + 1)
        last_colon = content.rfind(":", comma + 1, next_comma if next_comma >= 0 else len(content))
        # A key has at least one character, and if need be a blank.
        key_start = min(_skip_blanks(content, comma + 1), last_colon - 1)
        if key_start > comma:
            return comma, key_start
        comma = next_comma
    return len(content), len(content)


def _js_item(text: str) -> Any:
    text = text.strip()
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    return text[1:-1] if _is_quoted(text) else _plain_number(text)


def _bodies(text: str, tokens: re.Pattern[str], min_length: int = 0) -> Iterator[str]:
    """Each text from a head to the nearest closer, without line breaks; heads inside of a body are part of it."""
    start = -1
    for token in tokens.finditer(text):
        if token["head"]:
            if start < 0 or "\n" in token[0]:
                start = token.end()
        elif not token["close"]:
            start = -1
        elif 0 <= start <= token.start() - min_length:
            yield text[start : token.start()]
            start = -1


def _number(text: str, schema_type: str, readers: _Readers) -> str | int | float:
    """Read a number strictly; text of other types stays text.

    Raises:
        ValueError: an integer has more digits than Python converts.
    """
    if schema_type not in readers:
        return text
    pattern, read = readers[schema_type]
    found = pattern.match(text)
    return read(found[1]) if found else text


def _plain_number(text: str) -> str | int | float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _is_quoted(text: str) -> bool:
    return (text.startswith('"') and text.endswith('"')) or (text.startswith("'") and text.endswith("'"))


def _skip_blanks(text: str, position: int) -> int:
    found = _NOT_BLANK.search(text, position)
    return found.start() if found else len(text)
