"""Prompts without targets: what there is to answer."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from toolrefine.datasets.canonical import read_row
from toolrefine.datasets.files import read_file
from toolrefine.datasets.quarantine import open_quarantine
from toolrefine.errors import DataError, RowError
from toolrefine.types import Prompt


def load_prompts(source: str, quarantine: Path, limit: int | None = None) -> tuple[list[Prompt], int]:
    """The prompts of canonical rows, a target being optional, and how many rows were bad.

    Raises:
        DataError: the file is missing, or holds no prompt.
    """
    prompts = []
    with open_quarantine(quarantine) as bad:
        for row in islice(read_file(Path(source)), limit):
            try:
                samples = list(read_row({"target": [], **row.read()}, f"{source}:{row.line}"))
            except RowError as error:
                bad.add(source, row.line, str(error))
                continue
            prompts += [Prompt(id=s.id, messages=s.messages, tools=s.tools) for s in samples]
    if not prompts:
        raise DataError(f"{source}: no prompt in it; a row needs messages and tools, {bad.num_rows} rows are bad")
    return prompts, bad.num_rows
