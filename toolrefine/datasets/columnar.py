"""Records of Parquet and Arrow files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolrefine.errors import DataError

SUFFIXES = (".parquet", ".arrow")

_BATCH_ROWS = 256


def read_records(path: Path) -> Iterator[dict[str, Any] | str]:
    """The rows of a file in order, each as an object, or what is wrong with it. One batch is in memory at a time.

    Raises:
        DataError: the file is missing or damaged.
    """
    import pyarrow

    if not path.is_file():
        raise no_such_file(path)
    try:
        for batch in _parquet_batches(path) if path.suffix == ".parquet" else _arrow_batches(path):
            _check(batch)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield from _records(batch.slice(start, _BATCH_ROWS))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: not a readable {path.suffix} file: {problem}; make or download it again") from None


def no_such_file(path: Path) -> DataError:
    """The error for a path that leads nowhere."""
    return DataError(f"{path}: no such file; source is the path of a file, or hub:OWNER/NAME")


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_BATCH_ROWS)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """A file is in Arrow's file format or, as the datasets library writes it, in its stream format."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        try:
            file = pyarrow.ipc.open_file(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            yield from pyarrow.ipc.open_stream(source)
        else:
            yield from map(file.get_batch, range(file.num_record_batches))


def _check(batch: Any) -> None:
    """Make sure that a batch can be read: of offsets that lead out of it pyarrow crashes.

    Raises:
        pyarrow.ArrowException: it is damaged. Text that is not UTF-8 is no damage.
    """
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid:
            column.view(_as_bytes(column.type)).validate(full=True)


def _as_bytes(kind: Any) -> Any:
    """The type with bytes in place of text."""
    import pyarrow

    match kind:
        case pyarrow.StructType():
            return pyarrow.struct([field.with_type(_as_bytes(field.type)) for field in kind])
        case pyarrow.ListType():
            return pyarrow.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
        case pyarrow.LargeListType():
            return pyarrow.large_list(kind.value_field.with_type(_as_bytes(kind.value_type)))
        case pyarrow.MapType():
            return pyarrow.map_(_as_bytes(kind.key_type), _as_bytes(kind.item_type))
    return {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}.get(kind, kind)


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    try:
        yield from batch.to_struct_array().to_pylist()
    except (ValueError, OverflowError):
        # Text that is not UTF-8, or a date that is none, costs its own row and no other.
        for index in range(batch.num_rows):
            try:
                yield from batch.slice(index, 1).to_struct_array().to_pylist()
            except (ValueError, OverflowError) as error:
                yield f"the row cannot be read: {error}"
