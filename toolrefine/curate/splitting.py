"""A split in two parts that share no tool, for measuring on tools that were never trained on.

Where all samples share their tools, parts that share no request take its place: what is said here of tools then holds
for the requests that conversations begin with, one a sample.

Samples that share a tool, directly or over others, form a component; whole components are held out first, drawn at
random, which costs nothing. Real pools often are one large component. What is then missing is cut out of it: tools
move to the held-out side one after another, each time the one that completes most samples for the fewest that it
tears. Samples with tools on both sides are dropped. Of several draws the one is taken that drops fewest and comes
closest to the share. Tools are the same where their names are.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from random import Random
from typing import Literal

from toolrefine.seeds import derive_seed
from toolrefine.types import Record, Sample

Part = Literal["train", "held_out", "dropped"]
Apart = Literal["tools", "requests"]

_NUM_DRAWS = 16
_CLOSE_ENOUGH = 0.95
"""Of the samples wanted: nothing is torn for less than the rest."""


class Split(Record):
    """Where each sample goes."""

    parts: tuple[Part, ...]
    num_names: dict[Part, int]
    """Tools, or requests, that occur in each of the two parts; under dropped, those that are lost because no sample
    kept has them."""

    def count(self, part: Part) -> int:
        """Number of samples of a part."""
        return self.parts.count(part)


def tool_names(samples: Iterable[Sample]) -> list[frozenset[str]]:
    """The names of each sample's tools."""
    shared: dict[frozenset[str], frozenset[str]] = {}
    names = (frozenset(tool.name for tool in sample.tools) for sample in samples)
    return [shared.setdefault(one, one) for one in names]


def first_requests(samples: Iterable[Sample]) -> list[frozenset[str]]:
    """The digest of the user turn that each sample's conversation begins with, which its later turns share."""
    turns = (next((turn for turn in sample.messages if turn.role == "user"), None) for sample in samples)
    return [frozenset({_digest(turn.content)} if turn else ()) for turn in turns]


def _digest(text: str) -> str:
    return sha256(" ".join(text.split()).encode(errors="surrogatepass")).hexdigest()[:32]


def split(tools: Sequence[frozenset[str]], held_out: float, seed: int) -> Split:
    """Divide samples, given by the names of their tools or their requests, so that a share of held_out is held out.

    Samples without any go wherever chance puts them.
    """
    random = Random(derive_seed(seed, "split"))
    samples_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, names in enumerate(tools):
        for name in names:
            samples_of[name].append(index)
    components = _components(tools, samples_of)
    wanted = round(sum(size for _, size in components) * held_out)
    draws = [
        _draw(tools, samples_of, components, wanted, random, may_cut=may_cut)
        for may_cut in (True, False)
        for _ in range(_NUM_DRAWS)
    ]
    parts = min(draws, key=lambda parts: _loss(parts, wanted))
    free = [index for index, names in enumerate(tools) if not names]
    for index in random.sample(free, round(len(free) * held_out)):
        parts[index] = "held_out"
    train, out = (
        {name for part, names in zip(parts, tools, strict=True) if part == kept for name in names}
        for kept in ("train", "held_out")
    )
    num_names: dict[Part, int] = {
        "train": len(train),
        "held_out": len(out),
        "dropped": len(samples_of) - len(train) - len(out),
    }
    return Split(parts=tuple(parts), num_names=num_names)


def _draw(
    tools: Sequence[frozenset[str]],
    samples_of: dict[str, list[int]],
    components: list[tuple[set[str], int]],
    wanted: int,
    random: Random,
    *,
    may_cut: bool,
) -> list[Part]:
    moved: set[str] = set()
    missing = wanted
    for names, size in random.sample(components, len(components)):
        if size <= missing:
            moved |= names
            missing -= size
    if may_cut and missing > (1 - _CLOSE_ENOUGH) * wanted:
        moved = _cut(tools, samples_of, moved, missing, random)
    chosen = [bool(names) and names <= moved for names in tools]
    # A tool that completed no sample goes back: it would tear samples for nothing.
    moved = {name for is_chosen, names in zip(chosen, tools, strict=True) if is_chosen for name in names}
    return [
        "held_out" if is_chosen else "train" if names.isdisjoint(moved) else "dropped"
        for is_chosen, names in zip(chosen, tools, strict=True)
    ]


def _loss(parts: list[Part], wanted: int) -> tuple[bool, int]:
    """An empty part is worst, then what is dropped or not as many as wanted."""
    num_held_out = parts.count("held_out")
    is_empty = "train" not in parts or (wanted > 0 and num_held_out == 0)
    return is_empty, parts.count("dropped") + abs(num_held_out - wanted)


def _components(tools: Sequence[frozenset[str]], samples_of: dict[str, list[int]]) -> list[tuple[set[str], int]]:
    """The tools of each component, and how many samples it has."""
    components = []
    seen: set[int] = set()
    for start, names in enumerate(tools):
        if start in seen or not names:
            continue
        seen.add(start)
        reached, open_names, size = set(names), list(names), 1
        while open_names:
            for index in samples_of[open_names.pop()]:
                if index not in seen:
                    seen.add(index)
                    size += 1
                    fresh = tools[index] - reached
                    reached |= fresh
                    open_names.extend(fresh)
        components.append((reached, size))
    return components


def _cut(
    tools: Sequence[frozenset[str]], samples_of: dict[str, list[int]], moved: set[str], missing: int, random: Random
) -> set[str]:
    """More tools to move, until so many more samples have all their tools among them.

    The next tool is the one with the best balance of samples that it completes, against those that it tears. Balances
    change with every move; an entry of the heap that is out of date is dropped when it comes up. So is a tool that
    would overshoot by far.
    """
    left = [len(names - moved) for names in tools]
    order = sorted(samples_of.keys() - moved)
    random.shuffle(order)
    rank = {name: number for number, name in enumerate(order)}

    def badness(name: str) -> float:
        completed = torn = begun = 0.0
        for index in samples_of[name]:
            if left[index] == 1:
                completed += 1
            elif left[index] == len(tools[index]):
                torn += 1
            else:
                begun += 1 / left[index]
        return torn - completed - begun

    current = {name: badness(name) for name in order}
    heap = [(value, rank[name], name) for name, value in current.items()]
    heapq.heapify(heap)
    moved = set(moved)
    while heap and missing > 0:
        value, _, name = heapq.heappop(heap)
        if name in moved or value != current[name]:
            continue
        if sum(left[index] == 1 for index in samples_of[name]) > 2 * missing:
            continue
        moved.add(name)
        touched: set[str] = set()
        for index in samples_of[name]:
            left[index] -= 1
            missing -= left[index] == 0
            touched |= tools[index]
        for other in sorted(touched - moved, key=rank.__getitem__):
            current[other] = badness(other)
            heapq.heappush(heap, (current[other], rank[other], other))
    return moved
