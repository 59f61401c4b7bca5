"""An engine that follows a script: for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolrefine.engines import Accept, Follow, SamplingParams, wave_sizes
from toolrefine.formats import get_format
from toolrefine.types import Completion, Message, Prompt


class ScriptedEngine:
    """Answers with answer(prompt, completion index), parsed like a model's text."""

    def __init__(
        self,
        answer: Callable[[Prompt, int], str],
        format_name: str = "pythonic",
        logprob: Callable[[Prompt, str], float] = lambda prompt, text: 0.0,
    ) -> None:
        """Score with logprob(prompt, text), which the completions tell of themselves too."""
        self.answer, self.logprob = answer, logprob
        self.format = get_format(format_name)
        self.num_prompts = 0
        """Prompts answered so far."""

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """See Engine."""
        groups: list[list[Completion]] = [[] for _ in prompts]
        for place, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            self.num_prompts += 1
            for size in wave_sizes(n) if accept else [n]:
                indices = range(len(group), len(group) + size)
                group += [self._ask(prompt, index) for index in indices]
                solved = [accept(place, index, group[index]) for index in indices if accept]
                if any(solved):
                    break
        return groups

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """See Engine."""
        chains: list[list[Completion]] = [[] for _ in prompts]
        for place, prompt in enumerate(prompts):
            asked: Prompt | None = prompt
            while asked is not None:
                self.num_prompts += 1
                chains[place].append(self._ask(asked, 0))
                asked = follow(place, chains[place])
        return chains

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """See Engine."""
        return [self.logprob(prompt, self._text(each)) for prompt, each in zip(prompts, answers, strict=True)]

    def forget(self) -> None:
        """See Engine: nothing is remembered."""

    def close(self) -> None:
        """See Engine."""

    def _ask(self, prompt: Prompt, index: int) -> Completion:
        completion = self._complete(self.answer(prompt, index))
        if not completion.num_tokens:
            return completion
        logprob = self.logprob(prompt, completion.text) / completion.num_tokens
        return completion.model_copy(update={"mean_logprob": logprob})

    def _text(self, answer: Completion | Message) -> str:
        if isinstance(answer, Completion):
            return answer.text
        return self.format.render(answer.tool_calls) if answer.tool_calls else answer.content

    def _complete(self, text: str) -> Completion:
        parsed = self.format.parse(text)
        return Completion(
            text=text, calls=parsed.calls, outcome=parsed.outcome, num_tokens=len(text.split()), mean_logprob=0.0
        )
