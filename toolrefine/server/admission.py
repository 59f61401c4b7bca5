"""How many requests are worked on at once, how many wait, and which are sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toolrefine.server.errors import RefusalError


class Admission:
    """A bounded number of places, and a bounded queue before them, first come first served."""

    def __init__(self, max_concurrency: int, max_queue: int) -> None:
        self.max_concurrency = max_concurrency
        self.max_queue = max_queue
        self.num_active = 0
        self._waiting: dict[asyncio.Future[None], None] = {}

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place to work in.

        Raises:
            RefusalError: 429, the queue is full.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.num_active < self.max_concurrency:
            self.num_active += 1
            return
        if len(self._waiting) >= self.max_queue:
            raise RefusalError(429, "too_many_requests", "too many requests at once; try again", {"Retry-After": "1"})
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn  # whoever leaves hands its place over
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            self._waiting.pop(turn, None)
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            if not turn.done():
                turn.set_result(None)
                return
        self.num_active -= 1
