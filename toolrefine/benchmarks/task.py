"""What a benchmark is: tasks in categories, the judging of answers, and the official summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import PromptConfig
from toolrefine.intervals import Accuracy
from toolrefine.types import Completion, Message, Prompt, Record, Tool

Mode = Literal["tools", "prompt"]
"""Tools through the model's chat template, or the benchmark's own prompt as text."""


class Task(Record):
    """One question of a benchmark."""

    id: str
    """Unique within the benchmark."""
    category: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    """Empty where the messages list them themselves."""
    gold: Any = None
    """What answers are judged by, as the benchmark has it."""
    facts: dict[str, Any] = {}
    """What else judging and export need, as the benchmark has it."""

    @property
    def prompt(self) -> Prompt:
        """What the model gets to see of a task of one step."""
        return Prompt(id=self.id, messages=self.messages, tools=self.tools)


class Figure(Record):
    """One line of a benchmark's summary."""

    name: str
    value: float | None
    """Between 0 and 1; None where a part that it needs was not run."""
    of: tuple[str, ...]
    """What it is computed from: categories, or other figures."""
    missing: tuple[str, ...] = ()
    """Those of them that were not run."""


class Episode(Protocol):
    """A task of several steps: an answer leads to the next prompt."""

    def next_prompt(self, answer: Completion | None) -> Prompt | None:
        """Take the answer to the last prompt, None at the start, and say what to ask next; None ends the episode.

        The id of each prompt is its own. Never raises, whatever the answer holds.
        """
        ...

    def verdict(self) -> Verdict:
        """The verdict on the whole, once there is no next prompt."""
        ...

    def transcript(self) -> Sequence[Message]:
        """What has been said so far."""
        ...


class Benchmark(Protocol):
    """A benchmark with its data at hand."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that will be run, in the benchmark's order."""
        ...

    @property
    def not_run(self) -> Mapping[str, str]:
        """Categories of the benchmark that cannot be run -> why."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """The local files that its tasks and their gold come from."""
        ...

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """How its conversations become prompts, given what the user asks for."""
        ...

    def load(self, category: str) -> Iterable[Task]:
        """The tasks of a category, in the benchmark's order.

        Raises:
            DataError: the data are missing or not readable.
        """
        ...

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """The official verdict on an answer to a task of one step; never raises, whatever the answer holds."""
        ...

    def begin(self, task: Task) -> Episode | None:
        """The episode of a task of several steps, fresh each time; None for a task of one step."""
        ...

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """Ids of tasks that not even their gold answer solves."""
        ...

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Figure]:
        """The official summary over the categories that were run, from their accuracies and summed Verdict.counts."""
        ...
