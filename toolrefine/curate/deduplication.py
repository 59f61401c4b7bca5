"""Samples that are there twice: in the same words, or in nearly the same.

Exact duplicates agree in turns, tools and target, but for case, width and white space. Near duplicates call the same
tools after turns of the same roles, and what user and assistant say has a Jaccard similarity of at least a threshold
over runs of five words, estimated by MinHash (Broder 1997) and found by banding (Leskovec et al., Mining of Massive
Datasets, 3.4). System turns and tools repeat from sample to sample, so they do not count; nor do results. The samples
that one conversation yields share most of their words, but are no duplicates, as they have different numbers of turns.

A sample takes 528 bytes, which lie in a file while they are collected.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from toolrefine.curate.words import normalise, words_of
from toolrefine.formats.json_object import dump
from toolrefine.matching import canonical_key
from toolrefine.types import Record, Sample

NUM_HASHES = 128
"""Hashes a sample; the standard error of a similarity of 0.8 is then 0.035."""
_NUM_WORDS = 5
_MISS = 0.01
"""Chance that a pair just at the threshold is not looked at."""
_MAX_LEADERS = 64
"""Samples of one bucket that others are compared with, so that time stays linear in their number."""

Words = NDArray[np.uint32]
_RECORD = np.dtype([("exact", "<u8"), ("block", "<u8"), ("hashes", "<u4", NUM_HASHES)])


class Cluster(Record):
    """A sample that is kept, and those that are dropped in its favour."""

    kept: int
    """Index of the sample."""
    exact: tuple[int, ...] = ()
    """Indices of its exact duplicates."""
    near: tuple[int, ...] = ()
    """Indices of its near duplicates, and of theirs."""


def find_duplicates(samples: Iterable[Sample], threshold: float = 0.8) -> tuple[int, list[Cluster]]:
    """How many samples there are, and the clusters of duplicates among them; the first of a cluster is kept.

    The same samples in the same order give the same clusters.
    """
    with tempfile.TemporaryFile() as file:
        num_samples = 0
        for sample in samples:
            file.write(_record(sample).tobytes())
            num_samples += 1
        file.flush()
        if not num_samples:
            return 0, []
        records = np.memmap(file, dtype=_RECORD, mode="r")
        exact_keeper = _first_equal(records["exact"])
        unique = np.flatnonzero(exact_keeper == np.arange(num_samples))
        near_keeper = _near_keepers(records, unique, threshold)
        del records
    return num_samples, _clusters(exact_keeper, unique, near_keeper)


def _record(sample: Sample) -> NDArray[np.void]:
    record = np.zeros(1, _RECORD)
    record["exact"] = _hash64(exact_key(sample))
    names = sorted(call.name for call in sample.target.tool_calls)
    record["block"] = _hash64(dump([[message.role for message in sample.messages], names]))
    record["hashes"] = min_hashes(spoken(sample))
    return record


def exact_key(sample: Sample) -> str:
    """A text that two samples share where they are exact duplicates."""
    turns = [
        [message.role, normalise(message.content), canonical_key(message.tool_calls)]
        for message in (*sample.messages, sample.target)
    ]
    tools = sorted(tool.model_dump_json() for tool in sample.tools)
    return dump([turns, tools])


def spoken(sample: Sample) -> str:
    """What the users and assistants of a sample say, and the calls that they make."""
    parts = []
    for message in (*sample.messages, sample.target):
        if message.role in ("user", "assistant"):
            parts += [message.content, *(dump([call.name, call.arguments]) for call in message.tool_calls)]
    return "\n".join(parts)


def _hash64(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


_random = np.random.Generator(np.random.PCG64(0))
_FACTORS = _random.integers(0, 2**63, NUM_HASHES, np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, NUM_HASHES, np.uint64)


def min_hashes(text: str) -> Words:
    """For each hash function, its least value over the text's runs of five words.

    A shorter text is one run. The hash functions are multiply-shift (Dietzfelbinger et al. 1997).
    """
    words = words_of(text)
    starts = range(max(1, len(words) - _NUM_WORDS + 1))
    runs = {crc32(" ".join(words[start : start + _NUM_WORDS]).encode()) for start in starts}
    values = np.fromiter(runs, np.uint64, len(runs))
    least = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    # In parts, so that a text of a million words takes no gigabyte.
    for start in range(0, len(values), 4096):
        hashed = (values[start : start + 4096, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
        least = np.minimum(least, hashed.min(axis=0).astype(np.uint32))
    return least


def _first_equal(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each value the index of the first one that equals it."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def band_rows(threshold: float) -> int:
    """Hashes a band: as many as still let a pair at the threshold agree in a whole band, almost surely."""
    fitting = [rows for rows in (1, 2, 4, 8, 16, 32) if (1 - threshold**rows) ** (NUM_HASHES // rows) <= _MISS]
    return max(fitting, default=1)


def _near_keepers(records: NDArray[np.void], unique: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """For each of the unique samples the position, among them, of the sample that is kept in its stead."""
    keeper = np.arange(len(unique))
    rows = band_rows(threshold)
    needed = threshold * NUM_HASHES
    for start in range(0, NUM_HASHES, rows):
        keys = _mix(records["block"][unique], records["hashes"][unique, start : start + rows])
        for bucket in _buckets(keys):
            rest = bucket[keeper[bucket] == bucket]
            for _ in range(_MAX_LEADERS):
                if len(rest) < 2:
                    break
                leader, rest = rest[0], rest[1:]
                same = records["hashes"][unique[rest]] == records["hashes"][unique[leader]]
                is_near = same.sum(axis=1) >= needed
                keeper[rest[is_near]] = leader
                rest = rest[~is_near]
    # A keeper may have found a keeper of its own in a later band. It stands before what it keeps.
    for position in range(len(keeper)):
        keeper[position] = keeper[keeper[position]]
    return keeper


def _mix(blocks: NDArray[np.uint64], hashes: Words) -> NDArray[np.uint64]:
    keys = blocks.copy()
    for column in hashes.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _buckets(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The positions of each key that is there more than once, ascending."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    starts = np.concatenate(([0], ends))
    sizes = np.diff(np.concatenate((starts, [len(keys)])))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        yield order[start : start + size]


def _clusters(
    exact_keeper: NDArray[np.int64], unique: NDArray[np.int64], near_keeper: NDArray[np.int64]
) -> list[Cluster]:
    final = np.arange(len(exact_keeper))
    final[unique] = unique[near_keeper]
    exact: dict[int, list[int]] = {}
    near: dict[int, list[int]] = {}
    for index in np.flatnonzero(final[exact_keeper] != np.arange(len(final))).tolist():
        first = int(exact_keeper[index])
        kept = int(final[first])
        (exact if kept == first else near).setdefault(kept, []).append(index)
    return [
        Cluster(kept=kept, exact=tuple(exact.get(kept, ())), near=tuple(near.get(kept, ())))
        for kept in sorted(exact.keys() | near.keys())
    ]


def drop_duplicates(samples: Iterable[Sample], clusters: Iterable[Cluster], ids: dict[int, str]) -> Iterator[Sample]:
    """The samples that are kept, in order. ids receives the id of every sample of a cluster, by index."""
    dropped: set[int] = set()
    keepers: set[int] = set()
    for cluster in clusters:
        keepers.add(cluster.kept)
        dropped.update(cluster.exact, cluster.near)
    for index, sample in enumerate(samples):
        if index in dropped or index in keepers:
            ids[index] = sample.id
        if index not in dropped:
            yield sample
