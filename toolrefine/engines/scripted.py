"""An engine that follows a script: for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolrefine.engines import SamplingParams
from toolrefine.formats import get_format
from toolrefine.types import Completion, Prompt


class ScriptedEngine:
    """Answers with answer(prompt, completion index), parsed like a model's text."""

    def __init__(self, answer: Callable[[Prompt, int], str], format_name: str = "pythonic") -> None:
        self.answer = answer
        self.format = get_format(format_name)
        self.num_prompts = 0
        """Prompts answered so far."""

    def sample(self, prompts: Sequence[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]:
        """See Engine."""
        self.num_prompts += len(prompts)
        return [[self._complete(self.answer(prompt, index)) for index in range(n)] for prompt in prompts]

    def close(self) -> None:
        """See Engine."""

    def _complete(self, text: str) -> Completion:
        parsed = self.format.parse(text)
        return Completion(
            text=text, calls=parsed.calls, outcome=parsed.outcome, num_tokens=len(text.split()), mean_logprob=0.0
        )
