"""Rows of files and of the hub: streamed, with their place; what is no row comes as a RowError."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from toolrefine.datasets.rows import read_json
from toolrefine.errors import DataError, RowError

MAX_LINE_BYTES = 8 * 2**20
"""A longer line is quarantined unread: memory stays bounded whatever a file holds."""

HUB = "hub:"


def read_rows(source: str, split: str = "train") -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """(file:line, row) of a .json, .jsonl or .jsonl.gz file or of hub:OWNER/NAME, in order.

    Raises:
        DataError: the source is missing or cannot be read at all.
    """
    if source.startswith(HUB):
        yield from _read_hub(source.removeprefix(HUB), split)
        return
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file; name a .json, .jsonl or .jsonl.gz file, or hub:OWNER/NAME")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from _read_array(source, file) if path.suffix == ".json" else _read_lines(source, file)
    except (OSError, EOFError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error


def _read_lines(source: str, file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{source}:{number}"
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield where, RowError(f"longer than {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield where, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | RowError:
    try:
        row = read_json(line.decode("utf-8"), "line")
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8: {error}")
    except RowError as error:
        return error
    return row if isinstance(row, dict) else RowError("not a JSON object")


def _read_array(source: str, file: IO[bytes]) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    try:
        rows = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON: {error}; a file with one object a line is called .jsonl") from None
    if not isinstance(rows, list):
        raise DataError(f"{source}: not a JSON list of rows; a file with one object a line is called .jsonl")
    for number, row in enumerate(rows):
        yield f"{source}:{number}", row if isinstance(row, dict) else RowError("not a JSON object")


def _read_hub(name: str, split: str) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
        for number, row in enumerate(rows):
            yield f"{HUB}{name}:{number}", dict(row)
    except Exception as error:  # the hub client raises whatever its transports do
        raise DataError(f"{HUB}{name}: split {split} cannot be loaded: {error}") from error
