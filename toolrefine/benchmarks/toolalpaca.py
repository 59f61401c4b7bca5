"""ToolAlpaca (arXiv 2306.05301): its evaluation sets on real and on simulated APIs, without a judge model.

The official score lets GPT-4 judge the steps and the last reply of an agent whose calls are executed. Here a request is
answered once and its calls are compared with the golden steps that can be made at once:

- A step with the result of another one, such as ${animeId from searchAnime}, is left out; so is an optional one.
- getDetails stands for asking the user. Nothing comes after it, so the right answer calls no tool.
- A value that gold leaves open, such as ${start date}, may be any, but must be there.
- Keys of an API, its Authentication, are what its caller adds: they are no arguments here.
- An empty text is an argument left out.

docs/toolalpaca.md says how many steps that concerns.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from toolrefine.benchmarks.gold_calls import as_completion, as_declared, choose_categories, is_out_of_reach
from toolrefine.benchmarks.task import Figure, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import MatchingConfig, PromptConfig, describe
from toolrefine.errors import DataError
from toolrefine.intervals import Accuracy
from toolrefine.json_schema import python_type
from toolrefine.matching import canonical_key, score
from toolrefine.types import Completion, Message, Outcome, Record, Sample, Tool, ToolCall

ANY = "${}"
"""In gold: whatever the model gives."""

LENIENT = MatchingConfig(strings="bfcl")
PARTS = ("name", "parameter")

_FILES = {"real": "eval_real.json", "simulated": "eval_simulated.json"}
_HOW = "give the folder data of https://github.com/tangqiaoyu/ToolAlpaca as --data"
_ASK = "getDetails"
_OPTIONAL = "[Optional]"
_DESCRIPTION = re.compile(
    r"(?P<text>.*?)\s*^Parameters: (?P<parameters>\{.*?\})\s*(?:^Output:.*)?", re.DOTALL | re.MULTILINE
)
_PARAMETER = re.compile(r"(?P<required>Required\. )?(?P<type>\w+(?:\[\w+\])?)\.?\s*(?P<text>.*)", re.DOTALL)
_CHOICES = re.compile(r"One of: \[([^\]]*)\]")
_OPEN = re.compile(r'"?\$\{(?P<what>[^{}",]*)\}?"?')
_OPEN_TEXT = re.compile(r"\$?\{[^{}]*\}")
_DOUBLED_KEY = re.compile(r'("\w+":\s*)\1')


class Step(Record):
    """One step of a golden answer."""

    action: str = Field(alias="Action")
    """A function."""
    action_input: str = Field(alias="Action_Input")
    """Its arguments as JSON, but for values that are left open."""


class Api(Record, extra="ignore"):
    """An API with the requests to it."""

    name: str = Field(alias="Name")
    authentication: dict[str, Any] | None = Field(alias="Authentication", default=None)
    """What its caller adds to each call."""
    functions: dict[str, str] = Field(alias="Function_Description")
    """With the formats of results under components."""
    instructions: tuple[str, ...] = Field(alias="Instructions")
    golden_answers: tuple[tuple[Step, ...], ...] = Field(alias="Golden_Answers")


_APIS = TypeAdapter(list[Api])


class ToolAlpaca:
    """Fulfils toolrefine.benchmarks.task.Benchmark."""

    name = "toolalpaca"
    not_run: Mapping[str, str] = {}

    def __init__(self, data: Path | None, categories: Sequence[str] = ()) -> None:
        """Take the folder with eval_real.json and eval_simulated.json.

        Raises:
            RequestError: an unknown category.
        """
        self.data = data
        self.categories = choose_categories(categories, tuple(_FILES), self.name)
        self.files: Sequence[Path] = [(data or Path()) / _FILES[category] for category in self.categories]

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """As asked for."""
        return config

    def load(self, category: str) -> Iterator[Task]:
        """The requests of a set, API by API.

        Raises:
            DataError: the data are missing or not readable.
        """
        path = (self.data or Path()) / _FILES[category]
        for api in _read(path):
            keys = frozenset(api.authentication or ())
            functions = [item for item in api.functions.items() if item[0] != "components"]
            tools = tuple(_tool(name, text, keys, path) for name, text in functions)
            if len(api.instructions) != len(api.golden_answers):
                raise DataError(f"{path}: {api.name} has not as many golden answers as requests; {_HOW}")
            for number, (request, steps) in enumerate(zip(api.instructions, api.golden_answers, strict=True)):
                gold = as_declared(_gold_calls(steps, keys, f"{path}: {api.name}, request {number}"), tools)
                yield Task(
                    id=f"{category}/{api.name}/{number}",
                    category=category,
                    messages=(Message(role="user", content=request),),
                    tools=tools,
                    gold=[call.model_dump() for call in gold],
                    facts={"keys": sorted(keys), "golden_answer": [step.model_dump(by_alias=True) for step in steps]},
                )

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """Right are gold's calls in any order and no other; counts hold the parts of both F1 scores."""
        gold = [ToolCall.model_validate(call) for call in task.gold]
        calls = _comparable(as_declared(completion.calls, task.tools), gold, task.facts["keys"])
        completion = completion.model_copy(update={"calls": tuple(calls)})
        sample = Sample(id=task.id, messages=(), tools=(), target=Message(role="assistant", tool_calls=tuple(gold)))
        found = score(completion, sample)
        read = calls if completion.outcome is Outcome.CALLS else []
        counts = {"lenient": float(score(completion, sample, LENIENT).correct)}
        for part, ours, theirs in zip(PARTS, _parts(read), _parts(gold), strict=True):
            counts[f"{part}_right"] = (ours & theirs).total()
            counts[f"{part}_given"] = ours.total()
            counts[f"{part}_gold"] = theirs.total()
        return Verdict(valid=found.correct, error_type="" if found.correct else found.reason.value, counts=counts)

    def begin(self, task: Task) -> None:
        """Every request is a task of one step."""
        return

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Requests whose gold calls a function, or names an argument, that the API does not have."""
        golds = [(task, [ToolCall.model_validate(call) for call in task.gold]) for task in tasks]
        return tuple(
            task.id
            for task, gold in golds
            if is_out_of_reach(gold, task.tools) or not self.judge(task, as_completion(gold)).valid
        )

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> tuple[Figure, ...]:
        """For each set name F1, parameter F1, and all calls right with strings compared like BFCL's."""
        figures = []
        for category in self.categories:
            if category not in accuracies:
                continue
            found = counts[category]
            for part in PARTS:
                all_parts = found[f"{part}_given"] + found[f"{part}_gold"]
                f1 = 2 * found[f"{part}_right"] / all_parts if all_parts else None
                figures.append(Figure(name=f"{category}, {part} F1", value=f1, of=(category,)))
            share = found["lenient"] / accuracies[category].n
            figures.append(Figure(name=f"{category}, lenient", value=share, of=(category,)))
        return tuple(figures)


