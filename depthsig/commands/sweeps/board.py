"""What becomes of a sweep's units, shown as it happens: a table in a terminal, elsewhere a line a unit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.errors import visible
from depthsig.progress import Progress
from depthsig.terms import counted

MOST_SHOWN = 12
"""Units that a terminal shows at once: those that run, then those that ended last."""


class Board:
    """Told of every unit that begins and ends; shows nothing where progress is not wanted.

    Args:
        units: the folders of all. before: how many were done before.
    """

    def __init__(self, show: Progress, units: Sequence[str], before: int) -> None:
        self.show, self.count, self.ended = show, len(units), before
        self.before, self.failed = before, 0
        self.running: dict[str, float] = {}
        self.last: list[tuple[str, str]] = []
        self._live: Any = None

    def __enter__(self) -> Board:
        if self.show.bars:
            from rich.console import Console  # start-up time
            from rich.live import Live  # start-up time

            self._live = Live(
                get_renderable=self._table, console=Console(file=sys.stderr), refresh_per_second=2, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._say(self._summary())
        if isinstance(error, KeyboardInterrupt):
            self._say(f"{self._summary()}; those that are done are kept, and the same command with --resume goes on")

    def tell(self, unit: Unit, outcome: str | None) -> None:
        """A unit has begun (None), is done (empty), or failed, with the reason."""
        if outcome is None:
            self.running[unit.folder] = self.show.clock()
            return
        took = self.show.clock() - self.running.pop(unit.folder, self.show.clock())
        self.ended += 1
        self.failed += bool(outcome)
        said = f"failed: {outcome}" if outcome else f"done in {took:.0f} s"
        self.last = [(unit.folder, said), *self.last][:MOST_SHOWN]
        if self._live is None:
            self._say(f"{self.ended} of {self.count}: {unit.folder}: {said}")

    def _say(self, line: str) -> None:
        if self.show.visible:
            print(visible(line), file=sys.stderr, flush=True)

    def _summary(self) -> str:
        before = f", {self.before} of them before" if self.before else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ended} of {counted(self.count, 'unit')}{before}{failed}"

    def _table(self) -> Any:
        from rich.table import Table  # start-up time
        from rich.text import Text  # start-up time

        table = Table("unit", "state", title=self._summary(), title_justify="left", expand=False)
        now = self.show.clock()
        running = [(name, f"runs, {now - since:.0f} s") for name, since in self.running.items()]
        for name, state in [*running, *self.last][:MOST_SHOWN]:
            table.add_row(Text(visible(name)), Text(visible(state)))
        return table
