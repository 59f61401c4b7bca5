"""Reading the files of a benchmark's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolrefine.errors import DataError


def read_rows(path: Path, how_to_get: str) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line; how_to_get ends the message where they cannot be read.

    Raises:
        DataError: it is missing, or not that.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; {how_to_get}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: not one JSON object a line; {how_to_get}")
    return rows
