"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator

from toolrefine.datasets.files import Row, to_row
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
        yield to_row(number, row)
