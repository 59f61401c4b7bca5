"""API-Bank's files: the original dialogues with the descriptions of their APIs, and ToolRL's preparation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from toolrefine.config import describe
from toolrefine.errors import DataError
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Record, Tool

SEARCHER = "ToolSearcher"
DIALOGUES = {"level-1": "level-1-given-desc", "level-2": "level-2-toolsearcher"}
PREPARED = {f"toolrl-level-{level}": f"toolrl_level{level}.json" for level in (1, 2, 3)}

_HOW_ORIGINAL = "clone https://github.com/AlibabaResearch/DAMO-ConvAI and give its folder api-bank as --data"
_HOW_PREPARED = "put the API-Bank files of https://github.com/qiancheng0/ToolRL into the folder given as --data, as "
HOW_TO_GET = dict.fromkeys(DIALOGUES, _HOW_ORIGINAL) | dict.fromkeys(PREPARED, _HOW_PREPARED + "toolrl_level1.json ...")
_SEARCHER_TOOL = Tool(
    name=SEARCHER,
    description="Finds the tools that a keyword describes.",
    parameters={
        "type": "object",
        "properties": {"keywords": {"type": "string", "description": "What to look for."}},
    },
)
_LISTED = re.compile(r"can use the following tools:\n(.*?)\n\n\*\*", re.DOTALL)
_ENTRY = re.compile(
    r"^\d+\. (?:Name: )?(?P<name>\w+)(?:\nDescription)?: (?P<text>.*?)\nParameters: (?P<parameters>\{.*?\})$",
    re.DOTALL | re.MULTILINE,
)


class Turn(Record):
    """One line of a dialogue."""

    role: Literal["User", "AI", "API"]
    text: str = ""
    api_name: str = ""
    param_dict: dict[str, Any] = {}
    """All values are text."""
    result: dict[str, Any] = {}
    """Of an API: what it gave stands under output."""


class PreparedCall(Record):
    """A call as ToolRL writes it."""

    name: str
    parameters: dict[str, Any]


class Prepared(Record):
    """One row of ToolRL's preparation."""

    system: str
    user: str
    answer: PreparedCall | tuple[PreparedCall]
    other: dict[str, Any]
    """Where it is from."""

    @property
    def call(self) -> PreparedCall:
        """The gold call."""
        return self.answer if isinstance(self.answer, PreparedCall) else self.answer[0]


_ROWS = TypeAdapter(list[Prepared])


def has_data(data: Path | None, category: str) -> bool:
    """Whether the files of a category seem to be there."""
    if category in PREPARED:
        return ((data or Path()) / PREPARED[category]).exists()
    return _dialogues(data, category).is_dir()


def files_of(data: Path | None, categories: Sequence[str]) -> list[Path]:
    """The files that the tasks of some categories come from; the descriptions of level 1's APIs always."""
    prepared = {*PREPARED} & {*categories, "toolrl-level-1"}
    dialogues = [_dialogues(data, category) for category in DIALOGUES if category in categories]
    return [
        *((data or Path()) / PREPARED[category] for category in sorted(prepared)),
        *(path for folder in dialogues for path in sorted(folder.glob("*.jsonl"))),
        *sorted((_root(data) / "apis").glob("*.py")),
    ]


def read_dialogues(data: Path | None, category: str) -> Iterator[tuple[str, list[Turn]]]:
    """Name and turns of each dialogue of a level, by name. One has no turns at all, as published.

    Raises:
        DataError: they are missing or not readable.
    """
    folder = _dialogues(data, category)
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder}: no dialogues of API-Bank; {_HOW_ORIGINAL}")
    for path in paths:
        try:
            yield path.stem, [Turn.model_validate_json(line) for line in _read(path).split("\n") if line.strip()]
        except ValidationError as error:
            raise DataError(f"{path}: not a dialogue of API-Bank: {describe(error)[:200]}; {_HOW_ORIGINAL}") from None


