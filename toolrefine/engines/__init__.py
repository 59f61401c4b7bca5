"""Engines: what samples completions. One file a kind; heavy libraries are imported on use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pydantic import Field

from toolrefine.config import EngineConfig, PromptConfig
from toolrefine.types import Checkpoint, Completion, Prompt, Record

__all__ = ["Engine", "SamplingParams", "open_engine"]


class SamplingParams(Record):
    """How to sample."""

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=512, ge=1)
    seed: int = 0
    """With prompt id and completion index the whole source of randomness."""


class Engine(Protocol):
    """Samples completions from one model."""

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]:
        """N completions of each prompt, in the order of the prompts."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...


class LazyEngine:
    """Loads the model at the first prompt: a resumed run that has every answer needs none."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, prompt: PromptConfig) -> None:
        self.checkpoint, self.config, self.prompt = checkpoint, config, prompt
        self.engine: Engine | None = None

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]:
        """See Engine."""
        if self.engine is None:
            self.engine = self._load()
        return self.engine.sample(prompts, n, params)

    def close(self) -> None:
        """See Engine."""
        if self.engine is not None:
            self.engine.close()

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
