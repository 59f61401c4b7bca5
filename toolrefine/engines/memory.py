"""An engine that remembers: what has been answered or scored once is not computed again."""

from __future__ import annotations

from collections.abc import Sequence

from toolrefine.engines import Accept, Engine, Follow, SamplingParams
from toolrefine.engines.answers import Answers
from toolrefine.types import Completion, Message, Prompt

ANY = SamplingParams()
"""Of keys under which scores are kept: they depend on no sampling."""


class RememberingEngine:
    """Asks another engine for what it has not heard yet. Answers may be kept in a file, scores never are."""

    def __init__(self, engine: Engine, answers: Answers) -> None:
        self.engine, self.answers = engine, answers
        self.scores: dict[tuple[str, str], float] = {}

    def sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, accept: Accept | None = None
    ) -> list[list[Completion]]:
        """See Engine: these are not remembered."""
        return self.engine.sample(prompts, n, params, accept)

    def chain(self, prompts: Sequence[Prompt], params: SamplingParams, follow: Follow) -> list[list[Completion]]:
        """See Engine. Chains come as far as is known, then go on side by side until each is at what is known again."""
        chains: list[list[Completion]] = [[] for _ in prompts]
        asked = dict(enumerate(prompts))

        def take(place: int, completion: Completion) -> Prompt | None:
            chains[place].append(completion)
            following = follow(place, chains[place])
            if following is None:
                del asked[place]
            else:
                asked[place] = following
            return following

        while asked:
            for place in list(asked):
                while place in asked and (known := self._known(asked[place], params)):
                    take(place, known)
            places = list(asked)

            def go_on(index: int, chain: Sequence[Completion], places: list[int] = places) -> Prompt | None:
                prompt = asked[places[index]]
                self.answers.add(self.answers.key(prompt, params), prompt.id, 0, chain[-1])
                following = take(places[index], chain[-1])
                return following if following and not self._known(following, params) else None

            if places:
                self.engine.chain([asked[place] for place in places], params, go_on)
        return chains

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Completion | Message]) -> list[float]:
        """See Engine."""
        keys = [
            (self.answers.key(prompt, ANY), answer.model_dump_json())
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        new = {key: place for place, key in enumerate(keys) if key not in self.scores}
        if new:
            scores = self.engine.score([prompts[i] for i in new.values()], [answers[i] for i in new.values()])
            self.scores.update(zip(new, scores, strict=True))
        return [self.scores[key] for key in keys]

    def forget(self) -> None:
        """See Engine: that of the engine behind; what is remembered here stays."""
        self.engine.forget()

    def close(self) -> None:
        """See Engine."""
        self.engine.close()

    def _known(self, prompt: Prompt, params: SamplingParams) -> Completion | None:
        return self.answers.known(self.answers.key(prompt, params)).get(0)
