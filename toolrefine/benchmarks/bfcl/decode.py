"""Calls in the text of a model, read as BFCL reads them in its prompt mode. Nothing is ever evaluated.

Python texts are lists of calls. Oddities of BFCL that are kept, because verdicts depend on them:

- Every unary operator negates: +5 is -5.
- Names stand for themselves as text, and so do subscripts and calls without keyword arguments.
- Positional arguments are dropped, except in Java and JavaScript, where a lone name is filed under None.
- Of a Java or JavaScript text only the first call is read. Missing brackets are forgiven where the parser can guess
  them, and Java is cut by byte offsets, so that text behind a character beyond ASCII is shifted.

Where BFCL would evaluate an expression, `a=1+2`, arithmetic on numbers and sums of strings and lists are computed; with
anything else in it the text cannot be decoded. The only other differences are texts on which a parser's time or memory
would not be linear: Java and JavaScript of more than MAX_TOKENS words and signs, and Python with huge f-strings.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from toolrefine.benchmarks.bfcl.arithmetic import compute
from toolrefine.errors import RequestError

if TYPE_CHECKING:
    import tree_sitter

Language = Literal["python", "java", "javascript"]

Call = dict[str, dict[Any, Any]]
"""{name: {argument: value}}."""

MAX_TOKENS = 2000
"""Words and signs of a Java or JavaScript text, at most; BFCL's own calls stay far below."""

MAX_FIELD_STEPS = 10**9
"""Characters times opening braces of a Python text with f-strings, at most: far less than a second's work."""

_F_STRING = re.compile(r"[fF][rR]?['\"]")
_NUMBER_RUNS_ON = re.compile(r"[0-9](?=[a-z])")
_TOKEN = re.compile(r"\w++|[^\w\s]")

_WHOLE_JAVA = frozenset(
    {"string_literal", "character_literal", "identifier", "class_literal", "type_identifier", "method_invocation"}
)


class DecodeError(ValueError):
    """A text that holds no readable calls. error_type is how BFCL counts it."""

    def __init__(self, message: str, error_type: str = "ast_decoder:decoder_failed") -> None:
        super().__init__(message)
        self.error_type = error_type


def decode_response(text: str, language: Language) -> list[Call]:
    """Read the calls of a text.

    Raises:
        DecodeError: it cannot be read as calls.
        RequestError: Java and JavaScript need packages that are not installed.
    """
    text = text.strip("`\n ")
    if not text.startswith("["):
        text = "[" + text
    if not text.endswith("]"):
        text += "]"
    try:
        match language:
            case "python":
                return _python_calls(text)
            case "java":
                return _java_calls(text[1:-1])
            case "javascript":
                return _javascript_calls(text[1:-1])
    except DecodeError:
        raise
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise DecodeError(f"the text is not readable {language}: {type(error).__name__}") from None


def _python_calls(text: str) -> list[Call]:
    # Before 3.12, Python's parser looks for each field of an f-string from the start of the text.
    if len(text) * text.count("{") > MAX_FIELD_STEPS and _F_STRING.search(text):
        raise ValueError("too many fields")
    if "\\" in text or _NUMBER_RUNS_ON.search(text):  # what Python may warn of
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(text, mode="eval").body
    else:
        body = ast.parse(text, mode="eval").body
    if isinstance(body, ast.Call):
        return [_python_call(body)]
    if not isinstance(body, (ast.List, ast.Tuple)):
        raise ValueError("no list")
    return [_python_call(element) for element in body.elts]


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    parts = []
    function = node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        parts.append(function.id)
    return {".".join(reversed(parts)): {keyword.arg: _python_value(keyword.value) for keyword in node.keywords}}


