"""One schedule of all runs: every entry is fed by one provider, and no run is made twice for several entries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch, batches
from depthsig.engine.clean_run import update_of
from depthsig.engine.device import Pending
from depthsig.engine.memory import clean_tokens, divide
from depthsig.engine.rows import Clean
from depthsig.errors import DepthsigWarning, InputError
from depthsig.measure.clean.codas import Codas
from depthsig.measure.clean.passes import Passes
from depthsig.measure.clean.readouts import Readouts
from depthsig.measure.clean.states import States
from depthsig.measure.clean.stored import Stored
from depthsig.measure.edited.attributing import Attributing
from depthsig.measure.edited.edited_batch import EditedBatch, EditedProvider, Means
from depthsig.measure.edited.erasing import Erasing
from depthsig.measure.edited.isolated import Isolated
from depthsig.measure.edited.reordering import Reordering, Repeating
from depthsig.measure.edited.skipping import Skipping
from depthsig.measure.providers import CleanBatch, CleanProvider, Work
from depthsig.measure.request import Request
from depthsig.measure.resume import WHOLE, Piece, Share, Units
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.truncated.truncated_readouts import TruncatedReadouts
from depthsig.measure.truncated.truncated_runs import TruncatedRuns
from depthsig.measure.where import measured
from depthsig.metrics.entries.runs import OF_OTHERS
from depthsig.metrics.interventions import future_cuts
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples

CLEAN: tuple[type[CleanProvider], ...] = (States, Readouts, Passes, Codas, TruncatedReadouts, Stored)
EDITED: tuple[type[EditedProvider], ...] = (
    Skipping, Isolated, Reordering, Repeating, TruncatedRuns, Erasing, Attributing,
)  # fmt: skip
OF_TABLES = OF_OTHERS
""":mod:`depthsig.tables` provides what is made of other entries' values."""


def providers(work: Work) -> tuple[list[CleanProvider], list[EditedProvider]]:
    """Who measures what a request needs, each with its own entries.

    Raises:
        InputError: for a metric that nobody provides, or whose run this model does not have.
    """
    check_provided(work.request)
    clean = [p(work, found) for p in CLEAN if (found := work.request.on(*p.kinds))]
    edited = [p(work, found) for p in EDITED if (found := work.request.on(*p.kinds))]
    return clean, edited


def check_provided(request: Request) -> None:
    """Refuse a metric that no run feeds: it would be a row that is missing.

    Raises:
        InputError: naming the metric and its run.
    """
    known = {kind for p in (*CLEAN, *EDITED) for kind in p.kinds} | set(OF_TABLES)
    for one in request.needed.values():
        if one.on not in known or one.function is None:
            raise InputError(f"metric {one.id!r} cannot be measured: nothing provides the run {one.on!r} that feeds it")


def measure(work: Work, units: Callable[[], Units], show: Progress) -> tuple[Samples, TokenRows]:
    """Run what the request needs, once, and collect per-prompt values and token-level rows.

    Args:
        units: opens the pieces of interrupted work; asked when the clean run is to begin.
    """
    clean, edited = providers(work)
    samples, tokens = Samples(len(work.prompts)), TokenRows()
    kept = units()
    with kept.cleared_on_errors():
        _run_clean(work, clean, samples, tokens, kept, show)
        tokens += _run_edited(work, edited, samples, kept, show)
    return samples, tokens


def measure_share(work: Work, share: Share, show: Progress) -> dict[str, Piece]:
    """The pieces of some batches only, by their names; :meth:`Units.given_too` makes them part of the whole.

    What is pooled over all prompts is no piece: whoever puts them together measures it.
    """
    clean, edited = providers(work)
    by_batch = [one for one in clean if one.by_batch]
    pieces: dict[str, Piece] = {}
    with torch.no_grad():
        for number, batch in enumerate(_clean_batches(work) if by_batch else ()):
            if share.has(number):
                piece, rows = Samples(len(work.prompts)), TokenRows()
                _observe(work, batch, by_batch, piece, rows, _parts(work, by_batch), lambda amount: None)
                pieces[_clean_name(number)] = piece.state(), rows
    _run_edited(work, edited, Samples(len(work.prompts)), Units(made=pieces), show, share)
    return pieces


