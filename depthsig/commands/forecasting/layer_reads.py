"""What a streamed model has to read: how often all of its layers, and how long that takes at the speed seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthsig.checkpoint.streaming.stream import stream_of
from depthsig.engine.batch import batches
from depthsig.engine.certificates import chosen_of
from depthsig.engine.memory import clean_tokens, divide
from depthsig.measure.clean.stored import Stored
from depthsig.measure.edited.edited_batch import EditedProvider
from depthsig.measure.edited_runs import edited_batches
from depthsig.measure.providers import Work
from depthsig.measure.schedule import providers

CERTIFYING = 9
"""Passes that certificates take, and one more for each prompt; of a chain of steps in its own order."""


@dataclass(frozen=True)
class LayersRead:
    """Layers that are read from files.

    Attributes:
        passes: over all layers. bytes: of the files. seconds: at the speed at which layers were read so far.
    """

    passes: int
    bytes: int
    seconds: float


def reading_of(work: Work, *, certified: bool) -> LayersRead | None:
    """What measuring reads; None where all weights are in memory.

    Args:
        certified: whether certificates are kept from before.
    """
    stream = stream_of(work.network.module)
    if stream is None:
        return None
    clean, edited = providers(work)
    ids, device = [p.ids for p in work.counted], work.network.device
    passes = 0 if certified else CERTIFYING + len(chosen_of([p.ids for p in work.prompts]))
    if any(not isinstance(one, Stored) for one in clean):
        most = clean_tokens(work.network, work.request.bytes)
        passes += sum(1 for _ in batches(ids, device, max_tokens=most, batch_size=work.batch_size))
    if edited:
        passes += _edited(work, edited)
    return LayersRead(passes, passes * stream.pass_bytes, passes * stream.pass_bytes / stream.speed)


def _edited(work: Work, jobs: Sequence[EditedProvider]) -> int:
    """A clean run for every batch, and a sweep for every group of runs whose states fit the memory."""
    budget, width = divide(work.network, work.request.bytes), work.network.trace.width
    again = 1 + any(job.needs_means for job in jobs)
    passes = 0
    for batch in edited_batches(work, work.counted):
        state = batch.ids.numel() * width * work.network.dtype.itemsize
        here = [work.counted[row] for row in batch.rows]
        runs = [max(job.cost(prompt).runs for prompt in here) for job in jobs]
        passes += again + sum(-(-int(number) // max(1, budget.states // state)) for number in runs)
    return passes
