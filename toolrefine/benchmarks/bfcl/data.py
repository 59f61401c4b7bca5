"""BFCL's data and texts, read from an installed or unpacked bfcl-eval without importing it.

Importing it would create folders beside the package and needs packages that an installation without dependencies lacks.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolrefine.benchmarks.bfcl.decode import Language
from toolrefine.benchmarks.rows import read_rows
from toolrefine.errors import DataError
from toolrefine.types import Record

PREFIX = "BFCL_v4"

HOW_TO_GET = "pip install --no-deps bfcl-eval==2026.3.23, or point --data at its folder bfcl_eval"
_HINTS = "_get_language_specific_hint", "_func_doc_language_specific_pre_processing"


class BfclData(Record):
    """The package bfcl_eval as files."""

    root: Path
    """The folder bfcl_eval."""

    def rows(self, category: str) -> list[dict[str, Any]]:
        """The questions of a category, in the official order.

        Raises:
            DataError: they are missing or not readable.
        """
        return read_rows(self.root / "data" / f"{PREFIX}_{category}.json", HOW_TO_GET)

    def golds(self, category: str) -> list[Any]:
        """What answers to rows(category) are judged by, in their order.

        Raises:
            DataError: they are missing or not readable.
        """
        path = self.root / "data" / "possible_answer" / f"{PREFIX}_{category}.json"
        try:
            return [row["ground_truth"] for row in read_rows(path, HOW_TO_GET)]
        except KeyError as error:
            raise DataError(f"{path}: a row without {error}; {HOW_TO_GET}") from None

    @property
    def prompts(self) -> dict[str, Any]:
        """The constants of constants/default_prompts.py that are plain values, by name.

        Raises:
            DataError: they are missing or not readable.
        """
        return _constants(self.root / "constants" / "default_prompts.py")

    def documents(self, functions: Sequence[dict[str, Any]], language: Language) -> list[dict[str, Any]]:
        """The documents of functions as a model sees them, with hints at the language.

        All parameters of Java and JavaScript functions are strings: source text.

        Raises:
            DataError: the hints are missing or not readable.
        """
        java, javascript, python, *hints = _added_texts(self.root / "utils.py")
        hint = {"java": java, "javascript": javascript, "python": python}[language]
        of_parameters = {"java": hints[:3], "javascript": hints[3:], "python": []}[language]
        return [_document(function, hint, of_parameters) for function in functions]

    def system_prompt(self, documents: Sequence[dict[str, Any]]) -> str:
        """The official system message of prompt mode.

        Raises:
            DataError: its text is missing or not readable.
        """
        try:
            parts = self.prompts["PROMPT_STYLE_TEMPLATES"]["classic"]
            tool_call_format = parts["tool_call_no_tag"].format(
                output_format=self.prompts["OUTPUT_FORMAT_MAPPING"]["python"],
                param_types=self.prompts["PARAM_TYPE_MAPPING"]["python"],
            )
            prompt: str = self.prompts["_PLAINTEXT_SYSTEM_PROMPT_TEMPLATE"].format(
                persona=parts["persona"],
                task=parts["task"],
                tool_call_format=tool_call_format,
                multiturn_behavior=parts["multiturn_behavior"],
                available_tools=parts["available_tools"].format(
                    format="json", functions=json.dumps(documents, indent=4)
                ),
            )
        except KeyError as error:
            raise DataError(f"{self.root}: another version of the prompts, without {error}; {HOW_TO_GET}") from None
        return prompt


def find_bfcl(data: Path | None) -> BfclData:
    """The data in a folder that the user names, else those of the installed package.

    The folder is bfcl_eval, its folder data, or one that holds bfcl_eval.

    Raises:
        DataError: there are none; says how to get them.
    """
    if data is not None:
        folders = [data, data.parent, data / "bfcl_eval"]
    else:
        spec = importlib.util.find_spec("bfcl_eval")
        folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        if (folder / "data" / f"{PREFIX}_simple_python.json").is_file() and (folder / "constants").is_dir():
            return BfclData(root=folder.resolve())
    raise DataError(f"BFCL's data are not {f'in {data}' if data else 'installed'}: {HOW_TO_GET}")


def _document(function: dict[str, Any], hint: str, of_parameters: Sequence[str]) -> dict[str, Any]:
    """A function's document with a hint, and its parameters turned into strings with one where there are such."""
    document = {**function, "description": function["description"] + hint}
    if of_parameters:
        parameters = function["parameters"]
        properties = {name: _as_text(schema, *of_parameters) for name, schema in parameters["properties"].items()}
        document["parameters"] = {**parameters, "properties": properties}
    return document


def _as_text(schema: dict[str, Any], of_any: str, of_other: str, of_items: str, of_entries: str = "") -> dict[str, Any]:
    """A parameter of Java or JavaScript as a string, whose description says what it was."""
    kind, schema = schema["type"], dict(schema)
    schema["description"] += of_any if kind == "any" else of_other.format(kind)
    if kind in ("array", "Array", "ArrayList"):
        schema["description"] += of_items.format(schema.pop("items")["type"])
    if of_entries and kind == "dict" and "properties" in schema:
        schema["description"] += of_entries.format(json.dumps(schema.pop("properties")))
    schema["type"] = "string"
    return schema


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: {error}; {HOW_TO_GET}") from None


@cache
def _constants(path: Path) -> dict[str, Any]:
    constants = {}
    for node in _parse(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    constants[name] = ast.literal_eval(value)
                except ValueError:  # computed from others
                    continue
    return constants


@cache
def _added_texts(path: Path) -> tuple[str, ...]:
    """What the package adds to documents, as str.format templates with one field at most.

    In order: to the document of a Java, JavaScript and Python function; to a parameter of type any, of another type,
    and with items, in Java; to the same in JavaScript, and there to one with properties.
    """
    functions = {node.name: node for node in _parse(path).body if isinstance(node, ast.FunctionDef)}
    try:
        found = [
            (node.lineno, template)
            for name in _HINTS
            for node in ast.walk(functions[name])
            if isinstance(node, ast.Return | ast.AugAssign) and (template := _template(node.value)) is not None
        ]
    except KeyError as error:
        raise DataError(f"{path}: no function {error}; {HOW_TO_GET}") from None
    templates = tuple(template for _, template in sorted(found))
    if [template.count("{}") for template in templates] != [0, 0, 0, 0, 1, 1, 0, 1, 1, 1]:
        raise DataError(f"{path}: another version of the hints for languages; {HOW_TO_GET}")
    return templates


def _template(node: ast.expr | None) -> str | None:
    """A text, with {} for what an f-string fills in; None for other expressions."""
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("{", "{{").replace("}", "}}")
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) or "{}" for part in parts)
        case _:
            return None
