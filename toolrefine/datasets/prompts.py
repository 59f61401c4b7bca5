"""Prompts without targets: what there is to answer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from toolrefine.config import FileDataset
from toolrefine.datasets import dataset_name
from toolrefine.datasets.canonical import read_row
from toolrefine.datasets.files import read_file
from toolrefine.datasets.quarantine import open_quarantine
from toolrefine.errors import DataError, RowError
from toolrefine.types import Prompt


def load_prompts(path: Path, quarantine: Path, limit: int | None = None) -> tuple[list[Prompt], int]:
    """The prompts of canonical rows, in which a target is optional, and how many rows were bad.

    A row without an id gets the one that it has as a sample of a data set.

    Raises:
        DataError: the file is missing, or holds no prompt.
    """
    name = dataset_name(FileDataset(format="canonical", source=str(path)))
    prompts: dict[str, Prompt] = {}
    with open_quarantine(quarantine) as bad:
        for row in islice(read_file(path), limit):
            try:
                for sample in read_row({"target": [], **row.read()}, f"{name}:{row.line}"):
                    if sample.id in prompts:
                        raise RowError(f"id {sample.id!r} is there twice")
                    prompts[sample.id] = Prompt(id=sample.id, messages=sample.messages, tools=sample.tools)
            except RowError as error:
                bad.add(str(path), row.line, str(error), row.text)
    if not prompts:
        raise DataError(f"{path}: no prompt in it; a row needs messages and tools, {bad.num_rows} rows are bad")
    return list(prompts.values()), bad.num_rows
