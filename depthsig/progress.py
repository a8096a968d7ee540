"""Progress on standard error: quiet unless it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Stages with a bar each; ``visible=False`` shows nothing at all."""

    visible: bool = False

    @classmethod
    def of(cls, progress: bool | Progress) -> Progress:
        """What a function was given as its ``progress``."""
        return progress if isinstance(progress, Progress) else cls(bool(progress))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[float], None]]:
        """A stage of known or unknown length; yields ``tick(amount)``."""
        if not self.visible:
            yield lambda amount: None
            return
        from rich.console import Console  # start-up time
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn  # start-up time
        from rich.progress import Progress as Bars  # start-up time

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
            task = bars.add_task(name, total=total)
            yield lambda amount: bars.update(task, advance=amount)
