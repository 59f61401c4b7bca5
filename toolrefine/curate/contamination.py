"""Benchmark questions that occur among training prompts.

The measure is that of GPT-3 (arXiv 2005.14165, appendix C): a run of 13 words, without case and punctuation, that a
benchmark's text and a training text share. Questions for tools are often shorter than that:

- a question of 8 to 12 words must occur as a whole (GPT-3 lets n fall to 8 as well);
- one of fewer words must be a whole turn of the user and all that the benchmark item says, since such a run occurs
  by chance; below 3 words nothing is looked for;
- a run that stands in more than 10 items of the benchmark is its own boilerplate and does not count.

Compared are the turns of users alone: instructions, tools and answers repeat without any contamination.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolrefine.curate.words import words_of
from toolrefine.datasets.files import read_file
from toolrefine.errors import DataError, RowError
from toolrefine.types import Record, Sample

MIN_RUN_WORDS = 8
MIN_WORDS = 3
MAX_ITEMS = 10

TEXT_KEYS = ("question", "messages", "conversations", "instructions", "instruction", "input", "query", "prompt", "user")
"""Where benchmarks keep what a user says, in any case. BFCL and ACEBench have question, ToolAlpaca Instructions."""

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_SPEAKERS = re.compile(r"^(user|system|assistant): ", re.MULTILINE)
_TAGGED = re.compile(r"<user>(.*?)</user>", re.DOTALL)
_MAX_DEPTH = 16


class Item(NamedTuple):
    """What a user says in one item of a benchmark."""

    id: str
    texts: tuple[str, ...]


class Overlap(Record):
    """A sample that shares words with an item of a benchmark."""

    sample: str
    """Id of the sample."""
    item: str
    """Id of the item, behind the name of its file."""
    words: str
    """The first run of words that they share."""


class Benchmark:
    """The runs of words by which the items of a benchmark are recognised."""

    def __init__(self, items: Iterable[Item], num_words: int = 13) -> None:
        """Index the runs of num_words words of each item."""
        self.num_items = 0
        self.num_too_short = 0
        """Items that say too little to be looked for, or nothing but boilerplate."""
        self._runs: dict[str, list[str]] = {}
        self._whole: dict[str, list[str]] = {}
        self._shortest = min(MIN_RUN_WORDS, num_words)
        texts_of = []
        for item in items:
            self.num_items += 1
            texts = [words_of(text) for text in item.texts]
            texts_of.append((item.id, texts))
            for run in {run for words in texts for run in _runs(words, num_words)}:
                self._runs.setdefault(run, []).append(item.id)
        self._runs = {run: ids for run, ids in self._runs.items() if len(ids) <= MAX_ITEMS}
        found = {item_id for ids in self._runs.values() for item_id in ids}
        for item_id, texts in texts_of:
            if item_id in found:
                continue
            short = [words for words in texts if len(words) < self._shortest]
            if len(short) == 1 and len(short[0]) >= MIN_WORDS:
                self._whole.setdefault(" ".join(short[0]), []).append(item_id)
            else:
                self.num_too_short += 1
        parts = [run.split(" ") for run in self._runs]
        self._lengths = sorted({len(words) for words in parts})
        self._starts = {" ".join(words[: self._shortest]) for words in parts}

    def overlaps(self, samples: Iterable[Sample]) -> Iterator[Overlap]:
        """Each pair of a sample and an item that share words, in the order of the samples."""
        for sample in samples:
            found: dict[str, str] = {}
            for message in sample.messages:
                if message.role == "user":
                    for run, ids in self._matches(words_of(message.content)):
                        for item_id in ids:
                            found.setdefault(item_id, run)
            for item_id, run in found.items():
                yield Overlap(sample=sample.id, item=item_id, words=run)

    def _matches(self, words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        whole = " ".join(words)
        if whole in self._whole:
            yield whole, self._whole[whole]
        for start in range(len(words) - self._shortest + 1):
            # Most runs of a text are no start of a run of the benchmark, and one look tells.
            if " ".join(words[start : start + self._shortest]) in self._starts:
                for length in self._lengths:
                    run = " ".join(words[start : start + length])
                    if start + length <= len(words) and run in self._runs:
                        yield run, self._runs[run]


def _runs(words: Sequence[str], num_words: int) -> Iterator[str]:
    """The runs of so many words, or the whole text where it has fewer but enough."""
    if len(words) < min(MIN_RUN_WORDS, num_words):
        return
    length = min(num_words, len(words))
    for start in range(len(words) - length + 1):
        yield " ".join(words[start : start + length])


def load_items(path: Path) -> Iterator[Item]:
    """The items of a benchmark: a file, or all JSON files in a folder; rows that say nothing are passed over.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not path.is_dir():
        yield from _file_items(path, path.name)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
    if not files:
        raise DataError(f"{path}: no .json or .jsonl file in this folder; give the folder of the benchmark's data")
    for file in files:
        yield from _file_items(file, str(file.relative_to(path)))


def _file_items(path: Path, name: str) -> Iterator[Item]:
    dialogue: list[str] = []
    for row in read_file(path):
        try:
            value = row.read()
        except RowError:
            continue
        if isinstance(value.get("role"), str):  # a file of turns, as API-Bank has them
            dialogue += user_texts(value)
            continue
        own = value.get("id")
        where = f"{name}:{own}" if isinstance(own, str | int) else f"{name}:{row.line}"
        lists = [(key, item) for key, item in value.items() if key.lower() in TEXT_KEYS and _is_list_of_texts(item)]
        if lists:  # several questions in one row, each an item of its own
            for number, text in enumerate(text for _, texts in lists for text in texts):
                yield Item(f"{where}#{number}", (text,))
        elif texts := tuple(dict.fromkeys(text for text in user_texts(value) if text.strip())):
            yield Item(where, texts)
    if dialogue:
        yield Item(name, tuple(dialogue))


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def user_texts(value: Any, depth: int = 0) -> Iterator[str]:
    """What a user says in a row of some benchmark: turns of that role, or texts under one of the known keys."""
    if depth > _MAX_DEPTH:
        return
    match value:
        case str():
            yield from _user_turns(value)
        case list():
            for item in value:
                yield from user_texts(item, depth + 1)
        case {"type": "text", "text": str() as text}:
            yield text
        case {"role": str() as role, **rest} | {"from": str() as role, **rest}:
            if role.lower() in ("user", "human"):
                yield from (
                    text for key in ("content", "value", "text") for text in user_texts(rest.get(key), depth + 1)
                )
        case dict():
            for key, item in value.items():
                if key.lower() in TEXT_KEYS:
                    yield from user_texts(item, depth + 1)


def _user_turns(text: str) -> list[str]:
    """The user's turns of a text that may hold a whole conversation: behind `user: `, or in <user> tags."""
    tagged = _TAGGED.findall(text)
    if tagged:
        return tagged
    before, *parts = _SPEAKERS.split(text)
    if not parts:
        return [text]
    return [before, *(said for speaker, said in zip(parts[::2], parts[1::2], strict=True) if speaker == "user")]
