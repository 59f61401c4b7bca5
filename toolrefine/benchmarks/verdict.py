"""What the checkers of benchmarks say."""

from __future__ import annotations

from toolrefine.types import Record


class Verdict(Record):
    """Whether a prediction is right, and if not why."""

    valid: bool
    error_type: str = ""
    """Empty where valid."""
    counts: dict[str, float] = {}
    """What the benchmark's summary adds up over the tasks, such as the parts of an F1 score."""
