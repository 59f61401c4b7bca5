"""Calls parsed and matched a second, for every wire format, beside the plainest way to read the same text.

    python perf/formats.py [--file POOL.jsonl.gz]

The plainest way is what evaluation scripts do: `ast` for pythonic lists, a regular expression and json.loads for the
others. It checks nothing, so that a ratio near 1 means that the checks are free.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perf.harness import best_of
from toolrefine.config import FileDataset, ToolworldDataset
from toolrefine.datasets import load_dataset
from toolrefine.errors import DataError
from toolrefine.formats import FORMATS
from toolrefine.matching import match
from toolrefine.types import Sample


def with_ast(text: str) -> list[tuple[str, dict[str, Any]]]:
    calls: list[ast.Call] = ast.parse(text, mode="eval").body.elts  # type: ignore[attr-defined]
    return [
        (ast.unparse(call.func), {str(item.arg): ast.literal_eval(item.value) for item in call.keywords})
        for call in calls
    ]


def with_json(pattern: str, key: str) -> Callable[[str], list[tuple[str, dict[str, Any]]]]:
    block = re.compile(pattern, re.DOTALL)

    def read(text: str) -> list[tuple[str, dict[str, Any]]]:
        found = [json.loads(each) for each in block.findall(text)]
        calls = [call for item in found for call in (item if isinstance(item, list) else [item])]
        return [(call["name"], call[key]) for call in calls]

    return read


PLAIN = {
    "pythonic": with_ast,
    "hermes": with_json(r"<tool_call>(.*?)</tool_call>", "arguments"),
    "llama3_json": with_json(r"(?:^|; )(\{.*?\}\})(?=; |$)", "parameters"),
    "xlam": with_json(r"^(.*)$", "arguments"),
    "mistral": with_json(r"\[TOOL_CALLS\](.*)", "arguments"),
}


def measure(name: str, samples: list[Sample]) -> tuple[int, float, float | None]:
    """Calls, seconds of toolrefine, seconds of the plain way where there is one."""
    wire = FORMATS[name]
    texts = []
    for sample in samples:
        try:
            texts.append((wire.render(sample.target.tool_calls), sample))
        except DataError:
            continue

    def ours() -> None:
        for text, sample in texts:
            calls = wire.parse(text, tools=sample.tools).calls
            if calls:
                match(calls, sample.target.tool_calls, sample.tools)

    seconds = best_of(ours)
    plain = None
    if name in PLAIN:
        readable = []
        for text, sample in texts:
            try:
                PLAIN[name](text)
            except (ValueError, SyntaxError, KeyError, AttributeError):
                continue
            readable.append((text, [(call.name, call.arguments) for call in sample.target.tool_calls]))

        def theirs() -> None:
            for text, wanted in readable:
                read = PLAIN[name](text)
                sorted(map(repr, read)) == sorted(map(repr, wanted))  # noqa: B015

        plain = best_of(theirs) * len(texts) / max(1, len(readable))
    return sum(len(sample.target.tool_calls) for _, sample in texts), seconds, plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="canonical rows; the tool world's by default")
    parser.add_argument("--limit", type=int, default=2000)
    arguments = parser.parse_args()
    config = (
        FileDataset(format="canonical", source=str(arguments.file), limit=arguments.limit)
        if arguments.file
        else ToolworldDataset(format="toolworld", domain="observatory", size=arguments.limit)
    )
    samples = [sample for sample in load_dataset(config) if sample.target.tool_calls]
    print(f"{'format':16} {'calls/s':>10} {'plain/ours':>11}")
    for name in FORMATS:
        calls, seconds, plain = measure(name, samples)
        print(f"{name:16} {calls / seconds:10,.0f} {'' if plain is None else f'{plain / seconds:11.2f}'}")


if __name__ == "__main__":
    main()
