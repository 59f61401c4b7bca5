"""The records that every layer speaks: frozen, strict about unknown fields, one JSON object each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Tool(Record):
    """A tool that the model may call."""

    name: str
    """Unique within one sample."""
    description: str = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    """JSON Schema (2020-12) of the arguments object."""


class ToolCall(Record):
    """One call of one tool."""

    name: str
    arguments: dict[str, Any] = {}
    """Argument name -> JSON value."""


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Only on assistant turns."""
    tool_call_id: str | None = None
    """Only on tool turns: which call this is the result of."""


class Sample(Record):
    """A dataset row: a conversation, the tools at hand and the gold assistant turn."""

    id: str
    """Unique within a pool."""
    messages: tuple[Message, ...]
    """The conversation up to the turn to predict."""
    tools: tuple[Tool, ...]
    target: Message
    """Gold assistant turn: calls, or text when no tool applies."""
    alternatives: tuple[dict[str, tuple[Any, ...]], ...] = ()
    """For each call of the target in order: argument -> values that are right beside the target's."""
    source: str = ""
    meta: dict[str, Any] = {}
    """Free-form facts about the row; never read by the method itself."""

    @property
    def kind(self) -> Literal["single", "parallel", "no_call"]:
        """How many calls the target makes: one, several or none."""
        match len(self.target.tool_calls):
            case 0:
                return "no_call"
            case 1:
                return "single"
            case _:
                return "parallel"


class Prompt(Record):
    """What an engine is asked to complete."""

    id: str
    """Seeds the sampling noise, so it must be stable between attempts."""
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


class Outcome(StrEnum):
    """What a completion turned out to be."""

    CALLS = "calls"
    NO_CALL = "no_call"
    MALFORMED = "malformed"
    """It set out to call a tool, but cannot be read as calls."""
    TRUNCATED = "truncated"
    """It ended at the token limit; calls holds those that were complete."""


class Completion(Record):
    """One output of a model, parsed."""

    text: str
    """Raw text without the end-of-turn token."""
    calls: tuple[ToolCall, ...] = ()
    outcome: Outcome
    num_tokens: int
    """Sampled tokens, the end-of-turn token included."""
    mean_logprob: float | None
    """Mean natural log-probability of those tokens at temperature 1; None where a server does not tell."""
    bent: bool = False
    """Whether a constraint did not allow, at some token, the one that the model found likeliest. A greedy answer that
    is not bent is what the model says without the constraint."""

    @property
    def had_no_room(self) -> bool:
        """Whether the prompt left no room for an answer in the model's context."""
        return self.outcome is Outcome.TRUNCATED and not self.num_tokens

    def as_message(self) -> Message:
        """The completion as an assistant turn: its calls where it has any, else its raw text."""
        if self.outcome is Outcome.CALLS:
            return Message(role="assistant", tool_calls=self.calls)
        return Message(role="assistant", content=self.text)


class Reason(StrEnum):
    """Why a prediction is right or wrong."""

    OK = "ok"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    UNEXPECTED_CALL = "unexpected_call"
    """A call where the target makes none."""
    MISSING_CALL = "missing_call"
    """No call where the target makes some."""
    WRONG_COUNT = "wrong_count"
    WRONG_NAME = "wrong_name"
    MISSING_ARG = "missing_arg"
    EXTRA_ARG = "extra_arg"
    WRONG_TYPE = "wrong_type"
    WRONG_VALUE = "wrong_value"


ViolationKind = Literal["unknown_tool", "unknown_argument", "missing_argument", "wrong_type", "outside_enum"]
"""How a call can break the schema of its tool."""


class Score(Record):
    """The verdict on one completion."""

    correct: bool
    reason: Reason


class Group(Record):
    """The k scored completions of one sample."""

    sample_id: str
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]
    """Same length and order as completions."""
    doubt: float | None = None
    """By how many nats the model finds the answer that most completions give likelier than the label, both as calls
    without text. None where a completion gives the label, where one of the two makes no call, and where the engine does
    not tell."""
    rival_logprob: float | None = None
    """Summed natural log-probability of that answer; None where doubt is."""
    greedy: Completion | None = None
    """The greedy answer, which is none of the completions; None where it is not wanted."""
    greedy_score: Score | None = None
    """Of greedy; None where that is."""

    @property
    def n(self) -> int:
        """Number of completions."""
        return len(self.completions)

    @property
    def num_correct(self) -> int:
        """Number of correct completions, c."""
        return sum(score.correct for score in self.scores)


