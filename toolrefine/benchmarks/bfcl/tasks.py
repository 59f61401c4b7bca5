"""BFCL as a benchmark: questions, official prompts, verdicts and summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolrefine.benchmarks.bfcl.checker import check_calls, language_of
from toolrefine.benchmarks.bfcl.data import BfclData, find_bfcl
from toolrefine.benchmarks.bfcl.decode import Call, DecodeError, decode_response
from toolrefine.benchmarks.bfcl.golds import gold_calls, gold_text
from toolrefine.benchmarks.bfcl.summary import LIVE, MULTI_TURN, NON_LIVE, summarize
from toolrefine.benchmarks.task import Episode, Figure, Mode, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import PromptConfig
from toolrefine.errors import DataError, RequestError
from toolrefine.formats.base import THOUGHT_CLOSE
from toolrefine.intervals import Accuracy
from toolrefine.json_schema import arguments_schema
from toolrefine.types import Completion, Message, Outcome, Tool, ToolCall

CATEGORIES = (*NON_LIVE, *LIVE, *MULTI_TURN)
GROUPS = {
    "non_live": NON_LIVE,
    "live": LIVE,
    "single_turn": (*NON_LIVE, *LIVE),
    "multi_turn": MULTI_TURN,
    "all": CATEGORIES,
}
"""BFCL's own names for several categories."""

_MEMORY = "needs BFCL's memory stores, filled by conversations that go before"
_WEB_SEARCH = "needs the live web and a paid search service"
NOT_RUN = {
    "memory_kv": _MEMORY,
    "memory_vector": _MEMORY,
    "memory_rec_sum": _MEMORY,
    "web_search_base": _WEB_SEARCH,
    "web_search_no_snippet": _WEB_SEARCH,
    "format_sensitivity": "asks the same questions in 26 prompt formats, and counts for no figure",
}


