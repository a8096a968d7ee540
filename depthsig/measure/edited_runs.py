"""Edited runs of an analysis: every job on every batch, each result a unit of work that can be kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch, batches, part_of
from depthsig.engine.clean_run import update_of
from depthsig.engine.device import Pending
from depthsig.engine.memory import Budget, divide
from depthsig.engine.room.halving import in_halves
from depthsig.engine.rows import Clean
from depthsig.errors import DepthsigWarning
from depthsig.measure.edited.edited_batch import EditedBatch, EditedProvider, Means
from depthsig.measure.fitting import clean_runs, ended_in_one_line
from depthsig.measure.providers import Work
from depthsig.measure.resume import WHOLE, Share, Units
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.truncated.truncated_runs import TruncatedRuns
from depthsig.measure.unit_cache import UnitCache, digest_of, unit_key
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples


def run_edited(
    work: Work, jobs: Sequence[EditedProvider], samples: Samples, units: Units, cache: UnitCache, show: Progress, *,
    share: Share = WHOLE,
) -> TokenRows:  # fmt: skip
    """Every job on every batch of a share; what is finished is kept, and what was measured before is taken."""
    rows = TokenRows()
    counted = work.counted
    if not jobs or not counted:
        return rows
    run = _common_of(work, jobs)
    total = sum(job.cost(p).runs * p.n_tokens for job in jobs for p in counted)
    digest = digest_of(run.means)
    with show.stage("edited runs", int(total)) as tick, torch.no_grad():
        for number, batch in enumerate(edited_batches(work, counted)):
            if not share.has(number):
                continue
            here, ground = [counted[r] for r in batch.rows], _Ground(run, batch, tick)
            for job in jobs:
                name = f"{job.name}-{number:05d}"
                key = unit_key(cache.ground, work, job, here, run.budget, parts=run.parts, means=digest)
                before = _before(
                    units, name, samples, cache, key, [one.id for one in work.request.on(*job.kinds)], here
                )
                if before is None:
                    piece, lines = ground.measure(job)
                    units.save(name, piece, lines)
                    cache.save(key, here, piece, lines)
                    samples.absorb(piece.state())
                    rows += lines
                else:
                    rows += before
                    tick(sum(job.cost(p).runs * p.n_tokens for p in here))
    cache.trim()
    return rows


def _before(
    units: Units, name: str, samples: Samples, cache: UnitCache, key: str | None, metrics: Sequence[str],
    here: Sequence[TokenPrompt],
) -> TokenRows | None:  # fmt: skip
    """A unit that an interrupted run of this analysis left, or that any analysis kept, added to ``samples``."""
    rows = units.load(name, samples)
    if rows is not None:
        cache.resumed += 1
        return rows
    found = cache.load(key, metrics, here, samples)
    if found is None:
        return None
    units.pass_on(name, found)
    return found[1]


@dataclass(frozen=True)
class _Common:
    """What all batches have in common.

    Attributes:
        parts: whether attention and MLP contributions are kept apart.
    """

    work: Work
    budget: Budget
    means: Means
    parts: bool


def _common_of(work: Work, jobs: Sequence[EditedProvider]) -> _Common:
    """Warns of what these jobs cannot measure here."""
    parts = work.verdict.parts and any(job.needs_parts for job in jobs)
    if not work.verdict.parts and any(job.needs_parts for job in jobs):
        message = f"where {work.network.anatomy.family} keeps its parts is not known"
        warnings.warn(f"attention and MLP rows are left out: {message}", DepthsigWarning, stacklevel=4)
    for job in jobs:
        if isinstance(job, TruncatedRuns):
            job.say_what_is_missing()
    means = Means()
    if any(job.needs_means for job in jobs):
        # Of all prompts, whichever positions are measured.
        means = _means(work, edited_batches(work, [p for p in work.prompts if p.n_tokens >= 2]), parts)
    return _Common(work, divide(work.network, work.request.bytes), means, parts)


class _Ground:
    """A batch that jobs are measured on: as a whole, or in halves where it does not fit.

    Its clean run is made when the first job asks for it.
    """

    def __init__(self, run: _Common, batch: Batch, tick: Callable[[float], None]) -> None:
        self.run, self.batch, self.tick = run, batch, tick
        self.clean: tuple[tuple[int, int], Clean] | None = None

    def measure(self, job: EditedProvider) -> tuple[Samples, TokenRows]:
        """A job's unit on the batch."""
        work, batch = self.run.work, self.batch
        whole, rows = Samples(len(work.prompts)), TokenRows()
        pieces = in_halves(
            work.network.module, "edited runs", len(batch.rows), batch.ids.shape[1], partial(self._some, job)
        )
        with ended_in_one_line(work, batch, f"one run ({job.name})"):
            for piece, lines in pieces:
                whole.absorb(piece.state())
                rows += lines
        return whole, rows

    def _some(self, job: EditedProvider, first: int, last: int) -> tuple[Samples, TokenRows]:
        """A job on some rows of the batch; what it ticked counts only if it ends."""
        run, ticked = self.run, 0.0

        def tick(amount: float) -> None:
            nonlocal ticked
            ticked += amount
            self.tick(amount)

        piece, lines, later = Samples(len(run.work.prompts)), TokenRows(), Pending()
        try:
            with undisturbed(run.work.network.module):
                clean = self._clean(first, last, later)
                job.run(EditedBatch(run.work, clean, run.budget, run.means, run.parts, tick, later), piece, lines)
                later.settle()
        except torch.cuda.OutOfMemoryError:
            self.clean = None
            self.tick(-ticked)
            raise
        return piece, lines

    def _clean(self, first: int, last: int, later: Pending) -> Clean:
        if self.clean is None or self.clean[0] != (first, last):
            self.clean = None  # before another is made
            batch = self.batch if last - first == len(self.batch.rows) else part_of(self.batch, first, last)
            self.clean = (first, last), Clean.of(self.run.work.network, batch, parts=self.run.parts, later=later)
        return self.clean[1]


def edited_batches(work: Work, prompts: Sequence[TokenPrompt]) -> list[Batch]:
    """The batches that edited runs go over; the same for the same request, so that work can be resumed."""
    budget = divide(work.network, work.request.bytes)
    ids, device = [p.ids for p in prompts], work.network.device
    return list(batches(ids, device, max_tokens=budget.batch_tokens, batch_size=work.batch_size))


def _summed(states: Float[Tensor, "prompt token d"], mask: Bool[Tensor, "prompt token"]) -> Float[Tensor, "d"]:
    return torch.where(mask[..., None], states, 0.0).sum((0, 1), dtype=torch.float64)


def _means(work: Work, every: Sequence[Batch], parts: bool) -> Means:
    """Mean states and contributions over the counted tokens (all but the first) of all prompts."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for batch, run, later in clean_runs(work.network, every, parts=parts):
        later.settle()
        mask = batch.mask()
        mask[:, 0] = False
        count += sum(length - 1 for length in batch.lengths)
        pieces: dict[str, Sequence[torch.Tensor | None]] = {
            "states": run.states,
            "layer": [update_of(run, s) for s in range(len(run.inputs))],
        }
        if parts:
            pieces |= {"attn": run.attn, "mlp": run.mlp}
        for name, tensors in pieces.items():
            zero = torch.zeros(run.inputs[0].shape[-1], dtype=torch.float64, device=mask.device)
            total = torch.stack([zero if t is None else _summed(t, mask) for t in tensors])
            sums[name] = sums[name] + total if name in sums else total
    means = {name: (total / count).float() for name, total in sums.items()}
    return Means({k: v for k, v in means.items() if k != "states"}, means["states"])
