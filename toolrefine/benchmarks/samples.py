"""A file of samples as a benchmark: answers are matched against the samples' targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from toolrefine.benchmarks.task import Figure, Task
from toolrefine.benchmarks.verdict import Verdict
from toolrefine.config import MatchingConfig, PromptConfig
from toolrefine.intervals import Accuracy
from toolrefine.matching import EXACT, score
from toolrefine.types import Completion, Sample

KINDS = ("single", "parallel", "no_call")


class SampleBenchmark:
    """Samples by the kind of their target; fulfils toolrefine.benchmarks.task.Benchmark."""

    not_run: Mapping[str, str] = {}

    def __init__(
        self, name: str, samples: Sequence[Sample], matching: MatchingConfig = EXACT, files: Sequence[Path] = ()
    ) -> None:
        self.name = name
        self.files = files
        self.matching = matching
        self.samples = {sample.id: sample for sample in samples}
        kinds = {sample.kind for sample in samples}
        self.categories = tuple(kind for kind in KINDS if kind in kinds)

    def prompt(self, config: PromptConfig) -> PromptConfig:
        """As asked for."""
        return config

    def load(self, category: str) -> Iterator[Task]:
        """The samples of a kind."""
        for sample in self.samples.values():
            if sample.kind == category:
                yield Task(
                    id=sample.id,
                    category=category,
                    messages=sample.messages,
                    tools=sample.tools,
                    gold=sample.target.model_dump(exclude_defaults=True),
                )

    def judge(self, task: Task, completion: Completion) -> Verdict:
        """By toolrefine.matching."""
        found = score(completion, self.samples[task.id], self.matching)
        return Verdict(valid=found.correct, error_type="" if found.correct else found.reason.value)

    def begin(self, task: Task) -> None:
        """Every sample is a task of one step."""
        return

    def wrong_golds(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """None: a target is right by definition."""
        return ()

    def summarize(
        self, accuracies: Mapping[str, Accuracy], counts: Mapping[str, Mapping[str, float]]
    ) -> tuple[Figure, ...]:
        """Nothing beyond the accuracies."""
        return ()
