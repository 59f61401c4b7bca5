"""xLAM (arXiv 2406.18518, Salesforce/xlam-function-calling-60k on the hub): {"id", "query", "tools", "answers"}.

tools and answers are JSON text. A tool's parameters are a bare map {name: {"description", "type", "default"}} whose
types are Python's, with ", optional" behind them where the parameter is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolrefine.datasets.fields import id_of, read_calls, text_of
from toolrefine.datasets.tool_schema import read_tools
from toolrefine.errors import RowError
from toolrefine.types import Message, Sample


def read_row(row: dict[str, Any], where: str) -> Iterator[Sample]:
    """The sample of one row; where becomes its id if the row has none.

    Raises:
        RowError: the row does not fit the format.
    """
    for key in ("query", "tools", "answers"):
        if row.get(key) is None:
            raise RowError(f"{key}: missing")
    yield Sample(
        id=id_of(row, where),
        messages=(Message(role="user", content=text_of(row["query"], "query")),),
        tools=read_tools(row["tools"]),
        target=Message(role="assistant", tool_calls=read_calls(row["answers"], "answers")),
    )
