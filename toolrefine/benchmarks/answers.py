"""What a model answered to the tasks of a benchmark, with the verdicts."""

from __future__ import annotations

from collections.abc import Iterator

from toolrefine.benchmarks.verdict import Verdict
from toolrefine.types import Completion, Message, Record, Refinement


class Answer(Record):
    """A task, answered and judged."""

    task_id: str
    category: str
    steps: tuple[Refinement, ...]
    """One for a task of one step; of an episode all, prompt_id saying which."""
    verdicts: tuple[Verdict, ...]
    """Of a task of one step that of the answer standing after each round; of an episode one."""
    transcript: tuple[Message, ...] = ()
    """Of an episode: all that was said."""

    @property
    def answered(self) -> bool:
        """Whether every step has an answer; one has none where its prompt leaves no room for it."""
        return not any(step.draft.had_no_room for step in self.steps)

    def listed(self, alone: Answer | None = None) -> Iterator[tuple[str, Completion, Verdict | None]]:
        """See Refinement.listed; of a task of one step. alone is its answer without refinement, where there is one."""
        (step,) = self.steps
        return step.listed(self.verdicts, (alone.steps[0].draft, alone.verdicts[0]) if alone else None)

    @property
    def num_calls(self) -> int:
        """Completions, drafts and refinement rounds alike, and scoring passes."""
        return sum(step.num_calls for step in self.steps)

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all completions."""
        return sum(step.num_tokens for step in self.steps)


class Samples(Record):
    """Several sampled completions of a task of one step, for votes."""

    task_id: str
    category: str
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    """Same length and order as completions."""
