"""API-Bank (arXiv 2304.08244): which call comes next in a dialogue.

Two preparations, whose figures are not comparable:

- level-1 and level-2: every call of the original dialogues is a task. Level 1 shows the APIs that the dialogue calls;
  level 2 shows the tool searcher, and from then on what it has found.
- toolrl-level-1, -2 and -3: the prompts of ToolRL (arXiv 2504.13958), the dialogue as text in one user turn. With tools
  through the chat template, or in prompt mode with ToolRL's system message word for word.

Calls are compared, not executed, so the official score is not reproduced; docs/apibank.md says what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from toolrefine.benchmarks.apibank.data import (
    DIALOGUES,
    HOW_TO_GET,
    PREPARED,
    SEARCHER,
    Turn,
    files_of,
    found_tools,
    has_data,
    listed_tools,
    read_catalogue,
    read_dialogues,
    read_prepared,
)
from toolrefine.benchmarks.gold_calls import as_completion, as_declared, choose_categories, is_out_of_reach
from toolrefine.benchmarks.task import Figure, Mode, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import MatchingConfig, PromptConfig
from toolrefine.errors import DataError
from toolrefine.formats.base import parse_answer
from toolrefine.formats.hermes import CLOSE, OPEN
from toolrefine.formats.json_object import read_call, skip_blanks
from toolrefine.intervals import Accuracy
from toolrefine.matching import score
from toolrefine.types import Completion, Message, Outcome, Sample, Tool, ToolCall

INSTRUCTIONS = "It is the year 2023. Make the one tool call that the conversation needs next, and nothing else."
"""Dates without a year are of 2023; API-Bank's own prompt says both too."""

GO_ON = "Go on with the next tool call."
"""Where the assistant spoke last: most chat templates do not let it speak twice."""

LENIENT = MatchingConfig(strings="bfcl")


class ApiBank:
    """Fulfils toolrefine.benchmarks.task.Benchmark."""

    name = "apibank"

    def __init__(self, data: Path | None, mode: Mode = "tools", categories: Sequence[str] = ()) -> None:
        """Take the folder with lv1-lv2-samples, or original/lv1-lv2-samples, and toolrl_level1.json and so on.

        Where no categories are asked for, those without files are not run.

        Raises:
            RequestError: an unknown category.
        """
        self.data = data
        self.mode = mode
        known = (*DIALOGUES, *PREPARED)
        found = [category for category in known if has_data(data, category)]
        self.categories = choose_categories(categories or found, known, self.name)
        self.files: Sequence[Path] = files_of(data, self.categories)
        self.not_run: Mapping[str, str] = {
            category: f"no files; {HOW_TO_GET[category]}"
            for category in known
            if not categories and category not in self.categories
        }

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """As asked for; in prompt mode without the tools of the chat template."""
        return config.model_copy(update={"style": "system"}) if self.mode == "prompt" else config

    def load(self, category: str) -> Iterator[Task]:
        """The tasks of a category: dialogues by name, their calls in order; ToolRL's rows in order.

        Raises:
            DataError: the data are missing or not readable.
        """
        return self._prepared(category) if category in PREPARED else self._original(category)

    def _original(self, category: str) -> Iterator[Task]:
        catalogue = read_catalogue(self.data) if category == "level-1" else {}
        for name, turns in read_dialogues(self.data, category):
            # In the order of their names, since that of the calls would give them away.
            called = sorted({turn.api_name for turn in turns if turn.role == "API"})
            places = [place for place, turn in enumerate(turns) if turn.role == "API"]
            for number, place in enumerate(places):
                if category == "level-2":
                    tools = found_tools(turns[:place])
                elif missing := [api for api in called if api not in catalogue]:
                    raise DataError(f"{name}: no description of {missing[0]} beside the dialogues")
                else:
                    tools = tuple(catalogue[api] for api in called)
                yield Task(
                    id=f"{category}/{name}/{number}",
                    category=category,
                    messages=_messages(turns[:place], tools),
                    tools=tools,
                    gold=_call(turns[place], tools).model_dump(),
                )

    def _prepared(self, category: str) -> Iterator[Task]:
        for number, row in enumerate(read_prepared(self.data, category)):
            tools = listed_tools(row.system)
            gold = ToolCall(name=row.call.name, arguments=row.call.parameters)
            question = Message(role="user", content=row.user)
            as_text = (Message(role="system", content=row.system), question)
            yield Task(
                id=f"{category}/{number}",
                category=category,
                messages=as_text if self.mode == "prompt" else (question,),
                tools=() if self.mode == "prompt" else tools,
                gold=as_declared([gold], tools)[0].model_dump(),
                facts={"from": row.other}
                | ({"tools": [tool.model_dump() for tool in tools]} if self.mode == "prompt" else {}),
            )

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """Right is the one gold call and no other: the same name, the same arguments, equal values.

        Text counts as the value that it stands for where the tool declares another type, as in API-Bank's own calls.
        """
        tools = _tools(task)
        if not task.tools and completion.outcome is not Outcome.CALLS:
            completion = read_toolrl(completion)
        calls = as_declared(completion.calls, tools)
        completion = completion.model_copy(update={"calls": calls})
        gold = ToolCall.model_validate(task.gold)
        sample = Sample(
            id=task.id, messages=(), tools=(), target=Message(role="assistant", tool_calls=as_declared([gold], tools))
        )
        found = score(completion, sample)
        names = completion.outcome is Outcome.CALLS and [call.name for call in calls] == [gold.name]
        search = gold.name == SEARCHER
        words = search and names and "keywords" in calls[0].arguments
        return Verdict(
            valid=found.correct,
            error_type="" if found.correct else found.reason.value,
            counts={
                "name": names,
                "lenient": words or score(completion, sample, LENIENT).correct,
                "searches": search,
                "right_searches": search and found.correct,
            },
        )

    def begin(self, task: Task) -> None:
        """Every call is a task of one step."""
        return

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Tasks whose gold calls a tool, or names an argument, that the prompt does not have."""
        golds = [(task, ToolCall.model_validate(task.gold)) for task in tasks]
        return tuple(
            task.id
            for task, gold in golds
            if is_out_of_reach([gold], _tools(task)) or not self.judge(task, as_completion([gold])).valid
        )

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> tuple[Figure, ...]:
        """Two milder rules a category, level 2 without its searches, and all of ToolRL's calls together."""
        figures: list[Figure] = []
        for category in self.categories:
            if category not in accuracies:
                continue
            found, n, right = counts[category], accuracies[category].n, accuracies[category].correct
            figures.append(_figure(f"{category}, lenient", found["lenient"], n, category))
            figures.append(_figure(f"{category}, name only", found["name"], n, category))
            if category == "level-2":
                others = n - found["searches"]
                figures.append(
                    _figure(f"{category} without {SEARCHER}", right - found["right_searches"], others, category)
                )
        prepared = [accuracies[category] for category in PREPARED if category in accuracies]
        if prepared:
            missing = tuple(category for category in PREPARED if category not in accuracies)
            share = sum(each.correct for each in prepared) / sum(each.n for each in prepared)
            figures.append(
                Figure(name="toolrl, all calls", value=None if missing else share, of=tuple(PREPARED), missing=missing)
            )
        return tuple(figures)


