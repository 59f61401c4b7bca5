"""Samples as a file in toolrefine's own format, which toolrefine.datasets.canonical reads."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from toolrefine.types import Message, Sample, ToolCall


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Write one sample a line, gzipped if the path ends in .gz; the number of samples written.

    The file appears whole or not at all, and the same samples give the same bytes.
    """
    num_samples = 0
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as raw, _zipped(raw) if path.name.endswith(".gz") else nullcontext(raw) as file:
            for sample in samples:
                file.write(json.dumps(to_row(sample), ensure_ascii=False).encode() + b"\n")
                num_samples += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_samples


def _zipped(raw: io.BufferedWriter) -> AbstractContextManager[io.BufferedIOBase]:
    # Neither name nor time in the header: they would differ from run to run.
    return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)


def to_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of toolrefine's own format."""
    meta = dict(sample.meta)
    row: dict[str, Any] = {"id": sample.id, "source": sample.source}
    if isinstance(meta.get("license"), str) and meta["license"]:
        row["license"] = meta.pop("license")
    row["tools"] = [{"type": "function", "function": tool.model_dump()} for tool in sample.tools]
    row["messages"] = [_to_message(message) for message in sample.messages]
    row["target"] = [call.model_dump() for call in sample.target.tool_calls]
    if sample.target.content:
        row["target_text"] = sample.target.content
    return row | {"meta": meta}


def _to_message(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [_to_call(number, call) for number, call in enumerate(message.tool_calls)]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _to_call(number: int, call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": f"call_{number}", "type": "function", "function": {"name": call.name, "arguments": arguments}}
