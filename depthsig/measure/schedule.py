"""One schedule of all runs: every entry is fed by one provider, and no run is made twice for several entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from depthsig.checkpoint.hooks import undisturbed
from depthsig.engine.batch import Batch, batches
from depthsig.engine.memory import clean_tokens
from depthsig.errors import InputError
from depthsig.measure.clean.codas import Codas
from depthsig.measure.clean.passes import Passes
from depthsig.measure.clean.readouts import Readouts
from depthsig.measure.clean.states import States
from depthsig.measure.clean.stored import Stored
from depthsig.measure.clean.transports import Transports
from depthsig.measure.differentiated.pass_derivatives import PassDerivatives
from depthsig.measure.edited.attributing import Attributing
from depthsig.measure.edited.edited_batch import EditedProvider
from depthsig.measure.edited.erasing import Erasing
from depthsig.measure.edited.isolated import Isolated
from depthsig.measure.edited.reordering import Reordering, Repeating
from depthsig.measure.edited.skipping import Maintaining, Skipping
from depthsig.measure.edited_runs import run_edited
from depthsig.measure.fitting import clean_runs, ended_in_one_line
from depthsig.measure.providers import CleanBatch, CleanProvider, Work
from depthsig.measure.request import Request
from depthsig.measure.resume import Piece, Share, Units
from depthsig.measure.token_rows import TokenRows
from depthsig.measure.truncated.truncated_readouts import TruncatedReadouts
from depthsig.measure.truncated.truncated_runs import TruncatedRuns
from depthsig.measure.unit_cache import UnitCache
from depthsig.measure.where import measured
from depthsig.metrics.entries.runs import OF_OTHERS
from depthsig.metrics.interventions import future_cuts
from depthsig.progress import Progress
from depthsig.prompts import TokenPrompt
from depthsig.tables.samples import Samples

CLEAN: tuple[type[CleanProvider], ...] = (States, Readouts, Passes, Codas, TruncatedReadouts, Stored, Transports)
EDITED: tuple[type[EditedProvider], ...] = (
    Skipping, Maintaining, Isolated, Reordering, Repeating, TruncatedRuns, Erasing, Attributing, PassDerivatives,
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


def measure(
    work: Work, units: Callable[[], Units], show: Progress, cache: UnitCache | None = None
) -> tuple[Samples, TokenRows]:
    """Run what the request needs, once, and collect per-prompt values and token-level rows.

    Args:
        units: opens the pieces of interrupted work; asked when the clean run is to begin.
        cache: where units of edited runs are looked for, and kept; None: nowhere.
    """
    clean, edited = providers(work)
    samples, tokens = Samples(len(work.prompts)), TokenRows()
    kept = units()
    with kept.cleared_on_errors():
        _run_clean(work, clean, samples, tokens, kept, show)
        tokens += run_edited(work, edited, samples, kept, cache or UnitCache(), show)
    return samples, tokens


def measure_share(work: Work, share: Share, show: Progress, cache: UnitCache | None = None) -> dict[str, Piece]:
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
    run_edited(
        work, edited, Samples(len(work.prompts)), Units(made=pieces), cache or UnitCache(), show, share=share
    )  # fmt: skip
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
    run = sorted(
        (one for one in observers if not isinstance(one, (Stored, Transports))), key=lambda one: not one.by_batch
    )
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
    work: Work, whole: Batch, observers: Sequence[CleanProvider], samples: Samples, tokens: TokenRows, parts: bool,
    tick: Callable[[float], None],
) -> None:  # fmt: skip
    """One batch, run clean, seen by some."""
    keep_first = work.request.keep_first
    for batch, found, later in clean_runs(work.network, [whole] if observers else [], parts=parts):
        with undisturbed(work.network.module), ended_in_one_line(work, batch, "the clean run"):
            where = measured(batch, work.counted, keep_first)
            seen = CleanBatch(work, batch, found, where, later, tick)
            for observer in observers:
                observer.observe(seen, samples, tokens)
            later.settle()
    if not any(isinstance(one, Readouts) for one in observers):
        tick(len(measured(whole, work.counted, keep_first)))
