"""Continuous batching over prompts, with one row for all completions that have said the same so far.

The completions of a prompt form a tree: each is a path, drawn token by token with its own noise, and a token that
several agree on is computed once. A prompt is done when its last wave is, and its place goes to the next in the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from toolrefine.engines import SamplingParams
from toolrefine.engines.attention import Layers, Prefix
from toolrefine.engines.constraint import Guide, allowed_tokens
from toolrefine.engines.decoding import Decoder


class Sampled(NamedTuple):
    """The tokens of one completion, the end-of-turn token included."""

    number: int
    """Index of the completion."""
    ids: tuple[int, ...]
    logprob: float
    """Sum over the tokens, at temperature 1."""
    bent: bool = False
    """See Completion."""


@dataclass(eq=False)
class Job:
    """A prompt to complete."""

    ids: list[int]
    n: int
    """Completions to sample at most."""
    on_wave: Callable[[list[Sampled]], None]
    """Gets the completions of a wave, in the order of their indices."""
    next_wave: Callable[[int], Sequence[int]]
    """Indices of the next wave, given how many completions the last one had, which is 0 at first. None where the prompt
    is done; the last wave holds n - 1."""
    noise: Callable[[int], np.ndarray[Any, Any]]
    """Uniform numbers (max_new_tokens,) of a completion."""
    follow: Callable[[], Job | None] = lambda: None
    """Once the prompt is done: another that begins with it and its last completion."""
    known: Prefix | None = None
    expected_rows: Callable[[], float] = lambda: 0.0
    """Completions to keep room for while further waves may come."""
    wave: Sequence[int] = ()
    """The wave that is being sampled, or the first to be."""
    guide: Guide | None = None
    """What may be answered."""

    @property
    def is_last_wave(self) -> bool:
        """Whether no further wave can come."""
        return bool(self.wave) and self.wave[-1] == self.n - 1

    @property
    def room(self) -> float:
        """Completions to keep room for."""
        return len(self.wave) if self.is_last_wave else max(len(self.wave), self.expected_rows())


@dataclass(eq=False, slots=True)
class _Row:
    """Keys and values of one path through a slot's tree."""

    depth: int = 0
    """Tokens."""
    place: int | None = None
    """In the last step; None where it had no part in it."""
    saved: Layers | None = None


