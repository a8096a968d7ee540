"""Progress on standard error: bars in a terminal and a notebook, now and then a line where nothing else can be shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from depthsig.notebook import in_notebook

EVERY = 30.0
"""Seconds between two lines."""


@dataclass(frozen=True)
class Progress:
    """Stages with a bar each, or with a line every half minute; ``visible=False`` shows nothing at all.

    Attributes:
        clock: seconds that only grow.
    """

    visible: bool = False
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, progress: bool | Progress | None) -> Progress:
        """What a function was given as its ``progress``; None: in a terminal and in a notebook."""
        if isinstance(progress, Progress):
            return progress
        return cls(_is_terminal() or in_notebook() if progress is None else bool(progress))

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """A stage of known or unknown length; yields ``tick(amount)``."""
        if not self.visible:
            yield lambda amount: None
            return
        if not _is_terminal() and not in_notebook():
            yield _Lines(name, total, self.clock).tick
            return
        from rich.console import Console  # start-up time
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn  # start-up time
        from rich.progress import Progress as Bars  # start-up time

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        # A notebook shows bars by rich's own means, which a console of a file would be kept from.
        console = Console(stderr=True) if in_notebook() else Console(file=sys.stderr)
        with Bars(*columns, console=console, transient=True) as bars:
            task = bars.add_task(name, total=total)
            yield lambda amount: bars.update(task, advance=amount)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
    """A stage whose progress is told in lines, the first after half a minute: a quick stage tells nothing."""

    def __init__(self, name: str, total: float | None, clock: Callable[[], float]) -> None:
        self.name, self.total, self.clock = name, total, clock
        self.start = self.told = clock()
        self.done = 0.0

    def tick(self, amount: float) -> None:
        """Count, and write a line where the last one is long ago."""
        self.done += amount
        now = self.clock()
        if now - self.told < EVERY:
            return
        self.told = now
        far = "" if not self.total else f" {min(1.0, self.done / self.total):.0%},"
        print(f"{self.name}:{far} {now - self.start:.0f} s so far", file=sys.stderr, flush=True)
