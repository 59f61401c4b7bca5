"""What a server counts, for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from toolrefine.server.admission import Admission
from toolrefine.server.answers import MAX_COUNT
from toolrefine.server.rounds import Settled

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counters of one server."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "toolrefine_requests", "Requests by kind and status.", ["kind", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "toolrefine_request_seconds", "Duration of a request.", ["kind"], registry=self.registry, buckets=BUCKETS
        )
        self.answers = Counter(
            "toolrefine_answers", "Drafts by why refinement stopped.", ["stop_reason"], registry=self.registry
        )
        self.rounds = Counter("toolrefine_rounds", "Rounds after the draft.", registry=self.registry)
        self.changed = Counter("toolrefine_changed", "Drafts that were replaced.", registry=self.registry)
        self.failed = Counter("toolrefine_failed_rounds", "Rounds that failed.", registry=self.registry)
        self.disconnects = Counter("toolrefine_disconnects", "Clients that went away.", registry=self.registry)
        self.tokens = Counter("toolrefine_round_tokens", "Tokens of the rounds.", ["kind"], registry=self.registry)
        active = Gauge("toolrefine_active_requests", "Requests worked on.", registry=self.registry)
        active.set_function(lambda: admission.num_active)
        waiting = Gauge("toolrefine_waiting_requests", "Requests in the queue.", registry=self.registry)
        waiting.set_function(lambda: admission.num_waiting)

    def count_answer(self, settled: Settled) -> None:
        """Count one draft and its rounds."""
        self.answers.labels(settled.stop_reason).inc()
        if not settled.num_rounds:
            return
        self.rounds.inc(settled.num_rounds)
        self.changed.inc(settled.changed)
        self.failed.inc(settled.failed)
        usage: dict[str, Any] = settled.usage if isinstance(settled.usage, dict) else {}
        for kind in ("prompt", "completion"):
            number = usage.get(f"{kind}_tokens")
            if isinstance(number, int) and 0 < number <= MAX_COUNT:
                self.tokens.labels(kind).inc(number)

    def page(self) -> bytes:
        """All counts, as Prometheus reads them."""
        return generate_latest(self.registry)
