"""Engines: what samples completions. One file a kind; heavy libraries are imported on use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pydantic import Field

from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.types import Checkpoint, Completion, Message, Outcome, Prompt, Record

__all__ = ["NO_ROOM", "Accept", "Engine", "Follow", "SamplingParams", "open_engine", "wave_sizes"]

Accept = Callable[[int, int, Completion], bool]
"""Place of a prompt, index of a completion, the completion -> whether it solves the prompt."""

Follow = Callable[[int, Sequence[Completion]], Prompt | None]
"""Place of a prompt, the completions of its chain so far -> what to ask next, or None to end."""


NO_ROOM = Completion(text="", outcome=Outcome.TRUNCATED, num_tokens=0, mean_logprob=0.0)
"""What a prompt gives that leaves no room for an answer in the model's context."""


class SamplingParams(Record):
    """How to sample."""

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=512, ge=1)
    seed: int = 0
    """With prompt id and completion index the whole source of randomness."""
    constrain: bool = False
    """As engine.constrain, for these samples alone."""


class Engine(Protocol):
    """Samples completions from one model."""

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """N completions of each prompt, in the order of the prompts.

        With accept, completions may be sampled in waves of wave_sizes(n): a prompt then ends with the first wave that
        holds an accepted one, and has fewer. Completion i is the same either way.

        Raises:
            ConfigError: params.constrain is set, and this engine cannot constrain answers.
        """
        ...

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """A completion of each prompt, then of what follow asks next, and so on: each prompt at its own pace."""
        ...

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """The summed natural log-probability at temperature 1 of each answer behind the prompt in its place.

        That of a completion's text as the tokenizer splits it, and of the end of the turn unless it was cut off, or
        that of an assistant turn as it is trained on (see toolrefine.engines.scoring). Minus infinity where both do not
        fit into the model's context, and where the chat template cannot write the turn.

        Raises:
            RequestError: a server does not tell.
        """
        ...

    def forget(self) -> None:
        """Drop what is remembered of calls for the case that they fail: their answers are kept elsewhere by now."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...


class LazyEngine:
    """Loads the model at the first prompt: a resumed run that has every answer needs none."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, prompt: PromptConfig) -> None:
        self.checkpoint, self.config, self.prompt = checkpoint, config, prompt
        self.engine: Engine | None = None

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """See Engine."""
        return self._loaded().sample(prompts, n, params, accept)

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """See Engine."""
        return self._loaded().chain(prompts, params, follow)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """See Engine."""
        return self._loaded().score(prompts, answers)

    def forget(self) -> None:
        """See Engine."""
        if self.engine is not None:
            self.engine.forget()

    def close(self) -> None:
        """See Engine."""
        if self.engine is not None:
            self.engine.close()

    def _loaded(self) -> Engine:
        if self.engine is None:
            self.engine = self._load()
        return self.engine

    def _load(self) -> Engine:
        if self.config.kind == "openai":
            from toolrefine.engines.openai import OpenAIEngine

            return OpenAIEngine.load(self.checkpoint, self.config, self.prompt)
        from toolrefine.engines.transformers import TransformersEngine

        return TransformersEngine.load(self.checkpoint, self.config, self.prompt)


@contextmanager
def open_engine(checkpoint: Checkpoint, config: EngineConfig, prompt: PromptConfig) -> Iterator[Engine]:
    """An engine for a checkpoint, closed at the end.

    Raises:
        RequestError: the model or its template cannot be used (at the first prompt).
    """
    engine = LazyEngine(checkpoint, config, prompt)
    try:
        yield engine
    finally:
        engine.close()


def wave_sizes(n: int) -> list[int]:
    """Sizes of the waves in which n completions are sampled until one solves the prompt: 1, 1, 2, 4, ..."""
    sizes: list[int] = []
    while (left := n - sum(sizes)) > 0:
        sizes.append(min(left, max(1, sum(sizes))))
    return sizes