@dataclass(eq=False, slots=True)
class _Node:
    """The state after a sampled token, or after the prompt."""

    slot: _Slot
    row: _Row
    """Whose first `depth` tokens lead here."""
    depth: int
    token: int
    children: dict[int, _Node] = field(default_factory=dict)
    state: torch.Tensor | None = None
    """What the model's head reads (C,), kept where a completion may come by later."""
    guide: Guide | None = None
    """What may come next."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A prompt that is being completed."""

    number: int
    job: Job
    root: _Node = field(init=False)
    waiting: deque[int] = field(default_factory=deque)
    """Completions of the wave that have not started."""
    num_going: int = 0
    done: list[Sampled] = field(default_factory=list)
    """Completions of the wave that have ended."""
    is_staggered: bool = False
    """Whether completions of one wave have started at different times."""
    is_done: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether completions may come by nodes that have been computed before."""
        return not self.is_done and (self.is_staggered or bool(self.waiting) or not self.job.is_last_wave)


@dataclass(eq=False, slots=True)
class _Cursor:
    """A completion that is going on."""

    index: int
    node: _Node
    noise: np.ndarray[Any, Any]
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    bent: bool = False


class Batch:
    """Runs jobs to their end, as many at once as there is room for."""

    def __init__(
        self, decoder: Decoder, params: SamplingParams, eos_ids: set[int], max_rows: int, max_bytes: float
    ) -> None:
        """At most max_rows completions at once, of prompts that take at most max_bytes, but of one prompt always."""
        self.decoder, self.params, self.eos_ids = decoder, params, eos_ids
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.numbers = count()
        self.queue: deque[Job] = deque()
        self.slots: list[_Slot] = []
        self.cursors: list[_Cursor] = []
        self.live: list[_Node] = []
        """The node that each row of the last step has reached."""
        self.states: torch.Tensor

    def run(self, jobs: Sequence[Job]) -> None:
        """Work through jobs, in their order: the longest prompts should come first, for they decide about the room."""
        self.decoder.clear()
        self.queue.extend(jobs)
        while self.queue or self.slots:
            self._admit()
            self._step(self._choose())

    def _admit(self) -> None:
        """Start what waits, then take prompts from the queue where there is room for a good number of completions."""
        for slot in self.slots:
            self._start(slot)
        room = self.max_rows - sum(slot.job.room for slot in self.slots)
        if self.slots and (not self.decoder.can_refill or room < self.max_rows / 4):
            return
        num_slots, num_tokens = len(self.slots), max((len(slot.job.ids) for slot in self.slots), default=0)
        jobs: list[Job] = []
        while self.queue:
            job = self.queue[0]
            job.wave = job.wave or job.next_wave(0)
            longest = max(num_tokens, len(job.ids))
            size = (num_slots + 1) * self.decoder.slot_bytes(longest)
            if num_slots and (job.room > room or size > self.max_bytes):
                break
            jobs.append(self.queue.popleft())
            room -= job.room
            num_slots, num_tokens = num_slots + 1, longest
        self.decoder.reserve(num_slots, num_tokens, self.max_bytes)
        self._add([job for job in jobs if job.known is None])
        self._add([job for job in jobs if job.known is not None])

    def _add(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        numbers = [next(self.numbers) for _ in jobs]
        states = self.decoder.add(numbers, [job.ids for job in jobs], [job.known for job in jobs])
        for number, job, state in zip(numbers, jobs, states, strict=True):
            job.known = None
            slot = _Slot(number, job)
            slot.root = _Node(slot, _Row(), 0, -1, state=state, guide=job.guide)
            slot.waiting.extend(job.wave)
            self.slots.append(slot)
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        while slot.waiting and (len(self.cursors) < self.max_rows or not self.decoder.can_refill):
            index = slot.waiting.popleft()
            slot.num_going += 1
            self.cursors.append(_Cursor(index, slot.root, slot.job.noise(index)))
        slot.is_staggered |= bool(slot.waiting)

    def _choose(self) -> list[_Node]:
        """Let every completion go on by one token; returns the nodes that this adds, which are to be computed."""
        nodes = list(dict.fromkeys(cursor.node for cursor in self.cursors))
        row_of = {node: row for row, node in enumerate(nodes)}
        rows = [row_of[cursor.node] for cursor in self.cursors]
        logits = self.decoder.logits(self._states_of(nodes))
        guides = [node.guide for node in nodes]
        allowed = allowed_tokens(guides, logits.shape[1], logits.device) if any(guides) else None
        tokens, logprobs = choose(
            logits,
            rows,
            [cursor.noise[cursor.node.depth] for cursor in self.cursors],
            self.params,
            allowed,
        )
        bent = bends(logits, allowed)
        going, ended, fresh = [], [], []
        for cursor, row, token, logprob in zip(self.cursors, rows, tokens, logprobs, strict=True):
            cursor.ids.append(token)
            cursor.logprob += logprob
            cursor.bent |= bent[row]
            if token in self.eos_ids or len(cursor.ids) == self.params.max_new_tokens:
                ended.append(cursor)
                continue
            going.append(cursor)
            node = cursor.node
            child = node.children.get(token)
            if child is None:
                guide = node.guide and node.guide.after(token)
                child = node.children[token] = _Node(node.slot, node.row, node.depth + 1, token, guide=guide)
                fresh.append(child)
            cursor.node = child
        self.cursors = going
        for cursor in ended:
            self._end(cursor)
        return fresh

    def _states_of(self, nodes: list[_Node]) -> torch.Tensor:
        """States (nodes, C), from the last step or kept ones."""
        if nodes == self.live:
            return self.states
        places = {node: place for place, node in enumerate(self.live)}
        if places.keys() >= set(nodes):
            return self.states[torch.tensor([places[node] for node in nodes], device=self.states.device)]
        kept = [self.states[places[node]] if node in places else node.state for node in nodes]
        return torch.stack([state for state in kept if state is not None])

    def _end(self, cursor: _Cursor) -> None:
        """Take a completion in. With the last of a wave the next wave begins, or the prompt is done."""
        slot = cursor.node.slot
        slot.num_going -= 1
        slot.done.append(Sampled(cursor.index, tuple(cursor.ids), cursor.logprob, cursor.bent))
        if slot.num_going or slot.waiting:
            return
        slot.job.on_wave(sorted(slot.done))
        slot.job.wave = slot.job.next_wave(len(slot.done))
        slot.done = []
        if slot.job.wave:
            slot.waiting.extend(slot.job.wave)
            return
        following = slot.job.follow()
        if following is not None:
            following.known = self._prefix(cursor) if self.decoder.can_refill else None
            self.queue.appendleft(following)
        slot.is_done = True
        self.decoder.remove(slot.number)
        self.slots.remove(slot)

    def _prefix(self, cursor: _Cursor) -> Prefix | None:
        """What has been computed of a prompt and its completion: all but the last token."""
        node, slot = cursor.node, cursor.node.slot
        sampled = node.row.saved if node.row.place is None else self.decoder.save(node.row.place, node.depth)
        if sampled is None:
            return None
        return self.decoder.save_prefix([*slot.job.ids, *cursor.ids[:-1]], slot.number, sampled)

    def _step(self, fresh: list[_Node]) -> None:
        """Compute new nodes: the first that goes on from a row stays in it, others branch off."""
        steps = []
        for node in fresh:
            before = node.row
            parent = before.saved if before.place is None else before.place
            if before.depth == node.depth - 1:
                before.depth = node.depth
            else:
                node.row = _Row(node.depth)
            steps.append(_Step(node, parent))
        self._put_aside({id(node.row) for node in fresh})
        steps = _in_place(steps)
        self.live = [step.node for step in steps]
        for place, node in enumerate(self.live):
            node.row.place, node.row.saved = place, None
        if steps:
            self.states = self.decoder.step(
                [node.slot.number for node in self.live],
                [node.depth - 1 for node in self.live],
                [step.parent for step in steps],
                [node.token for node in self.live],
            )
        for node, state in zip(self.live, self.states if steps else (), strict=True):
            if node.slot.is_kept:
                node.state = state

    def _put_aside(self, going: set[int]) -> None:
        """Save the rows of the last step that do not go on, where a completion may come by later."""
        for node in self.live:
            row = node.row
            if id(row) not in going and row.place is not None:
                if node.slot.is_kept:
                    row.saved = self.decoder.save(row.place, row.depth)
                row.place = None


class _Step(NamedTuple):
    """A node to compute, and where the keys and values before it are."""

    node: _Node
    parent: int | Layers | None


def _in_place(steps: list[_Step]) -> list[_Step]:
    """Order steps so that the rows that go on stay where they are, as far as there are no gaps."""
    placed = {
        step.parent: step
        for step in steps
        if isinstance(step.parent, int) and step.parent < len(steps) and step.node.row.place == step.parent
    }
    rest = iter([step for step in steps if not (isinstance(step.parent, int) and placed.get(step.parent) is step)])
    return [placed[place] if place in placed else next(rest) for place in range(len(steps))]


BLOCK = 64
"""Tokens whose probabilities are summed before the sums are: a sum over the vocabulary in double precision is dear."""


def choose(
    logits_uv: torch.Tensor,
    rows: Sequence[int],
    noise: Sequence[float],
    params: SamplingParams,
    allowed_uv: torch.Tensor | None = None,
) -> tuple[list[int], list[float]]:
    """Tokens of completions by inverting the distribution function, and their log-probabilities at temperature 1.

    rows say which of the U distributions each completion draws from, noise is a uniform number for each. What is not
    allowed is never drawn, but the log-probabilities are the model's own, as if all were.
    """
    logits_uv = logits_uv.float()
    rows_c = torch.tensor(rows, device=logits_uv.device)
    offered_uv = logits_uv if allowed_uv is None else logits_uv.masked_fill(~allowed_uv, -torch.inf)
    if params.temperature == 0.0:
        chosen_c = offered_uv.argmax(dim=-1)[rows_c]
    else:
        probabilities = (offered_uv / params.temperature).softmax(dim=-1)
        if params.top_p < 1.0:
            ordered, places = probabilities.sort(dim=-1, descending=True)
            ordered[ordered.cumsum(dim=-1) - ordered >= params.top_p] = 0.0
            probabilities = torch.zeros_like(probabilities).scatter_(-1, places, ordered)
        chosen_c = _invert(probabilities, rows_c, torch.tensor(noise, dtype=torch.double, device=rows_c.device))
    logprobs_c = logits_uv[rows_c, chosen_c] - logits_uv.logsumexp(dim=-1)[rows_c]
    return chosen_c.tolist(), logprobs_c.tolist()


def bends(logits_uv: torch.Tensor, allowed_uv: torch.Tensor | None) -> list[bool]:
    """Of each of U distributions, whether its likeliest token is not allowed."""
    if allowed_uv is None:
        return [False] * len(logits_uv)
    return (~allowed_uv.gather(1, logits_uv.argmax(dim=-1, keepdim=True)))[:, 0].tolist()


def _invert(probabilities_uv: torch.Tensor, rows_c: torch.Tensor, noise_c: torch.Tensor) -> torch.Tensor:
    """The token at which each completion's distribution function passes its noise: first the block, then the token."""
    missing = -probabilities_uv.shape[1] % BLOCK
    blocks = torch.nn.functional.pad(probabilities_uv, (0, missing)).view(len(probabilities_uv), -1, BLOCK)
    ends_ub = torch.nn.functional.pad(blocks.sum(dim=-1).double().cumsum(dim=-1), (1, 0))
    wanted_c = noise_c * ends_ub[rows_c, -1]
    block_c = (
        torch.searchsorted(ends_ub[rows_c], wanted_c[:, None], right=True)[:, 0].clamp(max=ends_ub.shape[1] - 1) - 1
    )
    start_c, end_c = ends_ub[rows_c, block_c], ends_ub[rows_c, block_c + 1]
    within_cv = blocks[rows_c, block_c].double().cumsum(dim=-1)
    # The sums are rounded: a share of the block, not a number, is what is sure to be found in it.
    share_c = (wanted_c - start_c) / (end_c - start_c) * within_cv[:, -1]
    token_c = torch.searchsorted(within_cv, share_c[:, None], right=True)[:, 0].clamp(max=BLOCK - 1)
    return block_c * BLOCK + token_c