def read_toolrl(completion: Completion) -> Completion:
    """A completion to ToolRL's system message: one <tool_call> block with an object a line, name and parameters."""

    def read(text: str, calls: list[ToolCall]) -> Outcome:
        start = text.find(OPEN)
        if start < 0:
            return Outcome.NO_CALL
        position = skip_blanks(text, start + len(OPEN))
        while not text.startswith(CLOSE, position):
            call, position = read_call(text, position, ("parameters", "arguments"))
            calls.append(call)
            position = skip_blanks(text, position)
        return Outcome.CALLS if calls else Outcome.NO_CALL

    parsed = parse_answer(completion.text, (OPEN,), read, completion.outcome is Outcome.TRUNCATED)
    return completion.model_copy(update={"calls": parsed.calls, "outcome": parsed.outcome})


def _tools(task: Task) -> tuple[Tool, ...]:
    """The tools of a task, though they may stand in its messages as text."""
    return task.tools or tuple(Tool.model_validate(tool) for tool in task.facts["tools"])


def _messages(turns: Sequence[Turn], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """A dialogue as a chat in which the assistant is to speak next."""
    messages = [Message(role="system", content=INSTRUCTIONS)]
    for turn in turns:
        said = messages.pop().content if turn.role != "User" and _is_text(messages[-1]) else ""
        match turn.role:
            case "User":
                messages.append(Message(role="user", content=turn.text))
            case "AI":
                messages.append(Message(role="assistant", content="\n".join(filter(None, (said, turn.text)))))
            case _:
                output = turn.result.get("output")
                text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
                messages.append(Message(role="assistant", content=said, tool_calls=(_call(turn, tools),)))
                messages.append(Message(role="tool", content=text, tool_call_id="call_0"))
    if _is_text(messages[-1]):
        messages.append(Message(role="user", content=GO_ON))
    return tuple(messages)


def _is_text(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls


def _call(turn: Turn, tools: Sequence[Tool]) -> ToolCall:
    return as_declared([ToolCall(name=turn.api_name, arguments=turn.param_dict)], tools)[0]


def _figure(name: str, part: float, n: float, category: str) -> Figure:
    return Figure(name=name, value=part / n if n else None, of=(category,))
