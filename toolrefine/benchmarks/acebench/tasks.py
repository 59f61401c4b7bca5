"""ACEBench's normal and special categories as tasks of one step; fulfils toolrefine.benchmarks.task.Benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolrefine.benchmarks.acebench.checker import check_normal, check_special
from toolrefine.benchmarks.acebench.data import AGENT, MULTI_TURN, NORMAL, SPECIAL, find_languages, read_pairs
from toolrefine.benchmarks.acebench.prompts import build_messages, gold_text
from toolrefine.benchmarks.acebench.summary import build_figures, count_turn
from toolrefine.benchmarks.gold_calls import as_completion
from toolrefine.benchmarks.task import Figure, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import PromptConfig
from toolrefine.errors import RequestError
from toolrefine.formats.base import after_thought
from toolrefine.intervals import Accuracy
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Completion, Outcome, Tool, ToolCall

_NOT_RUN = {
    "agent_multi_turn": "needs ACEBench's own environments, which are code and not in its data, and a simulated user",
    "agent_multi_step": "needs ACEBench's own environments, which are code and not in its data",
}


class AceBench:
    """ACEBench (arXiv 2501.12851) without its agent categories, in English and Chinese."""

    name = "acebench"

    def __init__(self, data: Path | None = None, categories: Sequence[str] = ()) -> None:
        """Find the data, and what of them is asked for.

        A category is called LANGUAGE/NAME, such as en/normal_atom_bool. Whole words of a name stand for all that have
        them, with or without a language: en, special, zh/normal, multi_turn.

        Raises:
            DataError: there are no data; says how to get them.
            RequestError: a category that does not exist or cannot be run.
        """
        self._folders = find_languages(data)
        self.files: Sequence[Path] = [
            path for folder in self._folders.values() for path in sorted(folder.rglob("*.json"))
        ]
        runnable, not_run = (
            [f"{language}/{name}" for language in self._folders for name in names]
            for names in ((*NORMAL, *SPECIAL), AGENT)
        )
        for wanted in categories:
            if not any(_is_meant(wanted, each) for each in runnable):
                for each in not_run:
                    if _is_meant(wanted, each):
                        raise RequestError(f"ACEBench's {each} cannot be run: {_NOT_RUN[_bare(each)]}")
                known = ", ".join(runnable)
                raise RequestError(f"ACEBench has no category {wanted!r}; there are {known}, and words of these names")

        def pick(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(
                each for each in names if not categories or any(_is_meant(wanted, each) for wanted in categories)
            )

        self.categories = pick(runnable)
        self.not_run: Mapping[str, str] = {each: _NOT_RUN[_bare(each)] for each in pick(not_run)}

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """As asked for: tools and calls go through the chat template or the system style."""
        return config

    def load(self, category: str) -> Iterator[Task]:
        """The tasks of a category.

        Raises:
            DataError: the data are missing or not readable.
        """
        language, name = category.split("/")
        for row, gold in read_pairs(self._folders[language], name):
            yield Task(
                id=f"{language}/{row['id']}",
                category=category,
                messages=build_messages(row, language, name),
                tools=_read_tools(row["function"]),
                gold=gold,
                facts={"functions": row["function"]},
            )

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """By the official rules: of a normal task the calls, of a special one the words, without the thought."""
        name = _bare(task.category)
        if name in SPECIAL:
            return check_special(after_thought(completion.text, ("[",)), task.gold, name)
        if completion.outcome is Outcome.CALLS:
            calls = [{call.name: call.arguments} for call in completion.calls]
            verdict = check_normal(task.facts["functions"], calls, task.gold, task.messages[-1].content, name)
        else:
            verdict = Verdict(valid=False, error_type="wrong_output_format")
        if name in MULTI_TURN:
            return verdict.model_copy(update={"counts": count_turn(task.id, valid=verdict.valid)})
        return verdict

    def begin(self, task: Task) -> None:
        """Every task is of one step: those of several turns bring the turns before theirs."""
        return

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Ids of tasks of which no gold answer is right by the official rules."""
        return tuple(task.id for task in tasks if not any(self.judge(task, gold).valid for gold in build_golds(task)))

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> tuple[Figure, ...]:
        """The official summary of each language; see toolrefine.benchmarks.acebench.summary."""
        return build_figures(accuracies, counts)


def build_golds(task: Task) -> Iterator[Completion]:
    """The gold answers of a task as a model would give them."""
    name = _bare(task.category)
    if name in SPECIAL:
        text = gold_text(task.gold, name)
        yield Completion(text=text, outcome=Outcome.NO_CALL, num_tokens=1, mean_logprob=None)
        return
    tools = {tool.name for tool in task.tools}
    for gold in task.gold if isinstance(task.gold, list) else [task.gold]:
        # The key of a call that is repeated ends in _1, _2, ...
        calls = tuple(
            ToolCall(name=key if key in tools else key.rpartition("_")[0], arguments=arguments)
            for key, arguments in gold.items()
        )
        yield as_completion(calls)


def _read_tools(functions: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools of a row; of two with one name the first, by which the official checker goes."""
    tools: dict[str, Tool] = {}
    for function in functions:
        parameters = function.get("parameters") or function.get("arguments") or {}
        tool = Tool(
            name=function["name"],
            description=function.get("description") or "",
            parameters=arguments_schema(parameters),
        )
        tools.setdefault(tool.name, tool)
    return tuple(tools.values())


def _is_meant(wanted: str, category: str) -> bool:
    """Whether a request means a category: by its language, by whole words of its name, or by both."""
    language, name = category.split("/")
    asked, slash, words = wanted.partition("/")
    if not slash:
        return wanted == language or f"_{wanted}_" in f"_{name}_"
    return asked == language and (not words or f"_{words}_" in f"_{name}_")


def _bare(category: str) -> str:
    """The name of a category without its language."""
    return category.partition("/")[2]
