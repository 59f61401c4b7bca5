"""Everything that is wrong or odd in a data set, with its place and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from toolrefine.config import Dataset, ToolworldDataset
from toolrefine.datasets import ReadRow, raw_rows, read_rows, source_of
from toolrefine.datasets.targets import find_violations
from toolrefine.errors import FormatError, RowError
from toolrefine.matching import MORE_PROPERTIES, canonical_key, schema_violation
from toolrefine.types import Message, Record, Sample, Tool, ViolationKind

_MAX_DEPTH = 64


class Finding(Record):
    """Something that is wrong with a row."""

    file: str
    line: int
    """From 1, also where there is no row; of a hub data set or a generator, the number of the row."""
    severity: Literal["error", "warning"]
    """error: the row is unusable, its target contradicts the schema of its tools, or there is no row at all."""
    code: str
    message: str
    mend: str
    """What to do about it."""


class _Problem(NamedTuple):
    code: str
    message: str
    mend: str


_UNREADABLE = (
    ("the row is not UTF-8", "not_utf_8", "Save the file as UTF-8."),
    ("the row is longer than", "too_long", "Split the row, or take out what is no text."),
    ("the row ", "not_json", "Write one JSON object a line, or a JSON list of objects."),
    ("no assistant turn to learn", "no_target", "Add the answer that is to be learnt as an assistant turn."),
)

_MEND: dict[ViolationKind, str] = {
    "unknown_tool": "Add the tool to the row, or correct the name.",
    "unknown_argument": "Take the argument out, or add it to the tool's properties.",
    "missing_argument": "Give the argument, or take it out of the tool's required.",
    "wrong_type": 'Write the value in the schema\'s type; invalid_targets = {wrong_type = "repair"} does what is safe.',
    "outside_enum": "Use a value of the schema's enum or const, or add this one to it.",
}


class Validation:
    """One pass over a data set."""

    def __init__(self, config: Dataset) -> None:
        self.num_samples = 0
        """Samples so far that have no error."""
        self.counts: Counter[str] = Counter()
        """Findings so far by severity."""
        self._config = config
        self._lines: dict[bytes, int] = {}

    def findings(self) -> Iterator[Finding]:
        """Every finding, in the order of the rows.

        Raises:
            DataError: the source cannot be used at all.
        """
        is_empty = True
        for line, _, samples, format_name in _read(self._config):
            is_empty = False
            if isinstance(samples, RowError):
                yield self._finding(line, "error", _unreadable(str(samples), format_name))
                continue
            for sample in samples:
                faults = find_violations(sample)
                self.num_samples += not faults
                for kind, violation in faults.items():
                    message = f"the target of sample {sample.id} is invalid: {violation}"
                    yield self._finding(line, "error", _Problem(kind, message, _MEND[kind]))
            # The samples of a row share its tools and turns.
            for problem in dict.fromkeys(self._oddities(samples, line)):
                yield self._finding(line, "warning", problem)
        if is_empty:
            mend = "Check what has written it: a download may have been cut off."
            yield self._finding(1, "error", _Problem("no_rows", "there are no rows", mend))

    def _finding(self, line: int, severity: Literal["error", "warning"], problem: _Problem) -> Finding:
        self.counts[severity] += 1
        return Finding(file=source_of(self._config), line=line, severity=severity, **problem._asdict())

    def _oddities(self, samples: Sequence[Sample], line: int) -> Iterator[_Problem]:
        row_id = samples[0].id
        first = self._lines.setdefault(blake2b(row_id.encode(), digest_size=8).digest(), line)
        if first != line:
            mend = "Give each row an id of its own; loading appends #2, #3 and so on."
            yield _Problem("duplicate_id", f"id {row_id!r} is that of line {first} too", mend)
        for sample in samples:
            yield from _turn_oddities(sample)
            for tool in sample.tools:
                yield from _tool_oddities(tool)


def _read(config: Dataset) -> Iterator[ReadRow]:
    """Each row; where the format cannot be told, those that have something else wrong with them."""
    try:
        yield from read_rows(config)
    except FormatError as error:  # then rows can at least be JSON or not
        if isinstance(config, ToolworldDataset):
            raise
        for number, row in enumerate(raw_rows(config)):
            if number == 0:
                yield ReadRow(row.line, row.text, RowError(str(error)), config.format)
            try:
                row.read()
            except RowError as fault:
                yield ReadRow(row.line, row.text, fault, config.format)


def _unreadable(message: str, format_name: str) -> _Problem:
    for start, code, mend in _UNREADABLE:
        if message.startswith(start):
            return _Problem(code, message, mend)
    if "its format is not" in message:
        return _Problem("unknown_format", message, "Name it with --format.")
    if "another tool has the name" in message:
        return _Problem("duplicate_tool", message, "Give the tools of a row different names.")
    return _Problem("bad_field", message, f"Give the field the form that it has in --format {format_name}.")


def _turn_oddities(sample: Sample) -> Iterator[_Problem]:
    if not any(message.role == "user" for message in sample.messages):
        yield _Problem("no_user_turn", "no turn is the user's", "Add the request that the target answers.")
    if not sample.tools and not sample.target.tool_calls:
        yield _Problem("no_tools", "there are no tools to choose from", "List the tools, or leave the row out.")
    repeated = Counter(canonical_key([call]) for call in sample.target.tool_calls)
    if repeated and max(repeated.values()) > 1:
        yield _Problem("repeated_call", "the target makes the same call twice", "Keep one of the equal calls.")
    open_calls: set[str] = set()
    for number, message in enumerate(sample.messages, 1):
        yield from _one_turn(number, message, sample, open_calls)


def _one_turn(number: int, message: Message, sample: Sample, open_calls: set[str]) -> Iterator[_Problem]:
    """What is odd about turn number; open_calls are the ids of the last assistant turn's calls."""
    match message.role:
        case "user" if not message.content.strip():
            yield _Problem("empty_user_turn", f"turn {number}, of the user, is empty", "Fill it in, or take it out.")
        case "assistant":
            open_calls.clear()
            open_calls.update(f"call_{index}" for index in range(len(message.tool_calls)))
            violation = schema_violation(message.tool_calls, sample.tools)
            if violation:
                mend = "Correct the call, or the schema of its tool: the model sees it as an example."
                yield _Problem("invalid_context_call", f"turn {number} is invalid: {violation}", mend)
        case "tool" if not open_calls or (message.tool_call_id is not None and message.tool_call_id not in open_calls):
            mend = "Put each result behind the assistant turn that makes the call, under the call's id."
            yield _Problem("orphan_result", f"turn {number} is the result of no call before it", mend)


def _tool_oddities(tool: Tool) -> Iterator[_Problem]:
    if not tool.description.strip():
        mend = "Say in a sentence what it does: the model has nothing else to choose by."
        yield _Problem("no_description", f"tool {tool.name!r} has no description", mend)
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        message = f"tool {tool.name!r}: the parameters are of type {kind!r}"
        yield _Problem("parameters_no_object", message, 'Describe the arguments as one {"type": "object", ...}.')
    yield from _schema_oddities(tool.parameters, f"tool {tool.name!r}", 0)


def _schema_oddities(schema: Any, where: str, depth: int) -> Iterator[_Problem]:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    for name in required if MORE_PROPERTIES.isdisjoint(schema) else []:
        if name not in properties:
            message = f"{where}: required parameter {name!r} is not among its properties"
            yield _Problem("unknown_required", message, "Add it to properties, or take it out of required.")
    for name, item in properties.items():
        yield from _schema_oddities(item, f"{where}, parameter {name!r}", depth + 1)
    yield from _schema_oddities(schema.get("items"), where, depth + 1)
