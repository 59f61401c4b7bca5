"""Seconds to decode and check BFCL's way, beside BFCL's own code, in alternate rounds of one run.

    python perf/bfcl.py BFCL/bin/python [--data BFCL/lib/python3.11/site-packages/bfcl_eval/data]

BFCL/bin/python is that of an environment with bfcl-eval; tests/benchmarks/bfcl_official.py says how to make one. It
runs in a process of its own, because the two need different versions of tree-sitter. The work is that of the golden
tests and, with --data, BFCL's gold calls as texts, decoded and checked. Above a ratio of 1 toolrefine is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "benchmarks"))

from bfcl_cases import CATEGORIES, check_cases, decode_cases, gold_text, language_of

if TYPE_CHECKING:  # BFCL's Python has no toolrefine
    from perf.harness import Row

Decode = Callable[[str, str], Any]
Check = Callable[[dict[str, Any]], Any]
ROUNDS = 9
ROW_NAME, AT_LEAST = "decoding and checking: BFCL's own code", 1.0


def gold_cases(data: Path) -> Iterator[dict[str, Any]]:
    """BFCL's rows with the text of their gold calls as prediction."""
    for category in CATEGORIES:
        golds = {}
        for line in (data / "possible_answer" / f"BFCL_v4_{category}.json").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            golds[row["id"]] = row["ground_truth"]
        for line in (data / f"BFCL_v4_{category}.json").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield {
                "functions": row["function"],
                "prediction": gold_text(row["function"], golds[row["id"]], language_of(category)),
                "possible_answer": golds[row["id"]],
                "category": category,
                "underscore_to_dot": False,
            }


def build_parts(decode: Decode, check: Check, data: Path | None) -> dict[str, Callable[[], None]]:
    """The work by name. What cannot be decoded or checked is part of it."""
    checks = list(check_cases())
    texts: dict[str, list[str]] = {"python": [], "java": [], "javascript": []}
    for text, language in decode_cases():
        texts[language].append(text)

    def check_all() -> None:
        for case in checks:
            with contextlib.suppress(Exception):
                check(case)

    def decode_all(language: str) -> None:
        for text in texts[language]:
            with contextlib.suppress(Exception):
                decode(text, language)

    parts: dict[str, Callable[[], None]] = {f"check {len(checks)} cases": check_all}
    for language, found in texts.items():
        parts[f"decode {len(found)} {language} texts"] = lambda language=language: decode_all(language)  # type: ignore[misc]
    if data:
        rows = list(gold_cases(data))

        def score_all() -> None:
            for row in rows:
                check(row | {"prediction": decode(row["prediction"], language_of(row["category"]))})

        parts[f"decode and check {len(rows)} golds"] = score_all
    return parts


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def serve(data: Path | None) -> None:
    """Time BFCL's code on each part whose name comes in."""
    from bfcl_official import Official

    official = Official()
    parts = build_parts(official.decode, official.check, data)
    warnings.simplefilter("ignore")
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # BFCL prints what it cannot convert
        for line in sys.stdin:
            print(seconds(parts[line.rstrip("\n")]), file=out, flush=True)


def compare(python: str, data: Path | None, rounds: int = ROUNDS) -> tuple[Row, str]:
    """The row of all parts together, and a table of them."""
    from perf.harness import Row
    from toolrefine.benchmarks.bfcl.checker import check_calls
    from toolrefine.benchmarks.bfcl.decode import decode_response

    ours = build_parts(decode_response, lambda case: check_calls(**case), data)  # type: ignore[arg-type]
    command = [python, __file__, "--serve", *(["--data", str(data)] if data else [])]
    lines = [f"{'seconds':34} {'toolrefine':>10} {'BFCL':>8} {'ratio':>6}"]
    total_ours = total_theirs = 0.0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as official:  # noqa: S603

        def their_seconds(name: str) -> float:
            assert official.stdin and official.stdout
            print(name, file=official.stdin, flush=True)
            return float(official.stdout.readline())

        for name, work in ours.items():
            found = [(seconds(work), their_seconds(name)) for _ in range(rounds)]
            best_ours, best_theirs = map(min, zip(*found, strict=True))
            lines.append(f"{name:34} {best_ours:10.3f} {best_theirs:8.3f} {best_theirs / best_ours:6.2f}")
            total_ours, total_theirs = total_ours + best_ours, total_theirs + best_theirs
    row = Row(
        name=ROW_NAME,
        ratio=round(total_theirs / total_ours, 3),
        at_least=AT_LEAST,
        ours_s=round(total_ours, 4),
        peer_s=round(total_theirs, 4),
        rounds=rounds,
        note=", ".join(ours),
    )
    lines.append(f"{'all':34} {total_ours:10.3f} {total_theirs:8.3f} {total_theirs / total_ours:6.2f}")
    return row, "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs="?", default=sys.executable, help="of the environment with bfcl-eval")
    parser.add_argument("--data", type=Path, help="bfcl-eval's folder of data, for its gold calls")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.data)
    else:
        print(compare(arguments.python, arguments.data)[1])


if __name__ == "__main__":
    main()
