"""What is in a data set: counts, lengths, and samples to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

from toolrefine.chat import Chat
from toolrefine.errors import TemplateError
from toolrefine.seeds import derive_seed
from toolrefine.types import Record, Sample


class Distribution(Record):
    """How a whole number is spread over samples. Quantiles are values that occur."""

    mean: float
    min: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    max: int


class Statistics(Record):
    """Counts over a data set; a distribution is None where no sample has a value."""

    num_samples: int
    kinds: dict[str, int]
    """Samples that make one call, several, or none."""
    num_tools: int
    """Different names of tools."""
    num_called_tools: int
    """Different names among the calls of the targets."""
    tools: Distribution | None
    """Tools a sample."""
    calls: Distribution | None
    """Calls a target."""
    turns: Distribution | None
    """Turns a sample, the target left out."""
    user_turns: Distribution | None
    prompt_tokens: Distribution | None
    """Tokens a prompt, through the model's chat template. None without a model."""
    num_refused: int
    """Samples that the chat template cannot say."""


def measure(
    samples: Iterable[Sample], chat: Chat | None = None, num_examples: int = 0, seed: int = 0
) -> tuple[Statistics, list[Sample]]:
    """Count over samples in one pass; also num_examples of them, drawn with equal chances, in their order."""
    kinds: Counter[str] = Counter()
    lengths: dict[str, Counter[int]] = {
        name: Counter() for name in ("tools", "calls", "turns", "user_turns", "prompt_tokens")
    }
    tools: set[str] = set()
    called: set[str] = set()
    num_refused = 0
    random = Random(derive_seed(seed, "inspect"))
    drawn: list[tuple[int, Sample]] = []
    for index, sample in enumerate(samples):
        kinds[sample.kind] += 1
        tools.update(tool.name for tool in sample.tools)
        called.update(call.name for call in sample.target.tool_calls)
        lengths["tools"][len(sample.tools)] += 1
        lengths["calls"][len(sample.target.tool_calls)] += 1
        lengths["turns"][len(sample.messages)] += 1
        lengths["user_turns"][sum(message.role == "user" for message in sample.messages)] += 1
        if chat is not None:
            try:
                lengths["prompt_tokens"][len(chat.prompt_ids(sample.messages, sample.tools))] += 1
            except TemplateError:
                num_refused += 1
        # Reservoir sampling: sample number i replaces one of those drawn so far with probability num_examples / i.
        if len(drawn) < num_examples:
            drawn.append((index, sample))
        elif (place := random.randrange(index + 1)) < num_examples:
            drawn[place] = (index, sample)
    statistics = Statistics(
        num_samples=kinds.total(),
        kinds=dict(sorted(kinds.items())),
        num_tools=len(tools),
        num_called_tools=len(called),
        num_refused=num_refused,
        **{name: describe(counts) for name, counts in lengths.items()},
    )
    return statistics, [sample for _, sample in sorted(drawn, key=lambda pair: pair[0])]


def describe(counts: Counter[int]) -> Distribution | None:
    """The distribution of values that occur so often."""
    n = counts.total()
    if n == 0:
        return None
    values = sorted(counts)

    def quantile(percent: int) -> int:
        rank, seen = -(-n * percent // 100), 0
        for value in values:
            seen += counts[value]
            if seen >= rank:
                break
        return value

    quantiles = {f"p{percent}": quantile(percent) for percent in (25, 50, 75, 95, 99)}
    mean = sum(value * count for value, count in counts.items()) / n
    return Distribution(mean=mean, min=values[0], max=values[-1], **quantiles)
