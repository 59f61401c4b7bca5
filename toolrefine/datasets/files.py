"""Rows of JSON, Parquet and Arrow files, one at a time and in bounded memory, however broken the file."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from toolrefine.datasets.columnar import SUFFIXES, no_such_file, read_records
from toolrefine.datasets.fields import parse_row
from toolrefine.errors import DataError, RowError

MAX_ROW_BYTES = 8 * 2**20
"""A longer row is quarantined unread. Real rows stay below 0.1 MiB; what is longer is a broken or hostile file."""

_BLOCK = 2**20
_START = 1024
_BOM = b"\xef\xbb\xbf"
_BETWEEN = re.compile(r"[\s,]*+")
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)


class Row(NamedTuple):
    """A row that has been found but not yet read."""

    line: int
    """Line of the file, from 1, on which the row starts; the number of the row where there are no lines."""
    text: str | None
    fault: str = ""
    """Why there is no text."""

    def read(self) -> dict[str, Any]:
        """The row as an object.

        Raises:
            RowError: it is none.
        """
        if self.text is None:
            raise RowError(self.fault)
        return parse_row(self.text)


def to_row(number: int, record: Any) -> Row:
    """A record that comes as an object. As text, so that all rows pass through the same strict reader."""
    text = json.dumps(without_nulls(record), ensure_ascii=False, default=str)
    if len(text) > MAX_ROW_BYTES:
        return Row(number, None, _too_long())
    return Row(number, text)


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


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file; no blank lines.

    A .json file is a list, or one object a line; .jsonl is one object a line; either of them may be gzipped. The others
    are .parquet and .arrow.

    Raises:
        DataError: the file is missing or of another kind, is damaged, or its list is not JSON.
    """
    if path.suffix in SUFFIXES:
        for number, record in enumerate(read_records(path), 1):
            yield Row(number, None, record) if isinstance(record, str) else to_row(number, record)
        return
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    if suffix not in ("json", "jsonl"):
        if not path.exists():
            raise no_such_file(path)
        raise DataError(
            f"{path}: not a .json, .jsonl, .json.gz, .jsonl.gz, .parquet or .arrow file; convert it to one of these"
        )
    with _opened(path) as file:
        start = file.read(_START)
        file.seek(0)
        is_list = suffix == "json" and start.removeprefix(_BOM).lstrip().startswith(b"[")
        yield from _list_items(path, file) if is_list else _lines(file)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unzipped:
            yield cast("IO[bytes]", unzipped) if path.name.endswith(".gz") else raw
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: a damaged gzip file ({error}); make or download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _too_long() -> str:
    return f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB"


def _lines(file: IO[bytes]) -> Iterator[Row]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_BLOCK)) and not rest.endswith(b"\n"):
                pass
            yield Row(number, None, _too_long())
            continue
        line = line.removeprefix(_BOM) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield Row(number, line.decode("utf-8"))
        except UnicodeDecodeError as error:
            fault = f"the row is not UTF-8: byte {line[error.start]:#04x} at position {error.start + 1}"
            yield Row(number, None, fault)


def _list_items(path: Path, file: IO[bytes]) -> Iterator[Row]:
    """The items of a JSON list. They cannot be told apart behind a syntax error, so that one ends the file."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # Only where an item ends is asked here; its numbers may be longer than Python converts.
    decoder = json.JSONDecoder(parse_int=str)
    try:
        buffer = text.read(_START)
        position = buffer.index("[") + 1
        line = 1 + buffer.count("\n", 0, position)
        while True:
            between = _BETWEEN.match(buffer, position)
            start = between.end() if between else position
            line += buffer.count("\n", position, start)
            end, fault = _item_end(decoder, buffer, start)
            # An item that touches the end of the buffer may go on behind it.
            if end == len(buffer) and len(buffer) - start <= MAX_ROW_BYTES and (more := text.read(_BLOCK)):
                buffer, position = buffer[start:] + more, 0
            elif buffer[start:end] == "]":
                break
            elif fault:
                raise DataError(f"{path}:{line}: the list cannot be read from here on: {fault}; mend the file")
            else:
                yield Row(line, buffer[start:end])
                line += buffer.count("\n", start, end)
                position = end
        if buffer[end:].strip() or text.read(_BLOCK).strip():
            raise DataError(f"{path}:{line}: there is more behind the end of the list; use one object a line instead")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}; save the file as UTF-8") from None
    finally:
        text.detach()


def _item_end(decoder: json.JSONDecoder, buffer: str, start: int) -> tuple[int, str]:
    """Where the item at start ends, or the buffer's end and what is wrong with the item."""
    if buffer.startswith("]", start):
        return start + 1, ""
    try:
        return decoder.raw_decode(buffer, start)[1], ""
    except RecursionError as error:
        end = _nested_end(buffer, start)
        return (end, "") if end else (len(buffer), str(error))
    except ValueError as error:
        return len(buffer), str(error)


def _nested_end(buffer: str, start: int) -> int:
    """Where the list or object at start ends that is nested too deeply to be read, 0 where it does not."""
    depth = 0
    for found in _NESTING.finditer(buffer, start):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if found[0] == '"':  # a string that goes on behind the buffer
            return 0
        if depth == 0:
            return found.end()
    return 0
