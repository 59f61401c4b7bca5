"""Two ways to do the same work, in alternate rounds, each in a process of its own.

A *side* is a function without arguments that loads what it needs and returns its *work*, a function that does the
whole work once. Sides travel to their processes by name: a side is a function of a module, or functools.partial of one.

    row = compare("sampling", partial(our_side, "30m"), partial(their_side, "30m"), at_least=5.0)
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import model_validator

from toolrefine.types import Record

Facts = Mapping[str, Any]
"""What a round has to tell, such as how much it has done. "seconds" replaces the wall time of the whole work."""
Work = Callable[[], Facts | None]
Side = Callable[[], Work]

PRELOAD = ["toolrefine.engines.transformers", "toolrefine.training.trainer"]
"""Imported once, before the first side: they take longer than many a side's work."""
MAX_ROUNDS = 15


class Timing(Record):
    """The rounds of one side."""

    seconds: float
    """Of the fastest round."""
    peak_mb: float | None
    """Most memory that a round held above the start of its process, weights included: resident, or on the GPU."""
    rounds: int
    facts: dict[str, Any] = {}
    """Of the last round."""


class Row(Record):
    """One line of the table: a ratio above 1 says that toolrefine is faster."""

    name: str
    ratio: float | None
    """Seconds of the peer over ours; absent where it could not be measured."""
    at_least: float | None
    """The target, where there is one."""
    ours_s: float | None = None
    peer_s: float | None = None
    ours_peak_mb: float | None = None
    peer_peak_mb: float | None = None
    rounds: int = 0
    note: str = ""
    reason: str = ""
    """Why there is no ratio."""

    @model_validator(mode="after")
    def _a_ratio_or_a_reason(self) -> Row:
        if (self.ratio is None) != bool(self.reason):
            raise ValueError("a row has either a ratio or a reason why there is none")
        return self

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is what was aimed at; None where there is no ratio or no aim."""
        return None if self.ratio is None or self.at_least is None else self.ratio >= self.at_least


class Results(Record):
    """What a run of the measurements writes."""

    machine: dict[str, Any]
    rows: list[Row]


def compare(
    name: str,
    ours: Side,
    peer: Side,
    *,
    at_least: float | None = None,
    rounds: int = 3,
    budget_s: float = 0.0,
    warm_up: bool = True,
    note: str = "",
) -> Row:
    """Measure two sides; see measure.

    Raises:
        RuntimeError: a side failed, with its traceback.
    """
    timings = measure({"ours": ours, "peer": peer}, rounds=rounds, budget_s=budget_s, warm_up=warm_up)
    return make_row(name, timings["ours"], timings["peer"], at_least=at_least, note=note)


def measure(
    sides: Mapping[str, Side], *, rounds: int = 3, budget_s: float = 0.0, warm_up: bool = True
) -> dict[str, Timing]:
    """Let each side do its work once, untimed, and then in turn for some rounds.

    Args:
        sides: by name.
        rounds: how many, at least.
        budget_s: seconds of rounds until which further ones follow, up to MAX_ROUNDS.
        warm_up: whether the untimed round is needed.

    Raises:
        RuntimeError: a side failed, with its traceback.
    """
    with ExitStack() as stack:
        processes = {name: stack.enter_context(open_side(name, side)) for name, side in sides.items()}
        for ask in processes.values():
            ask("warm up" if warm_up else "get ready")
        started = time.monotonic()
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        done = 0
        while done < rounds or (done < MAX_ROUNDS and time.monotonic() - started < budget_s):
            for name, ask in processes.items():
                found[name].append(ask("round"))
            done += 1
    return {
        name: Timing(
            seconds=min(each["seconds"] for each in results),
            peak_mb=max((each["peak_mb"] for each in results if each["peak_mb"] is not None), default=None),
            rounds=done,
            facts=results[-1]["facts"],
        )
        for name, results in found.items()
    }


def make_row(name: str, ours: Timing, peer: Timing, *, at_least: float | None = None, note: str = "") -> Row:
    """The row of two sides that were measured together."""
    return Row(
        name=name,
        ratio=round(peer.seconds / ours.seconds, 3),
        at_least=at_least,
        ours_s=round(ours.seconds, 4),
        peer_s=round(peer.seconds, 4),
        ours_peak_mb=None if ours.peak_mb is None else round(ours.peak_mb, 1),
        peer_peak_mb=None if peer.peak_mb is None else round(peer.peak_mb, 1),
        rounds=ours.rounds,
        note=note,
    )


def missing_row(name: str, reason: str, at_least: float | None = None) -> Row:
    """A row that could not be measured."""
    return Row(name=name, ratio=None, at_least=at_least, reason=reason)


@contextmanager
def open_side(name: str, side: Side) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A process for a side, as a function that has it do something and returns what it answers."""
    # A fork server imports the heavy libraries once; forking this process itself would copy its threads' locks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(side, there))
    process.start()
    there.close()

    def ask(what: str) -> dict[str, Any]:
        here.send(what)
        try:
            answer: dict[str, Any] = here.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"{name}: its process ended with status {process.exitcode}") from None
        if "error" in answer:
            raise RuntimeError(f"{name}: {answer['error']}")
        return answer

    try:
        yield ask
    finally:
        here.close()  # the process sees the end of its questions
        process.join()


def _serve(side: Side, questions: Connection) -> None:
    start_mb = _resident_mb("VmRSS")
    work: Work | None = None
    while True:
        try:
            question = questions.recv()
        except EOFError:
            return
        try:
            with Path(os.devnull).open("w") as nobody, redirect_stdout(nobody):
                work = work or side()
                answer = {} if question == "get ready" else timed(work)
            peak_mb = _peak_mb(start_mb)
            if question != "round":
                _forget_peak()  # what loading and a search for the best settings took is no part of the work
            if cuda := _cuda():
                cuda.empty_cache()  # the other sides share the GPU
            questions.send(answer | {"peak_mb": peak_mb})
        except Exception:
            questions.send({"error": traceback.format_exc()})


def timed(work: Work) -> dict[str, Any]:
    """Do a work once: {"seconds", "facts"}."""
    _synchronize()
    start = time.perf_counter()
    facts = dict(work() or {})
    _synchronize()
    seconds = time.perf_counter() - start
    return {"seconds": facts.pop("seconds", seconds), "facts": facts}


def best_of(work: Callable[[], None], rounds: int = 5) -> float:
    """Seconds of the fastest of some rounds in this process."""
    return min(float(timed(work)["seconds"]) for _ in range(rounds))


def _cuda() -> Any:
    """torch.cuda where this process uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _synchronize() -> None:
    if cuda := _cuda():
        cuda.synchronize()


def _peak_mb(start_mb: float | None) -> float | None:
    if cuda := _cuda():
        return float(cuda.max_memory_allocated()) / 2**20
    peak_mb = _resident_mb("VmHWM")
    return None if peak_mb is None or start_mb is None else peak_mb - start_mb


def _forget_peak() -> None:
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not every kernel lets a process do this
        Path("/proc/self/clear_refs").write_text("5")


def _resident_mb(field: str) -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
    }


def _cpu_model() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