def _read(path: Path) -> list[Api]:
    try:
        return _APIS.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {_HOW}") from None
    except ValidationError as error:
        raise DataError(f"{path}: not of ToolAlpaca: {describe(error)[:200]}; {_HOW}") from None


def _tool(name: str, description: str, keys: frozenset[str], path: Path) -> Tool:
    """A function, of its description in words: what it does, its parameters as JSON, what comes out."""
    found = _DESCRIPTION.fullmatch(description.strip())
    try:
        parameters = json.loads(found["parameters"] if found else "")
    except ValueError:
        raise DataError(f"{path}: the description of {name} cannot be read; {_HOW}") from None
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter, text in parameters.items():
        words = _PARAMETER.match(text)
        if words is None or parameter in keys:
            continue
        properties[parameter] = python_type(words["type"]) | {"description": words["text"].strip()}
        if choices := _CHOICES.search(words["text"]):
            properties[parameter]["enum"] = choices[1].split(", ")
        if words["required"]:
            required.append(parameter)
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name=name, description=found["text"] if found else "", parameters=schema)


def _gold_calls(steps: Sequence[Step], keys: frozenset[str], where: str) -> list[ToolCall]:
    """The steps that can be made at once, as calls."""
    calls = []
    for step in steps:
        if step.action == _ASK:
            break
        depends = any(" from " in found["what"] for found in _OPEN.finditer(step.action_input))
        if depends or step.action.startswith(_OPTIONAL):
            continue
        # As published, some inputs say a key twice, and quotes of open values do not pair up.
        text = _DOUBLED_KEY.sub(r"\1", _OPEN.sub(json.dumps(ANY), step.action_input))
        try:
            arguments = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: its golden answer cannot be read: {error}; {_HOW}") from None
        calls.append(
            ToolCall(
                name=step.action,
                arguments={
                    name: ANY if _is_open(value) else value
                    for name, value in arguments.items()
                    if name not in keys and value != ""
                },
            )
        )
    return calls


def _is_open(value: Any) -> bool:
    """Whether gold leaves a value open, or a part of it."""
    match value:
        case str():
            return bool(_OPEN_TEXT.fullmatch(value))
        case list():
            return any(map(_is_open, value))
        case dict():
            return any(map(_is_open, value.values()))
        case _:
            return False


def _comparable(calls: Sequence[ToolCall], gold: Sequence[ToolCall], keys: Sequence[str]) -> list[ToolCall]:
    """Calls of a model without keys and empty texts, and with ANY for what gold leaves open."""
    is_open = {(call.name, name) for call in gold for name, value in call.arguments.items() if value == ANY}
    return [
        ToolCall.model_construct(
            name=call.name,
            arguments={
                name: ANY if (call.name, name) in is_open else value
                for name, value in call.arguments.items()
                if name not in keys and value != ""
            },
        )
        for call in calls
    ]


def _parts(calls: Sequence[ToolCall]) -> tuple[Counter[str], Counter[str]]:
    """What the F1 scores count, with repetitions: names of calls; arguments with the call's name and the value."""
    arguments = [
        ToolCall.model_construct(name=call.name, arguments={name: value})
        for call in calls
        for name, value in call.arguments.items()
    ]
    return Counter(call.name for call in calls), Counter(canonical_key([argument]) for argument in arguments)
