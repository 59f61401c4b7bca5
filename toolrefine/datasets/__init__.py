"""Data sets: one source format a file, every row either samples or quarantined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from toolrefine.config import Dataset, FileDataset, ToolworldDataset
from toolrefine.datasets import apibank, canonical, glaive, hermes, openai, sharegpt, toolace, toolbench, trl, xlam
from toolrefine.datasets.detect import NUM_ROWS, detect_format
from toolrefine.datasets.files import Row, read_file
from toolrefine.datasets.hub import read_hub
from toolrefine.datasets.quarantine import Quarantine, open_quarantine
from toolrefine.datasets.targets import check_target
from toolrefine.datasets.toolworld import generate
from toolrefine.datasets.wrong_labels import SeenValues, make_wrong
from toolrefine.errors import DataError, RowError
from toolrefine.types import Sample

__all__ = [
    "READERS",
    "Quarantine",
    "ReadRow",
    "Reader",
    "dataset_name",
    "load_dataset",
    "load_pool",
    "local_files",
    "open_quarantine",
    "raw_rows",
    "read_rows",
    "source_of",
]

Reader = Callable[[dict[str, Any], str], Iterator[Sample]]
"""Turns a row into samples. The text says where the row stands and names samples without an id. Raises RowError."""

READERS: dict[str, Reader] = {
    "canonical": canonical.read_row,
    "openai": openai.read_row,
    "trl": trl.read_row,
    "hermes": hermes.read_row,
    "sharegpt": sharegpt.read_row,
    "glaive": glaive.read_row,
    "toolace": toolace.read_row,
    "toolbench": toolbench.read_row,
    "apibank": apibank.read_row,
    "xlam": xlam.read_row,
}

log = logging.getLogger(__name__)


class ReadRow(NamedTuple):
    """A row that has been read."""

    line: int
    """As of a Row; of the generator, the number of the sample."""
    text: str | None
    """The row as it stands there; None where it has no text."""
    samples: list[Sample] | RowError
    """Its samples, whose targets are not checked, or what is wrong with it."""
    format: str = "toolworld"
    """What it was read as."""


def load_pool(configs: Sequence[Dataset], quarantine: Path | None = None) -> list[Sample]:
    """All samples of some data sets, in order, each with an id of its own; bad rows go to the quarantine file.

    Raises:
        DataError: a source cannot be used at all, or there is not one sample.
    """
    pool: list[Sample] = []
    taken: set[str] = set()
    num_uses: dict[str, int] = {}
    with open_quarantine(quarantine) as bad:
        for config in configs:
            for sample in load_dataset(config, bad):
                unique = _unique_id(sample.id, taken, num_uses)
                pool.append(sample if unique == sample.id else sample.model_copy(update={"id": unique}))
    for kind, counts in bad.invalid_targets.items():
        log.info("targets with %s: %s", kind, ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if not pool:
        names = ", ".join(map(dataset_name, configs)) or "no data sets"
        place = f"; all are listed in {quarantine}" if bad.num_rows and quarantine else ""
        raise DataError(
            f"{names}: no usable sample: {bad.problem}{place}; check the data set's format, offset and limit"
        )
    if bad.num_rows:
        where = f"all are in {quarantine}" if quarantine else "data validate lists them"
        log.info("left out: %d bad rows, the first at %s; %s", bad.num_rows, bad.first.rstrip("."), where)
    return pool


def load_dataset(config: Dataset, quarantine: Quarantine | None = None) -> Iterator[Sample]:
    """The samples of one data set, in order. Ids are as the source has them.

    Raises:
        DataError: the source cannot be used at all.
    """
    quarantine = quarantine or Quarantine()
    name, source = dataset_name(config), source_of(config)
    for line, text, samples, _ in read_rows(config):
        if isinstance(samples, RowError):
            quarantine.add(source, line, str(samples), text)
            continue
        for sample in samples:
            checked, outcomes, reason = check_target(sample, config.invalid_targets)
            quarantine.count_targets(outcomes.items())
            if checked is None:
                quarantine.add(source, line, reason, text)
            else:
                yield checked if checked.source else checked.model_copy(update={"source": name})


def read_rows(config: Dataset) -> Iterator[ReadRow]:
    """Each row of a data set, and what it holds.

    Raises:
        FormatError: under format = auto, no format fits, or two do. This comes before the first row.
        DataError: the source cannot be used at all.
    """
    if isinstance(config, ToolworldDataset):
        made = generate(config.domain, config.size, config.seed, config.wrong_label_rate)
        yield from (ReadRow(number, None, [sample]) for number, sample in enumerate(made, 1))
    elif config.wrong_label_rate:
        yield from _spoil(list(_read_file_rows(config)), config.wrong_label_rate, config.seed)
    else:
        yield from _read_file_rows(config)


def _read_file_rows(config: FileDataset) -> Iterator[ReadRow]:
    name, rows = dataset_name(config), raw_rows(config)
    format_name: str = config.format
    if format_name == "auto":
        first = list(islice(rows, NUM_ROWS))
        if not first:
            return
        format_name, rows = _detect(first, name), chain(first, rows)
    for row in rows:
        samples: list[Sample] | RowError
        try:
            samples = list(READERS[format_name](row.read(), f"{name}:{row.line}"))
        except RowError as error:
            samples = error
        yield ReadRow(row.line, row.text, samples, format_name)


def _spoil(rows: Sequence[ReadRow], rate: float, seed: int) -> Iterator[ReadRow]:
    """Make a share of the targets wrong, with values of the others; meta["label"] tells which."""
    values = SeenValues(sample for row in rows if not isinstance(row.samples, RowError) for sample in row.samples)

    def spoil(sample: Sample) -> Sample:
        known = sample.model_copy(update={"meta": {**sample.meta, "label": "ok"}})
        rng = Random(f"{seed}/{sample.id}/label")
        return make_wrong(known, rng, values) if rng.random() < rate else known

    for row in rows:
        yield row if isinstance(row.samples, RowError) else row._replace(samples=[*map(spoil, row.samples)])


def source_of(config: Dataset) -> str:
    """Where samples come from, as quarantine and findings name it."""
    return config.domain if isinstance(config, ToolworldDataset) else config.source


def local_files(configs: Sequence[Dataset]) -> list[Path]:
    """The files of this machine that data sets are read from."""
    sources = [config.source for config in configs if not isinstance(config, ToolworldDataset)]
    return [Path(source) for source in sources if not source.startswith("hub:")]


def dataset_name(config: Dataset) -> str:
    """What reports call a data set: its name in the config, else the domain, file or hub data set."""
    if config.name:
        return config.name
    if isinstance(config, ToolworldDataset):
        return config.domain
    name = config.source.removeprefix("hub:").rstrip("/").rpartition("/")[2]
    for suffix in (".gz", ".jsonl", ".json", ".parquet", ".arrow"):
        name = name.removesuffix(suffix)
    return name


def raw_rows(config: FileDataset) -> Iterator[Row]:
    """The rows of a data set as they stand there, between its offset and its limit.

    Raises:
        DataError: the source cannot be used at all.
    """
    hub_name = config.source.removeprefix("hub:")
    rows = read_file(Path(hub_name)) if hub_name == config.source else read_hub(hub_name, config.split)
    return islice(rows, config.offset, None if config.limit is None else config.offset + config.limit)


def _detect(rows: Sequence[Row], name: str) -> str:
    readable = []
    for row in rows:
        with suppress(RowError):
            readable.append(row.read())
    return detect_format(readable, READERS, name)


def _unique_id(wanted: str, taken: set[str], num_uses: dict[str, int]) -> str:
    """An id that is not taken yet: the wanted one, else with #2, #3 and so on behind it."""
    unique = wanted
    while unique in taken:
        num_uses[wanted] = num_uses.get(wanted, 1) + 1
        unique = f"{wanted}#{num_uses[wanted]}"
    taken.add(unique)
    return unique
