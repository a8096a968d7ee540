"""Batches that do not fit into a card's memory: in halves of their prompts, and one line where one is too much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch, part_of
from depthsig.engine.clean_run import CleanRun
from depthsig.engine.device import Pending
from depthsig.engine.network import Network
from depthsig.engine.room.halving import in_halves, no_room
from depthsig.measure.providers import Work


def clean_runs(
    network: Network, every: Iterable[Batch], *, parts: bool = False
) -> Iterator[tuple[Batch, CleanRun, Pending]]:
    """Every batch with its clean run, in pieces where it does not fit.

    Raises:
        NoRoomError: where a prompt by itself does not.
    """
    for batch in every:

        def run(first: int, last: int, batch: Batch = batch) -> tuple[Batch, CleanRun, Pending]:
            part, later = part_of(batch, first, last), Pending()
            with torch.no_grad(), undisturbed(network.module):
                return part, network.clean(part.ids, parts=parts, later=later), later

        with ended_in_one_line(network, batch, "the clean run"):
            yield from in_halves(network.module, "clean run", len(batch.rows), batch.ids.shape[1], run)


@contextmanager
def ended_in_one_line(on: Network | Work, batch: Batch, what: str) -> Iterator[None]:
    """Say in one line that a batch, which is as small as it can be, does not fit."""
    network = on if isinstance(on, Network) else on.network
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise no_room(f"{what} of a prompt of {batch.ids.shape[1]} tokens", network.dtype) from None
