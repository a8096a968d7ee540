"""Progress: bars in a terminal and a notebook, now and then a line on standard error where neither is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from depthsig.errors import InputError, shown, visible

EVERY = 30.0
"""Seconds between two lines."""
AT_FIRST, AGAIN = 1.0, 0.5
"""Seconds until a notebook shows a bar, so that a quick stage leaves nothing in it, and between two changes of it."""


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
        """What a function was given as its ``progress``; None: shown."""
        if progress is not None and not isinstance(progress, (bool, Progress)):
            raise InputError(f"progress is {shown(progress)}; it is True or False")
        return progress if isinstance(progress, Progress) else cls(progress is not False)

    @property
    def bars(self) -> bool:
        """Whether bars are shown that others may add theirs to."""
        return self.visible and _is_terminal()

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """A stage of known or unknown length; yields ``tick(amount)``."""
        name = visible(name)  # it may be a file's
        if not self.visible:
            yield lambda amount: None
            return
        from depthsig.notebook import in_notebook  # start-up time

        if in_notebook():
            bar = _InNotebook(name, total, self.clock)
            try:
                yield bar.tick
            finally:
                bar.end()
            return
        if not _is_terminal():
            yield _Lines(name, total, self.clock).tick
            return
        from rich.console import Console  # start-up time
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn  # start-up time
        from rich.progress import Progress as Bars  # start-up time

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
            task = bars.add_task(name, total=total)
            yield lambda amount: bars.update(task, advance=amount)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


class _Told:
    """A stage that is told of now and then, where it is ticked."""

    first, every = EVERY, EVERY

    def __init__(self, name: str, total: float | None, clock: Callable[[], float]) -> None:
        self.name, self.total, self.clock = name, total, clock
        self.start = clock()
        self.due = self.start + self.first
        self.done = 0.0

    def tick(self, amount: float) -> None:
        """Count, and tell where it is time."""
        self.done += amount
        now = self.clock()
        if now >= self.due:
            self.due = now + self.every
            self.tell(now - self.start)

    def tell(self, seconds: float) -> None:
        """Say how far it is."""
        far = f" {min(1.0, self.done / self.total):.0%}," if self.total else ""
        print(f"{self.name}:{far} {seconds:.0f} s so far", file=sys.stderr, flush=True)


class _Lines(_Told):
    """Lines of text; a stage of less than half a minute tells nothing."""


class _InNotebook(_Told):
    """A bar of the browser's own, which needs no widgets; it goes when the stage ends."""

    first, every = AT_FIRST, AGAIN

    def __init__(self, name: str, total: float | None, clock: Callable[[], float]) -> None:
        super().__init__(name, total, clock)
        self.handle: Any = None

    def tell(self, seconds: float) -> None:
        share = f' value="{min(1.0, self.done / self.total):.3f}"' if self.total else ""
        self._show(f"{escape(self.name)} <progress max=1{share}></progress> {seconds:.0f} s")

    def end(self) -> None:
        """Take the bar away."""
        if self.handle is not None:
            self._show("")

    def _show(self, html: str) -> None:
        from IPython.display import HTML, display  # start-up time

        if self.handle is None:
            self.handle = display(HTML(html), display_id=True)
        else:
            self.handle.update(HTML(html))
