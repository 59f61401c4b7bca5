"""Progress of a run on standard error: a bar on a terminal, one line a finished stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class RichProgress:
    """Follows one stage at a time; a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description:32}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=self.console, transient=True)
        self.task: TaskID | None = None
        self.started = time.monotonic()

    def __enter__(self) -> RichProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def begin(self, what: str, total: int | None) -> None:
        """See toolrefine.rundir.Progress."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        else:
            self.started = time.monotonic()
        self.task = self.bars.add_task(what, total=total)

    def advance(self, done: int) -> None:
        """See toolrefine.rundir.Progress."""
        if self.task is not None:
            self.bars.update(self.task, completed=done)

    def end(self, what: str, found: bool) -> None:
        """See toolrefine.rundir.Progress."""
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None
        took = "found complete" if found else f"{time.monotonic() - self.started:.1f} s"
        self.console.print(f"[green]✓[/] {what:40} [dim]{took}[/]")