def _python_value(node: ast.expr | None) -> Any:
    """Read the value of an argument.

    Raises:
        ValueError: it is a kind of expression that BFCL does not read, or would evaluate and is no arithmetic.
        TypeError: a key of a dict is a list or a dict.
    """
    if isinstance(node, ast.Constant):
        return "..." if node.value is ... else node.value
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.List):
        return [_python_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_python_value(key): _python_value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        number = node.operand.value
        if isinstance(number, int | float | complex):
            return -number
    if isinstance(node, ast.BinOp):
        return compute(node)
    if isinstance(node, ast.Tuple):
        return tuple([_python_value(element) for element in node.elts])
    if isinstance(node, ast.Call):
        return _python_call(node) if node.keywords else ast.unparse(node)
    if isinstance(node, ast.Subscript):
        return f"{ast.unparse(node.value)}[{ast.unparse(node.slice)}]"
    raise ValueError("an expression that is no value")


def _java_calls(code: str) -> list[Call]:
    pending = [_parse(code, "java")]
    while pending:
        node = pending.pop()
        if node.type == "method_invocation":
            return [_java_call(code, node)]
        pending.extend(reversed(node.children))
    raise _no_call()


def _java_call(code: str, node: tree_sitter.Node) -> Call:
    owner, name, arguments = (node.child_by_field_name(field) for field in ("object", "name", "arguments"))
    if name is None or arguments is None:
        raise ValueError("a call without name or arguments")
    entries: list[tuple[str | None, str]] = []
    for child in arguments.children:
        if child.type == "assignment_expression":
            entries.append((_java_source(code, child.children[0]), _java_value(code, child.children[2])))
        elif child.type in ("identifier", "class_literal"):
            entries.append((None, _java_source(code, child)))
    full_name = _java_source(code, name) if owner is None else f"{_java_source(code, owner)}.{_java_source(code, name)}"
    return {full_name: _arguments(entries)}


def _java_value(code: str, node: tree_sitter.Node) -> str:
    if node.type in ("string_literal", "character_literal"):
        return _java_source(code, node)[1:-1]
    parts: list[str] = []
    pending: list[tree_sitter.Node | str] = [node]
    while pending:
        piece = pending.pop()
        if isinstance(piece, str):
            parts.append(piece)
        elif piece.type in _WHOLE_JAVA or (not piece.children and piece.type != "array_creation_expression"):
            parts.append(_java_source(code, piece))
        else:
            pending.extend(reversed(_java_pieces(piece)))
    return "".join(parts)


def _java_pieces(node: tree_sitter.Node) -> list[tree_sitter.Node | str]:
    """What a longer value is put together from; blanks between its words are lost but for those that stand here."""
    kind = node.child_by_field_name("type")
    match node.type:
        case "array_creation_expression":
            items = node.child_by_field_name("value")
            if kind is None or items is None:
                raise ValueError("an array without items")
            return ["new ", kind, "[]", items]
        case "object_creation_expression":
            arguments = node.child_by_field_name("arguments")
            if kind is None:
                raise ValueError("an object without a class")
            pieces: list[tree_sitter.Node | str] = []
            for child in arguments.children if arguments else []:
                if child.type not in (",", "(", ")"):
                    pieces += [", ", child] if pieces else [child]
            return ["new ", kind, "(", *pieces, ")"]
        case _:
            return list(node.children)


def _java_source(code: str, node: tree_sitter.Node) -> str:
    return code[node.start_byte : node.end_byte]


def _javascript_calls(code: str) -> list[Call]:
    source = code.encode()
    for statement in _parse(code, "javascript").children:
        for node in statement.children if statement.type == "expression_statement" else []:
            if node.type == "call_expression":
                function, arguments = node.children[:2]
                return [{_source(source, function): _arguments(_javascript_entries(source, arguments))}]
    raise _no_call()


def _javascript_entries(source: bytes, arguments: tree_sitter.Node) -> Iterable[tuple[str | None, str]]:
    for child in arguments.children:
        if child.type == "assignment_expression":
            value = _source(source, child.children[2])
            if value[:1] in ('"', "'") and value.endswith(value[0]):
                value = value[1:-1]
            yield _source(source, child.children[0]), value
        elif child.type in ("identifier", "true"):
            yield None, _source(source, child)


def _source(source: bytes, node: tree_sitter.Node) -> str:
    return source[node.start_byte : node.end_byte].decode()


def _arguments(entries: Iterable[tuple[str | None, str]]) -> dict[Any, Any]:
    arguments: dict[Any, Any] = {}
    for name, value in entries:
        if name in arguments:
            raise ValueError("an argument twice")
        arguments[name] = value
    return arguments


def _no_call() -> DecodeError:
    return DecodeError("the text holds no call", "ast_decoder:decoder_wrong_output_format")


def _parse(code: str, language: str) -> tree_sitter.Node:
    """Parse code, forgiving what is missing.

    Raises:
        ValueError: some of it cannot be read, or it is too long.
    """
    if next(islice(_TOKEN.finditer(code), MAX_TOKENS, None), None):
        raise ValueError("too long")
    root = _parser(language).parse(code.encode()).root_node
    pending = [root]
    while pending:
        node = pending.pop()
        if node.is_error:
            raise ValueError("syntax error")
        pending.extend(child for child in node.children if child.has_error)
    return root


def _parser(language: str) -> tree_sitter.Parser:
    try:
        import tree_sitter

        return tree_sitter.Parser(_grammar(language))  # not shared, for the sake of threads
    except ImportError:
        raise RequestError(
            "reading Java and JavaScript needs tree-sitter and its grammars: pip install '.[bfcl]' in the checkout"
        ) from None


@lru_cache
def _grammar(language: str) -> tree_sitter.Language:
    import tree_sitter

    return tree_sitter.Language(importlib.import_module(f"tree_sitter_{language}").language())
