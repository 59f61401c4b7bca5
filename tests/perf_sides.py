"""Sides for tests of the harness, in a module that their processes import quickly."""

from __future__ import annotations

from perf.harness import Facts, Work


def holding_side(megabytes: int) -> Work:
    held = []

    def work() -> Facts:
        held.append(bytearray(megabytes * 2**20))
        return {"rounds": len(held), "pages": sum(map(len, held)) // 4096}

    return work


def slow_side(seconds: float) -> Work:
    return lambda: {"seconds": seconds}


def failing_side() -> Work:
    raise ValueError("out of luck")
