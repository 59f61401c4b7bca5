"""Where bad rows go: one JSON object a row, with the file, the line and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from toolrefine.types import Record

_MAX_REASON = 500


class QuarantinedRow(Record):
    """A row, or a sample of one, that cannot be used."""

    file: str
    """The source, as the config names it."""
    line: int
    """From 1; the number of the row for a data set on the hub."""
    reason: str


class Quarantine:
    """Counts bad rows, and writes them down where a file is given."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self.num_rows = 0
        self.first: QuarantinedRow | None = None
        self._file = file

    def add(self, row: QuarantinedRow) -> None:
        """Put a row in quarantine."""
        self.num_rows += 1
        self.first = self.first or row
        if self._file is not None:
            self._file.write(json.dumps(row.model_dump()) + "\n")


@contextmanager
def open_quarantine(path: Path | None) -> Iterator[Quarantine]:
    """A quarantine that becomes a file at path when the block ends; without a path it only counts.

    The file appears whole or, if the block fails, not at all.
    """
    if path is None:
        yield Quarantine()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield Quarantine(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def quarantined(file: str, line: int, reason: str) -> QuarantinedRow:
    """A bad row, its reason cut to a readable length: it may quote the row."""
    reason = reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 3]}..."
    return QuarantinedRow(file=file, line=line, reason=reason)
