"""One JSON line a request, without headers, keys and, unless asked for, contents."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toolrefine.server.rounds import Settled

log = logging.getLogger("toolrefine.server.requests")


@dataclass
class Trace:
    """What becomes of one request."""

    id: str
    path: str
    kind: str = "passed"
    """passed, refined, or refused."""
    status: int = 0
    error: str = ""
    settled: Sequence[Settled] = ()
    drafts: Sequence[Any] = ()
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self.started


def set_up_logs() -> None:
    """Send the lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def log_request(trace: Trace, *, contents: bool) -> None:
    """Write the line of a request."""
    line: dict[str, Any] = {
        "time": round(time.time(), 3),
        "id": trace.id,
        "path": trace.path,
        "kind": trace.kind,
        "status": trace.status,
        "ms": round(1000 * trace.seconds, 1),
    }
    if trace.error:
        line["error"] = trace.error
    if trace.settled:
        line |= summary(trace.settled)
        if contents:
            line["drafts"] = trace.drafts
            line["answers"] = [each.choice.get("message") for each in trace.settled]
    log.info(json.dumps(line))


def summary(settled: Sequence[Settled]) -> dict[str, Any]:
    """What became of the drafts of a request."""
    return {
        "rounds": sum(each.num_rounds for each in settled),
        "stop_reasons": [each.stop_reason for each in settled],
        "changed": any(each.changed for each in settled),
    }
