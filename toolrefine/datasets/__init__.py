"""Datasets -> samples. One source format a file; a bad row is quarantined with its reason, never lost or fatal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from toolrefine.config import Dataset, FileDataset
from toolrefine.datasets import canonical, openai, toolace, toolworld, xlam
from toolrefine.datasets.files import HUB, read_rows
from toolrefine.errors import DataError, RowError
from toolrefine.matching import schema_violation
from toolrefine.types import Record, Sample

__all__ = ["READERS", "QuarantinedRow", "dataset_name", "load_pool", "load_rows"]

READERS: dict[str, Callable[[dict[str, Any], str], Iterator[Sample]]] = {
    "canonical": canonical.read_row,
    "openai": openai.read_row,
    "toolace": toolace.read_row,
    "xlam": xlam.read_row,
}


class QuarantinedRow(Record):
    """A row that could not be used."""

    file: str
    line: int
    """Counted from 1 in files with one row a line, from 0 in JSON lists and on the hub."""
    reason: str


def dataset_name(dataset: Dataset) -> str:
    """Label of a data set in reports and file names."""
    if dataset.name:
        return dataset.name
    if isinstance(dataset, FileDataset):
        return dataset.source.removeprefix(HUB).replace("\\", "/").rsplit("/", 1)[-1].split(".")[0]
    return dataset.domain


def load_pool(datasets: Sequence[Dataset], quarantine: Path | None = None) -> list[Sample]:
    """All samples of some data sets, with unique ids; bad rows are written to the quarantine file, if there are any.

    Raises:
        DataError: a source cannot be read at all, or no sample is left.
    """
    samples: list[Sample] = []
    bad: list[QuarantinedRow] = []
    ids: set[str] = set()
    for dataset in datasets:
        for item in load_rows(dataset):
            if isinstance(item, QuarantinedRow):
                bad.append(item)
            else:
                samples.append(_with_unique_id(item, ids))
    if bad and quarantine is not None:
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        partial = quarantine.with_name(quarantine.name + ".partial")
        partial.write_text("".join(row.model_dump_json() + "\n" for row in bad), encoding="utf-8")
        partial.replace(quarantine)
    if not samples:
        names = ", ".join(dataset_name(dataset) for dataset in datasets)
        why = f"all {len(bad)} rows are bad, the first one: {bad[0].reason}" if bad else "there are no rows"
        raise DataError(f"{names}: no sample to work with: {why}; check datasets.format")
    return samples


def load_rows(dataset: Dataset) -> Iterator[Sample | QuarantinedRow]:
    """The samples of one data set, and the rows that are none, in order.

    Raises:
        DataError: the source cannot be read at all.
    """
    if not isinstance(dataset, FileDataset):
        yield from toolworld.generate(dataset.domain, dataset.size, dataset.seed, dataset.wrong_label_rate)
        return
    stop = None if dataset.limit is None else dataset.offset + dataset.limit
    for where, row in islice(read_rows(dataset.source, dataset.split), dataset.offset, stop):
        try:
            yield from read_samples(row, where, dataset)
        except RowError as error:
            file, _, line = where.rpartition(":")
            yield QuarantinedRow(file=file, line=int(line), reason=str(error))


def read_samples(row: dict[str, Any] | RowError, where: str, dataset: FileDataset) -> list[Sample]:
    """The samples of one row, all of them good.

    Raises:
        RowError: the row is bad, or a target contradicts its tools.
    """
    if isinstance(row, RowError):
        raise row
    samples = list(READERS[dataset.format](row, where))
    for sample in samples:
        violation = schema_violation(sample.target.tool_calls, sample.tools)
        if violation is not None and dataset.invalid_targets == "quarantine":
            raise RowError(f"target: {violation}")
        _check_json(sample)
    return samples


def _check_json(sample: Sample) -> None:
    """What cannot be written as UTF-8 JSON (a lone surrogate) cannot be kept either."""
    try:
        sample.model_dump_json()
        json.dumps(sample.model_dump(), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise RowError(f"not storable as JSON: {error}") from None


def _with_unique_id(sample: Sample, ids: set[str]) -> Sample:
    unique, number = sample.id, 1
    while unique in ids:
        number += 1
        unique = f"{sample.id}#{number}"
    ids.add(unique)
    return sample if unique == sample.id else sample.model_copy(update={"id": unique})