class Selected(Record):
    """A sample chosen for training, with the evidence for it."""

    sample_id: str
    n: int
    num_correct: int
    pass_at_k: float
    """Unbiased pass@k with k = n (arXiv 2107.03374, equation 1)."""
    pass_rate: float
    """num_correct / n."""


class Suspect(Record):
    """A sample whose label the model never gives and contradicts by an answer of its own."""

    sample_id: str
    label: Message
    """The target as given."""
    answer: Message
    """The answer that most completions give."""
    agreement: float
    """Share of the completions that give exactly this answer."""
    doubt: float | None = None
    """See Group."""
    meta: dict[str, Any] = {}
    """Copied from the sample."""


class Example(Record):
    """One training example: a conversation and the turn to learn."""

    id: str
    sample_id: str
    kind: Literal["direct", "refine"]
    draft_correct: bool | None = None
    """Only on refinement examples: whether the draft shown was already right."""
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    target: Message


class StopReason(StrEnum):
    """Why adaptive refinement stopped."""

    UNCHANGED = "unchanged"
    """Two consecutive answers are the same calls (arXiv 2504.01400, algorithm 1)."""
    SEEN_BEFORE = "seen_before"
    """The answer equals an earlier one that is not the previous: an oscillation."""
    GATED = "gated"
    """The policy sees no need to refine this answer."""
    MAX_ROUNDS = "max_rounds"
    NO_ROOM = "no_room"
    """The conversation with the last answer leaves no room for another."""
    REJECTED = "rejected"
    """The last answer was not accepted; the one before it stands."""


class Refinement(Record):
    """The draft and the refinement rounds of one prompt."""

    prompt_id: str
    rounds: tuple[Completion, ...]
    """rounds[0] is the draft."""
    stop_reason: StopReason
    rejected: tuple[int, ...] = ()
    """Rounds whose answer was not accepted."""
    num_scored: int = 0
    """Scoring passes: prompts with an answer that were computed without sampling, to decide what to accept."""

    @property
    def num_calls(self) -> int:
        """What it took: completions and scoring passes."""
        return len(self.rounds) + self.num_scored

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of all rounds."""
        return sum(completion.num_tokens for completion in self.rounds)

    @property
    def draft(self) -> Completion:
        """The first answer."""
        return self.rounds[0]

    @property
    def answers(self) -> tuple[Completion, ...]:
        """After each round the answer that stands: its own, or the one before where its own was not accepted."""
        standing: list[Completion] = []
        for number, completion in enumerate(self.rounds):
            standing.append(standing[-1] if number in self.rejected else completion)
        return tuple(standing)

    @property
    def final(self) -> Completion:
        """The answer that stands in the end."""
        return self.answers[-1]

    def listed(
        self, verdicts: Sequence[T], alone: tuple[Completion, T] | None = None
    ) -> Iterator[tuple[str, Completion, T | None]]:
        """Every answer under its name, with the verdict on it, None where it was not accepted.

        Args:
            verdicts: on the answer that stands after each round.
            alone: what the model says by itself, and the verdict on that, where the first answer here is constrained.
        """
        if alone:
            yield "draft", *alone
        for number, (completion, verdict) in enumerate(zip(self.rounds, verdicts, strict=True)):
            name = f"round {number}" if number or alone else "draft"
            yield name, completion, None if number in self.rejected else verdict


class Checkpoint(Record):
    """A model to load: a base, with an adapter on top where there is one."""

    model: str
    """Folder, hub name, or nano."""
    adapter: str | None = None
    """Folder of a PEFT adapter for model."""
    iteration: int = 0
    """0 for the base, M_0."""


class EvalItem(Record):
    """One held-out sample, answered and scored."""

    sample_id: str
    kind: Literal["single", "parallel", "no_call"]
    refinement: Refinement
    """A draft alone where refinement is off."""
    scores: tuple[Score, ...]
    """Of the answer standing after each round, scores[0] of the first."""
    alone: tuple[Completion, Score] | None = None
    """What the model says by itself, where the first answer is bent by a constraint; None elsewhere."""

    @property
    def draft(self) -> tuple[Completion, Score]:
        """What the model says by itself."""
        return self.alone or (self.refinement.draft, self.scores[0])
