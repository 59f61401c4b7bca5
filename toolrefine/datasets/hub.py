"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.files import MAX_ROW_BYTES, Row
from toolrefine.errors import DataError


def read_hub(name: str, split: str) -> Iterator[Row]:
    """The rows of one split, downloaded once and then read from the cache. line is the number of the row.

    Raises:
        DataError: it cannot be loaded: no such name or split, no network, or terms that were not accepted.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"hub:{name}, split {split!r}: cannot be loaded: {problem}; check the name and the network, accept the "
            "data set's terms on its page and run `hf auth login`, or download the file and give its path as source"
        ) from error
    for number, row in enumerate(rows, 1):
        # As text, so that rows of the hub and of files pass through the same strict reader.
        text = json.dumps(without_nulls(row), ensure_ascii=False, default=str)
        if len(text) > MAX_ROW_BYTES:
            yield Row(number, None, f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB")
        else:
            yield Row(number, text)


def without_nulls(value: Any) -> Any:
    """The value without the keys of its objects that are null.

    Arrow stores nested objects as columns, so each row comes with the keys of all rows, null where it has none.
    """
    match value:
        case dict():
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value
