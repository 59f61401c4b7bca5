"""BFCL's multi-turn tasks: several user turns, each answered in steps whose calls are executed on simulated systems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from toolrefine.benchmarks.bfcl.data import HOW_TO_GET, BfclData
from toolrefine.benchmarks.bfcl.simulation import MODULES, Simulation, load_class, open_simulations
from toolrefine.benchmarks.bfcl.tasks import answer_text
from toolrefine.benchmarks.bfcl.turns import Step, calls_as_text, calls_in_text, judge_turns
from toolrefine.benchmarks.rows import read_rows
from toolrefine.benchmarks.task import Mode, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.errors import DataError
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Completion, Message, Prompt, Tool

_OWNER = "model"
"""Begins the names of instances, as the name of the model does in BFCL."""


class MultiTurnEpisode:
    """One multi-turn task being played; fulfils toolrefine.benchmarks.task.Episode.

    A turn ends with the first answer without calls. After more than MAXIMUM_STEP_LIMIT answers with calls in one turn
    the episode ends, which fails the task unless it was the last turn.

    In prompt mode the results of an answer's calls come back as one user message, as BFCL sends them to chat
    interfaces.
    """

    def __init__(self, task: Task, data: BfclData, mode: Mode) -> None:
        """Take a task; its systems are set up with the first call.

        Raises:
            DataError: the systems or BFCL's texts are missing.
        """
        for class_name in task.facts["involved_classes"]:
            load_class(data.root, class_name)
        self.task, self.root, self.mode = task, data.root, mode
        try:
            self.max_steps: int = data.prompts["MAXIMUM_STEP_LIMIT"]
            self.update_text: str = data.prompts["DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC"]
        except KeyError as error:
            raise DataError(f"{data.root}: another version of the prompts, without {error}") from None
        self.tools = list(task.tools)
        self.messages: list[Message] = []
        self.turns: list[list[Step]] = []
        self.num_steps = 0

    @cached_property
    def simulation(self) -> Simulation:
        """The systems that the calls change."""
        [simulation] = self._open(_OWNER)
        return simulation

    def next_prompt(self, answer: Completion | None) -> Prompt | None:
        """Take the answer to the last prompt, None at the start, and say what to ask next; never raises."""
        calls = () if answer is None else self._take(answer)
        if calls and self.num_steps > self.max_steps:
            return None
        if not calls and not self._begin_turn():
            return None
        return Prompt(
            id=f"{self.task.id}/turn-{len(self.turns) - 1}/step-{self.num_steps}",
            messages=tuple(self.messages),
            tools=tuple(self.tools),
        )

    def verdict(self) -> Verdict:
        """The verdict of BFCL's own evaluation, which executes all calls once more."""
        model, gold = self._open(f"{_OWNER}_eval", f"{_OWNER}_ground_truth_eval")
        return judge_turns(self.turns, self.task.gold, model, gold)

    def transcript(self) -> Sequence[Message]:
        """What has been said so far."""
        return tuple(self.messages)

    def _take(self, answer: Completion) -> Step:
        """Execute an answer's calls, and keep what was said."""
        text = answer_text(answer) if self.mode == "prompt" else answer.text
        calls = calls_in_text(text) if self.mode == "prompt" else calls_as_text(answer.calls)
        results = [self.simulation.execute(call) for call in calls]
        self.turns[-1].append(calls)
        self.num_steps += 1
        if self.mode == "prompt" or not calls:
            self.messages.append(Message(role="assistant", content=text))
        else:
            self.messages.append(Message(role="assistant", tool_calls=answer.calls))
        if calls and self.mode == "prompt":
            pairs = zip(calls, results, strict=True)
            content = repr([{"role": "tool", "name": call, "content": result} for call, result in pairs])
            self.messages.append(Message(role="user", content=content))
        else:
            self.messages += [
                Message(role="tool", content=result, tool_call_id=f"call_{place}")
                for place, result in enumerate(results)
            ]
        return calls

    def _begin_turn(self) -> bool:
        """Say what the user says next; False where that is nothing any more."""
        turn = len(self.turns)
        if turn >= len(self.task.facts["question"]):
            return False
        if turn == 0:
            self.messages += self.task.messages
        elif (held_out := self.task.facts["missed_function"].get(str(turn))) is not None:
            text = self.update_text
            if self.mode == "prompt":
                text = f"{held_out}\n{text}"
            else:
                self.tools += map(_tool, held_out)
            self.messages.append(Message(role="user", content=text))
        else:
            self.messages += _messages(self.task.facts["question"][turn])
        self.turns.append([])
        self.num_steps = 0
        return True

    def _open(self, *owners: str) -> tuple[Simulation, ...]:
        facts = self.task.facts
        owners = tuple(f"{owner}_{self.task.id}" for owner in owners)
        long_context = "long_context" in self.task.category
        return open_simulations(self.root, facts["involved_classes"], facts["initial_config"], long_context, owners)


def load_tasks(data: BfclData, category: str, mode: Mode) -> Iterator[Task]:
    """The tasks of a multi-turn category.

    Raises:
        DataError: the data are missing or not readable.
    """
    rows, golds = data.rows(category), data.golds(category)
    if len(golds) != len(rows):
        raise DataError(f"{data.root}: {len(golds)} answers for {len(rows)} questions of {category}")
    documents = {}
    for class_name, module in MODULES.items():
        load_class(data.root, class_name)  # what is missing is to be known before any work
        documents[class_name] = read_rows(data.root / "data" / "multi_turn_func_doc" / f"{module}.json", HOW_TO_GET)
    for row, gold in zip(rows, golds, strict=True):
        try:
            functions = [document for name in row["involved_classes"] for document in documents[name]]
            held_out = {
                turn: [_take_out(functions, name) for name in names]
                for turn, names in row.get("missed_function", {}).items()
            }
            functions = data.documents(functions, "python")
            messages = _messages(row["question"][0])
            if mode == "prompt":
                messages.insert(0, Message(role="system", content=data.system_prompt(functions)))
            yield Task(
                id=row["id"],
                category=category,
                messages=tuple(messages),
                tools=() if mode == "prompt" else tuple(map(_tool, functions)),
                gold=gold,
                facts={
                    "question": row["question"],
                    "involved_classes": row["involved_classes"],
                    "initial_config": row["initial_config"],
                    "missed_function": held_out,
                },
            )
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{data.root}: {category}: {row.get('id')}: {type(error).__name__} {error}") from None


def begin(task: Task, data: BfclData, mode: Mode) -> MultiTurnEpisode:
    """A fresh episode of a task.

    Raises:
        DataError: the simulated systems or BFCL's texts are missing.
    """
    return MultiTurnEpisode(task, data, mode)


def _messages(turn: Sequence[dict[str, Any]]) -> list[Message]:
    return [Message(role=message["role"], content=message["content"]) for message in turn]


def _tool(document: dict[str, Any]) -> Tool:
    parameters = arguments_schema(document["parameters"])
    return Tool(name=document["name"], description=document["description"], parameters=parameters)


def _take_out(functions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Remove the first function of a name.

    Raises:
        LookupError: there is none.
    """
    place = [function["name"] for function in functions].index(name)
    return functions.pop(place)
