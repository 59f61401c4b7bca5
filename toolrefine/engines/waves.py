"""Waves: sampling the completions of a prompt a few at a time, where one that solves it is enough."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from toolrefine.engines import Accept, wave_sizes
from toolrefine.types import Completion

NUM_PROBES = 4
"""Prompts that get all their completions at once, to see whether waves pay."""

MAX_NEEDED = 0.75
"""Share of the completions that waves may need and still pay. Every wave reads the prompt's keys and values anew, which
was measured to make a token 1.3 to 1.5 times as dear."""


class WavePlanner:
    """Says how many completions of each prompt to sample next."""

    def __init__(self, n: int, accept: Accept) -> None:
        self.n, self.accept = n, accept
        self.ends = list(accumulate(wave_sizes(n)))
        self.num_started = self.num_done = self.num_needed = 0

    def next_wave(self, place: int, completions: Sequence[Completion], num_new: int) -> Sequence[int]:
        """Indices of the next completions of a prompt, none where it is done; the last num_new have not been seen."""
        done = len(completions)
        new = range(done - num_new, done)
        solved = [index for index in new if self.accept(place, index, completions[index])]
        if solved or done == self.n:
            self.num_done += 1
            self.num_needed += self.ends[bisect_right(self.ends, solved[0])] if solved else self.n
            return range(0)
        if not done:
            self.num_started += 1
        if (not done and self.num_started <= NUM_PROBES) or not self.pays:
            return range(done, self.n)
        return range(done, self.ends[bisect_right(self.ends, done)])

    def expected_rows(self) -> float:
        """Completions of a prompt that are worked on at once: waves grow, where they go on at all.

        As long as nothing is known much room is kept, for waves may be given up, and few prompts should have begun one.
        """
        return self.n / 2 if self.num_done < NUM_PROBES else 1.5

    @property
    def pays(self) -> bool:
        """Whether waves have left out enough so far, or would have."""
        return self.num_done < NUM_PROBES or self.num_needed <= MAX_NEEDED * self.n * self.num_done
