"""Public benchmarks: their tasks, the judging of answers, and their own summaries. One folder or file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from toolrefine.benchmarks.task import Benchmark, Mode
from toolrefine.errors import DataError

Opener = Callable[[Path | None, Mode, Sequence[str]], Benchmark]


def _bfcl(data: Path | None, mode: Mode, categories: Sequence[str]) -> Benchmark:
    from toolrefine.benchmarks.bfcl.tasks import Bfcl

    return Bfcl(data=data, mode=mode, categories=categories)


def _acebench(data: Path | None, mode: Mode, categories: Sequence[str]) -> Benchmark:
    from toolrefine.benchmarks.acebench.tasks import AceBench

    return AceBench(data=data, categories=categories)


def _apibank(data: Path | None, mode: Mode, categories: Sequence[str]) -> Benchmark:
    from toolrefine.benchmarks.apibank import ApiBank

    _demand(data, "apibank")
    return ApiBank(data=data, mode=mode, categories=categories)


def _toolalpaca(data: Path | None, mode: Mode, categories: Sequence[str]) -> Benchmark:
    from toolrefine.benchmarks.toolalpaca import ToolAlpaca

    _demand(data, "toolalpaca")
    return ToolAlpaca(data=data, categories=categories)


def _demand(data: Path | None, name: str) -> None:
    if data is None:
        raise DataError(f"{name}: its data are not part of toolrefine; give them as --data DIR, see docs/{name}.md")


BENCHMARKS: dict[str, Opener] = {
    "bfcl": _bfcl,
    "acebench": _acebench,
    "apibank": _apibank,
    "toolalpaca": _toolalpaca,
}


def open_benchmark(name: str, data: Path | None, mode: Mode = "tools", categories: Sequence[str] = ()) -> Benchmark:
    """A public benchmark, of the user's copy in data.

    Raises:
        DataError: the data are missing; says how to get them.
        RequestError: a category that the benchmark does not have.
    """
    return BENCHMARKS[name](data, mode, categories)