def read_prepared(data: Path | None, category: str) -> list[Prepared]:
    """ToolRL's rows.

    Raises:
        DataError: they are missing or not readable.
    """
    path = (data or Path()) / PREPARED[category]
    if not path.exists():
        raise DataError(f"{path}: no such file; {_HOW_PREPARED}{path.name}")
    try:
        return _ROWS.validate_json(_read(path))
    except ValidationError as error:
        raise DataError(
            f"{path}: not of ToolRL's API-Bank: {describe(error)[:200]}; {_HOW_PREPARED}{path.name}"
        ) from None


def read_catalogue(data: Path | None) -> dict[str, Tool]:
    """The APIs of level 1 by name: those of the official sources, which are read and not run, else ToolRL's listings.

    all_apis.csv does not serve: its parameters are an early draft, with other names than the dialogues have.

    Raises:
        DataError: there are neither, or they are not readable.
    """
    sources = sorted((_root(data) / "apis").glob("*.py"))
    if sources:
        return {tool.name: tool for path in sources for tool in _declared_tools(path)}
    try:
        rows = read_prepared(data, "toolrl-level-1")
    except DataError:
        raise DataError(f"{_root(data) / 'apis'}: no descriptions of API-Bank's APIs; {_HOW_ORIGINAL}") from None
    return {tool.name: tool for row in rows for tool in listed_tools(row.system)}


def found_tools(turns: Sequence[Turn]) -> tuple[Tool, ...]:
    """The tools of level 2 after some turns: the searcher, and what it has found.

    Raises:
        DataError: what it has found is no description of tools.
    """
    tools = {SEARCHER: _SEARCHER_TOOL}
    outputs: list[Any] = [turn.result.get("output") for turn in turns if turn.api_name == SEARCHER]
    for output in outputs:
        for spec in output if isinstance(output, list) else [output]:
            try:
                tools[spec["name"]] = _tool(spec["name"], spec["description"], spec["input_parameters"])
            except (KeyError, TypeError, AttributeError):
                raise DataError(f"API-Bank's {SEARCHER} has found what is no tool; {_HOW_ORIGINAL}") from None
    return tuple(tools.values())


def listed_tools(system: str) -> tuple[Tool, ...]:
    """The tools in the text of ToolRL's system message.

    Raises:
        DataError: it does not list them as known.
    """
    listed = _LISTED.search(system)
    tools: list[Tool] = []
    for entry in _ENTRY.finditer(listed[1] if listed else ""):
        try:
            parameters = ast.literal_eval(entry["parameters"])
            tools.append(_tool(entry["name"], entry["text"], parameters))
        except (SyntaxError, ValueError) as error:
            raise DataError(f"ToolRL's API-Bank: the tool {entry['name']} cannot be read: {error}") from None
    if not tools or len(tools) != system.count("\nParameters: "):
        raise DataError("ToolRL's API-Bank lists its tools in another way than is known here")
    return tuple(tools)


def _root(data: Path | None) -> Path:
    """Where the official folder api-bank is: as given, or as original below it."""
    data = data or Path()
    return data / "original" if (data / "original").is_dir() else data


def _dialogues(data: Path | None, category: str) -> Path:
    return _root(data) / "lv1-lv2-samples" / DIALOGUES[category]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _declared_tools(path: Path) -> Iterator[Tool]:
    """The API classes of an official source file."""
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not readable Python: {error}") from None
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields: dict[str, Any] = {}
        for line in node.body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                with suppress(ValueError):
                    fields[line.targets[0].id] = ast.literal_eval(line.value)
        if {"description", "input_parameters"} <= fields.keys():
            yield _tool(node.name, fields["description"], fields["input_parameters"])


def _tool(name: str, description: str, parameters: dict[str, Any]) -> Tool:
    """A tool of API-Bank. Which arguments may be left out it does not say, so its schema requires none."""
    schema = arguments_schema(parameters)
    return Tool(
        name=name,
        description=description,
        parameters={keyword: value for keyword, value in schema.items() if keyword != "required"},
    )
