"""Where bad rows go: one JSON object a row, with the file, the line and the reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_MAX_REASON = 500


class Quarantine:
    """Counts bad rows, and writes them down where a file is given."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self.num_rows = 0
        self.first = ""
        """The first bad row: where it is and what is wrong."""
        self.invalid_targets: dict[str, dict[str, int]] = {}
        """Kind of fault -> how many samples were kept, repaired and quarantined."""
        self._file = file

    @property
    def problem(self) -> str:
        """Why there may be no sample at all."""
        return f"{self.num_rows} bad rows, the first at {self.first}" if self.num_rows else "no rows"

    def add(self, file: str, line: int, reason: str) -> None:
        """Put a row in quarantine; line counts from 1."""
        reason = reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 3]}..."
        self.num_rows += 1
        self.first = self.first or f"{file}:{line}: {reason}"
        if self._file is not None:
            record = {"file": file, "line": line, "reason": reason}
            # Python's own escapes, since a reason may quote what cannot be encoded.
            self._file.write(json.dumps(record) + "\n")

    def count_targets(self, outcomes: Iterable[tuple[str, str]]) -> None:
        """Count what became of a sample with an invalid target: kinds of faults, each kept, repaired or quarantined."""
        for kind, outcome in outcomes:
            counts = self.invalid_targets.setdefault(kind, {})
            counts[outcome] = counts.get(outcome, 0) + 1


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
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(partial.unlink, missing_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            yield Quarantine(file)
        partial.replace(path)
