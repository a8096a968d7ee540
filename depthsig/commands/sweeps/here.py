"""A sweep in this process: one unit after another, those of a checkpoint together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from depthsig.commands.sweeps.beforehand import Trust
from depthsig.commands.sweeps.sweep_file import Unit
from depthsig.commands.sweeps.worker import Failed, Worker
from depthsig.signature import Signature

Result = tuple[Unit, "Signature | Failed | None"]
"""What became of a unit; None: it is begun."""


def run_here(groups: Sequence[Sequence[Unit]], trust: Trust) -> Iterator[Result]:
    """Every unit's signature, or why it has none."""
    worker = Worker(trust)
    for unit in (unit for group in groups for unit in group):
        yield unit, None
        yield unit, worker.analyse(unit)