class Bfcl:
    """The Berkeley Function Calling Leaderboard; fulfils toolrefine.benchmarks.task.Benchmark."""

    name = "bfcl"
    not_run: Mapping[str, str] = NOT_RUN

    def __init__(self, *, data: Path | None = None, mode: Mode = "tools", categories: Sequence[str] = ()) -> None:
        """Find the data, and make sure of the categories: names of them or of GROUPS, all where there are none.

        Raises:
            DataError: the data are missing; says how to get them.
            RequestError: a category that cannot be run.
        """
        for name in categories:
            if name in NOT_RUN:
                raise RequestError(f"BFCL's category {name} cannot be run: it {NOT_RUN[name]}")
            if name not in CATEGORIES and name not in GROUPS:
                raise RequestError(f"BFCL has no category {name!r}; it has {', '.join((*CATEGORIES, *GROUPS))}")
        chosen = {category for name in categories or ("all",) for category in GROUPS.get(name, (name,))}
        self.categories = tuple(category for category in CATEGORIES if category in chosen)
        self.mode: Mode = mode
        self.data: BfclData = find_bfcl(data)
        self.files: Sequence[Path] = sorted((self.data.root / "data").rglob("*.json"))

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """The conversation as it is in prompt mode, whose prompts list the tools themselves."""
        return config.model_copy(update={"style": "system", "format": "pythonic"}) if self.mode == "prompt" else config

    def load(self, category: str) -> Iterable[Task]:
        """The tasks of a category.

        Raises:
            DataError: the data are missing or not readable.
            RequestError: Java and JavaScript need packages that are not installed.
        """
        if category in MULTI_TURN:
            from toolrefine.benchmarks.bfcl import multi_turn

            return multi_turn.load_tasks(self.data, category, self.mode)
        return self._load(category)

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """The verdict of BFCL's own evaluation."""
        try:
            calls = self._calls(task, completion)
        except DecodeError as error:
            calls, error_type = [], error.error_type
        else:
            error_type = ""
        if task.category.endswith("irrelevance"):
            return Verdict(valid=not calls, error_type="irrelevance_error:decoder_success" if calls else "")
        if task.category.endswith("relevance"):
            return Verdict(valid=bool(calls), error_type="" if calls else "relevance_error:decoder_failed")
        if error_type:
            return Verdict(valid=False, error_type=error_type)
        return check_calls(
            task.facts["functions"], calls, task.gold, task.category, underscore_to_dot=self.mode == "tools"
        )

    def begin(self, task: Task) -> Episode | None:
        """An episode of several turns."""
        if task.category not in MULTI_TURN:
            return None
        from toolrefine.benchmarks.bfcl import multi_turn

        return multi_turn.begin(task, self.data, self.mode)

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Ids of single-turn tasks that their own gold calls do not solve."""
        return tuple(
            task.id
            for task in tasks
            if task.category not in MULTI_TURN and task.gold is not None and not self.judge(task, self.gold(task)).valid
        )

    def gold(self, task: Task) -> Completion:
        """The gold calls of a single-turn task as a model would give them."""
        rendered = task.facts["functions"], task.gold, language_of(task.category)
        if self.mode == "prompt":
            return Completion(text=gold_text(*rendered), outcome=Outcome.CALLS, num_tokens=1, mean_logprob=None)
        calls = [
            ToolCall(name=_tool_name(name), arguments=arguments)
            for call in gold_calls(*rendered)
            for name, arguments in call.items()
        ]
        return Completion(text="", calls=tuple(calls), outcome=Outcome.CALLS, num_tokens=1, mean_logprob=None)

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Figure]:
        """The leaderboard's figures."""
        return summarize(accuracies)

    def _load(self, category: str) -> Iterator[Task]:
        rows, language = self.data.rows(category), language_of(category)
        golds = [None] * len(rows) if category.endswith("relevance") else self.data.golds(category)
        if len(golds) != len(rows):
            raise DataError(f"{self.data.root}: {len(golds)} answers for {len(rows)} questions of {category}")
        if self.mode == "prompt":
            _check_decoder(category)
        for row, gold in zip(rows, golds, strict=True):
            try:
                _check_gold(row["function"], gold)
                documents = self.data.documents(row["function"], language)
                messages = [Message(role=turn["role"], content=turn["content"]) for turn in row["question"][0]]
                in_prompt = self.mode == "prompt"
                yield Task(
                    id=row["id"],
                    category=category,
                    messages=tuple(self._with_system_prompt(messages, documents) if in_prompt else messages),
                    tools=() if in_prompt else tuple(map(_tool, documents)),
                    gold=gold,
                    facts={"functions": row["function"]},
                )
            except (LookupError, TypeError, ValueError) as error:
                raise DataError(
                    f"{self.data.root}: {category}: {row.get('id')}: {type(error).__name__} {error}"
                ) from None

    def _with_system_prompt(self, messages: list[Message], documents: Sequence[dict[str, Any]]) -> list[Message]:
        text = self.data.system_prompt(documents)
        if messages[0].role == "system":
            return [Message(role="system", content=f"{text}\n\n{messages[0].content}"), *messages[1:]]
        return [Message(role="system", content=text), *messages]

    def _calls(self, task: Task, completion: Completion) -> list[Call]:
        """The calls of a completion.

        Raises:
            DecodeError: there are none to be read.
        """
        if self.mode == "prompt":
            return decode_response(answer_text(completion), language_of(task.category))
        if completion.text and not completion.calls:
            raise DecodeError("text without calls")
        return [{call.name: call.arguments} for call in completion.calls]


def answer_text(completion: Completion) -> str:
    """The text of an answer without the thought before it, as BFCL's handlers of thinking models leave it."""
    text = completion.text
    if THOUGHT_CLOSE not in text or text.lstrip("`\n ").startswith("["):
        return text
    return text.rpartition(THOUGHT_CLOSE)[2].lstrip("\n")


def _tool(document: Mapping[str, Any]) -> Tool:
    name = _tool_name(document["name"])
    return Tool(name=name, description=document["description"], parameters=arguments_schema(document["parameters"]))


def _tool_name(name: str) -> str:
    """A name as the interfaces of tools allow it."""
    return name.replace(".", "_")


def _check_gold(functions: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]] | None) -> None:
    """Make sure that answers can be judged.

    Raises:
        LookupError: a document without parameters, no gold calls, or one of another function.
    """
    known = {function["name"]: function["parameters"]["properties"] for function in functions}
    if gold is not None and not [known[name] for call in gold for name in call]:
        raise LookupError("no gold calls")


def _check_decoder(category: str) -> None:
    """Make sure, before any work, that answers can be read.

    Raises:
        RequestError: they cannot.
    """
    try:
        decode_response("[f(a=1)]", language_of(category))
    except DecodeError:
        return
