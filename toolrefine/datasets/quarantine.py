"""Where bad rows go: one JSON object a row, with the file, the line, the reason, and the row's own text."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_MAX_REASON = 500
_MAX_TEXT = 2000


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

    def add(self, file: str, line: int, reason: str, text: str | None = None) -> None:
        """Put a row in quarantine; line counts from 1, and text is the row, None where there is none."""
        reason = _cut(reason, _MAX_REASON)
        self.num_rows += 1
        self.first = self.first or f"{file}:{line}: {reason}"
        if self._file is not None:
            text = None if text is None else _cut(text.rstrip("\r\n"), _MAX_TEXT)
            record = {"file": file, "line": line, "reason": reason, "text": text}
            # Python's own escapes, since a reason or a row may hold what cannot be encoded.
            self._file.write(json.dumps(record) + "\n")

    def count_targets(self, outcomes: Iterable[tuple[str, str]]) -> None:
        """Count what became of a sample with an invalid target: kinds of faults, each kept, repaired or quarantined."""
        for kind, outcome in outcomes:
            counts = self.invalid_targets.setdefault(kind, {})
            counts[outcome] = counts.get(outcome, 0) + 1


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


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
