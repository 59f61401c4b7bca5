"""Data sets: one source format a file; every row becomes samples or is quarantined with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from toolrefine.config import Dataset, FileDataset, ToolworldDataset
from toolrefine.datasets import canonical, openai, toolace, xlam
from toolrefine.datasets.fields import id_of, read_tools
from toolrefine.datasets.files import Row, read_file
from toolrefine.datasets.hub import read_hub
from toolrefine.datasets.quarantine import Quarantine, QuarantinedRow, open_quarantine, quarantined
from toolrefine.datasets.toolworld import generate
from toolrefine.errors import DataError, RowError
from toolrefine.matching import schema_violation
from toolrefine.types import Prompt, Sample

__all__ = ["READERS", "QuarantinedRow", "Reader", "dataset_name", "load_pool", "load_prompts", "load_rows"]

HUB = "hub:"

Reader = Callable[[dict[str, Any], str], Iterator[Sample]]
"""Turns a row into samples. The text says where the row stands and names samples without an id. Raises RowError."""

READERS: dict[str, Reader] = {
    "canonical": canonical.read_row,
    "openai": openai.read_row,
    "toolace": toolace.read_row,
    "xlam": xlam.read_row,
}


def load_pool(configs: Sequence[Dataset], quarantine: Path | None = None) -> list[Sample]:
    """All samples of some data sets, in order, each with an id of its own; bad rows go to the quarantine file.

    Raises:
        DataError: a source cannot be used at all, or there is not one sample.
    """
    pool: list[Sample] = []
    ids = UniqueIds()
    with open_quarantine(quarantine) as bad:
        for config in configs:
            for item in load_rows(config):
                if isinstance(item, QuarantinedRow):
                    bad.add(item)
                else:
                    unique = ids.make(item.id)
                    pool.append(item if unique == item.id else item.model_copy(update={"id": unique}))
    if not pool:
        names = ", ".join(map(dataset_name, configs)) or "no data sets"
        raise DataError(f"{names}: no usable sample: {_explain(bad, quarantine)}; check format, offset and limit")
    return pool


def load_rows(config: Dataset) -> Iterator[Sample | QuarantinedRow]:
    """The samples of one data set and what had to be quarantined, in order. Ids are as the source has them.

    Raises:
        DataError: the source cannot be used at all.
    """
    if isinstance(config, ToolworldDataset):
        yield from generate(config.domain, config.size, config.seed, config.wrong_label_rate)
        return
    name = dataset_name(config)
    for row in _rows(config):
        try:
            samples = list(READERS[config.format](row.read(), f"{name}:{row.line}"))
        except RowError as error:
            yield quarantined(config.source, row.line, str(error))
            continue
        for sample in samples:
            violation = schema_violation(sample.target.tool_calls, sample.tools)
            if violation and config.invalid_targets == "quarantine":
                reason = f"the target of sample {sample.id} is invalid: {violation}"
                yield quarantined(config.source, row.line, reason)
            else:
                yield sample if sample.source else sample.model_copy(update={"source": name})


def load_prompts(source: str, quarantine: Path | None = None, limit: int | None = None) -> tuple[list[Prompt], int]:
    """Prompts out of rows with messages, tools and perhaps an id; and how many rows are bad.

    What else a row holds, such as a target, is passed over.

    Raises:
        DataError: the source cannot be used at all, or there is not one prompt.
    """
    config = FileDataset(format="openai", source=source, limit=limit)
    prompts: list[Prompt] = []
    ids = UniqueIds()
    with open_quarantine(quarantine) as bad:
        for row in _rows(config):
            try:
                prompt = _read_prompt(row.read(), f"{dataset_name(config)}:{row.line}")
            except RowError as error:
                bad.add(quarantined(source, row.line, str(error)))
            else:
                prompts.append(prompt.model_copy(update={"id": ids.make(prompt.id)}))
    if not prompts:
        raise DataError(f"{source}: no usable prompt: {_explain(bad, quarantine)}; each row needs messages")
    return prompts, bad.num_rows


def dataset_name(config: Dataset) -> str:
    """What reports call a data set: its name in the config, else the domain, file or hub data set."""
    if config.name:
        return config.name
    if isinstance(config, ToolworldDataset):
        return config.domain
    name = config.source.removeprefix(HUB).rstrip("/").rpartition("/")[2]
    for suffix in (".gz", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return name


class UniqueIds:
    """Gives every id once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._num_uses: dict[str, int] = {}

    def make(self, wanted: str) -> str:
        """The wanted id if it is free, else with #2, #3 and so on behind it."""
        unique = wanted
        while unique in self._taken:
            self._num_uses[wanted] = self._num_uses.get(wanted, 1) + 1
            unique = f"{wanted}#{self._num_uses[wanted]}"
        self._taken.add(unique)
        return unique


def _rows(config: FileDataset) -> Iterator[Row]:
    if config.source.startswith(HUB):
        rows = read_hub(config.source.removeprefix(HUB), config.split)
    else:
        rows = read_file(Path(config.source))
    return islice(rows, config.offset, None if config.limit is None else config.offset + config.limit)


def _read_prompt(row: dict[str, Any], where: str) -> Prompt:
    messages = tuple(openai.read_messages(row.get("messages")).messages)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise RowError("messages: must end with a turn of the user or of a tool, for the model to answer")
    return Prompt(id=id_of(row, where), messages=messages, tools=read_tools(row.get("tools")))


def _explain(bad: Quarantine, path: Path | None) -> str:
    if bad.first is None:
        return "no rows"
    place = f" (all are listed in {path})" if path else ""
    return f"{bad.num_rows} bad rows{place}, the first at {bad.first.file}:{bad.first.line}: {bad.first.reason}"
