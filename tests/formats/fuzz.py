"""Fuzzed strings through every parser: run by hand, since a million of them take minutes.

PYTHONPATH=tests python tests/formats/fuzz.py --strings 1000000
"""

from __future__ import annotations

import argparse
import random
import time

from strategies import SNIPPETS

from toolrefine.formats import FORMATS
from toolrefine.types import Outcome, Tool, ToolCall

NOISE = [
    *SNIPPETS,
    " ",
    "\n",
    "\t",
    "\x00",
    "\ud800",
    "é",
    "東",
    "🚆",
    "9" * 30,
    "true",
    "null",
    "f",
    "a=1",
    '"a":1',
    "]]",
    "}}",
]
CALLS = (ToolCall(name="f", arguments={"a": [1, {"b": "x\n"}], "s": 'it\'s "é"'}), ToolCall(name="g.h-i"))
TOOLS = (Tool(name="f", parameters={"type": "object", "properties": {"s": {"type": "string"}}}),)


def fuzzed(rng: random.Random, rendered: list[str]) -> str:
    """Pieces of formats in any order, or a rendered answer with pieces cut out, doubled and put in."""
    if rng.random() < 0.5:
        return "".join(rng.choices(NOISE, k=rng.randrange(1, 14)))
    text = rng.choice(rendered)
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(12))
        middle = rng.choice(["", text[start:end] * 2, rng.choice(NOISE), chr(rng.randrange(1, 0x3000))])
        text = text[:start] + middle + text[end:]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strings", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rendered = [wire.render(CALLS) for wire in FORMATS.values()]
    outcomes = dict.fromkeys(Outcome, 0)
    start = time.perf_counter()
    for number in range(arguments.strings):
        text = fuzzed(rng, rendered)
        truncated = number % 4 == 0
        for wire in FORMATS.values():
            outcomes[wire.parse(text, truncated, TOOLS).outcome] += 1
    seconds = time.perf_counter() - start
    print(f"{arguments.strings} strings through {len(FORMATS)} parsers without an exception in {seconds:.0f} s")
    print({outcome.value: count for outcome, count in outcomes.items()})
    worst = (0.0, "", "")
    for unit in {*NOISE, *rendered, "<think>", '{"name":"f","arguments":{"a":', "[f(a=[", "\\u"}:
        text = (unit * (2**20 // len(unit) + 1))[: 2**20]
        for name, wire in FORMATS.items():
            for opening in ("", rendered[list(FORMATS).index(name)][:25]):
                start = time.perf_counter()
                wire.parse(opening + text, tools=TOOLS)
                worst = max(worst, (time.perf_counter() - start, name, opening + unit))
    print(f"1 MiB of one piece repeated: {worst[0]:.2f} s at most ({worst[1]}, {worst[2]!r})")


if __name__ == "__main__":
    main()