def cuts_of(request: Request, prompts: Sequence[TokenPrompt]) -> dict[int, Sequence[int]]:
    """The cuts of every prompt, where the future is looked at."""
    if "future" not in request.scopes or not any(one.run.by_part for one in request.needed.values()):
        return {}
    return {p.index: future_cuts(p.n_tokens, request.cuts) for p in prompts}


def _run_clean(
    work: Work, observers: Sequence[CleanProvider], samples: Samples, tokens: TokenRows, units: Units, show: Progress
) -> None:
    """Every prompt once, seen by everybody; batches that other processes ran, by those who pool over prompts only."""
    run = sorted((one for one in observers if not isinstance(one, Stored)), key=lambda one: not one.by_batch)
    pooling = [one for one in run if not one.by_batch]
    parts, total = _parts(work, run), sum(len(p.positions) for p in work.counted)
    with torch.no_grad():
        if run:
            with show.stage("clean run", total) as tick:
                for number, batch in enumerate(_clean_batches(work)):
                    before = units.load(_clean_name(number), samples)
                    tokens += before or ()
                    _observe(work, batch, run if before is None else pooling, samples, tokens, parts, tick)
        for observer in observers:
            observer.finish(samples, tokens)


def _clean_batches(work: Work) -> Iterator[Batch]:
    size = clean_tokens(work.network, work.request.bytes)
    ids = [p.ids for p in work.counted]
    return batches(ids, work.network.device, max_tokens=size, batch_size=work.batch_size)


def _clean_name(number: int) -> str:
    return f"clean-{number:05d}"


def _parts(work: Work, observers: Sequence[CleanProvider]) -> bool:
    return work.verdict.parts and any(one.needs_parts for one in observers)


def _observe(
    work: Work, batch: Batch, observers: Sequence[CleanProvider], samples: Samples, tokens: TokenRows, parts: bool,
    tick: Callable[[float], None],
) -> None:  # fmt: skip
    """One batch, run clean, seen by some."""
    where = measured(batch, work.counted, work.request.keep_first)
    if observers:
        with undisturbed(work.network.module):
            later = Pending()
            found = work.network.clean(batch.ids, parts=parts, later=later)
            seen = CleanBatch(work, batch, found, where, later, tick)
            for observer in observers:
                observer.observe(seen, samples, tokens)
            later.settle()
    if not any(isinstance(one, Readouts) for one in observers):
        tick(len(where))


def _run_edited(
    work: Work, jobs: Sequence[EditedProvider], samples: Samples, units: Units, show: Progress, share: Share = WHOLE,
) -> TokenRows:  # fmt: skip
    """Every job on every batch of a share; what is finished is kept."""
    rows = TokenRows()
    counted = work.counted
    if not jobs or not counted:
        return rows
    parts = work.verdict.parts and any(job.needs_parts for job in jobs)
    if not work.verdict.parts and any(job.needs_parts for job in jobs):
        message = f"where {work.network.anatomy.family} keeps its parts is not known"
        warnings.warn(f"attention and MLP rows are left out: {message}", DepthsigWarning, stacklevel=2)
    budget = divide(work.network, work.request.bytes)
    every = edited_batches(work, counted)
    means = Means()
    if any(job.needs_means for job in jobs):
        # Of all prompts, whichever positions are measured.
        means = _means(work, edited_batches(work, [p for p in work.prompts if p.n_tokens >= 2]), parts)
    total = sum(job.cost(p).runs * p.n_tokens for job in jobs for p in counted)
    with show.stage("edited runs", int(total)) as tick, torch.no_grad():
        for number, batch in enumerate(every):
            if not share.has(number):
                continue
            clean: Clean | None = None
            for job in jobs:
                name = f"{job.name}-{number:05d}"
                before = units.load(name, samples)
                if before is not None:
                    rows += before
                    tick(sum(job.cost(counted[r]).runs * counted[r].n_tokens for r in batch.rows))
                    continue
                piece, lines, later = Samples(samples.n_prompts), TokenRows(), Pending()
                with undisturbed(work.network.module):
                    clean = clean or Clean.of(work.network, batch, parts=parts, later=later)
                    job.run(EditedBatch(work, clean, budget, means, parts, tick, later), piece, lines)
                    later.settle()
                units.save(name, piece, lines)
                samples.absorb(piece.state())
                rows += lines
    return rows


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
    for batch in every:
        run = work.network.clean(batch.ids, parts=parts)
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
