"""Reports: figures and a page from a saved result, with no model (and no torch) at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from depthsig.errors import InputError
from depthsig.report.drawn_files import FORMATS, formats, save_figures
from depthsig.report.gallery import Drawn, figures_for
from depthsig.report.loops import stability_page
from depthsig.report.page import blocks_page, compared_page, lens_page, repeated_page, replicated_page, swept_page
from depthsig.report.page.html import render
from depthsig.report.page.page_files import MADE, Which, write_page
from depthsig.report.repeat_figures import repeat_figures
from depthsig.report.replication_figures import replication_figures
from depthsig.report.sweep_figures import sweep_figures
from depthsig.signature import Comparison, Signature
from depthsig.signature.folders.kinds import (
    COMPARE,
    FIGURES,
    FINDINGS,
    FOUND_BLOCKS,
    LENS,
    PAGE,
    REPEAT,
    REPLICATION,
    SIGNATURE,
    STABILITY_CARD,
    SWEEP,
    result_kind,
)
from depthsig.signature.folders.writing import redrawing, writing
from depthsig.signature.found_blocks import SavedBlocks
from depthsig.signature.loops.stability_card import StabilityCard
from depthsig.signature.repeated import Repeated
from depthsig.signature.replications.replication import Replication
from depthsig.signature.sweeps.swept import Swept
from depthsig.untrusted import is_there


def save(signature: Signature, directory: str | Path, figures: Which = "page") -> Path:
    """Write a results folder with its figures and page, whole or not at all.

    Args:
        figures: files of those figures that the page shows, one each; or of ``all``, in every format.

    Raises:
        InputError: if the folder is no result of ours, or cannot be written.

    Returns:
        The path of the page.
    """
    with writing(directory) as fresh:
        signature.write(fresh)
        _draw(signature, fresh, figures)
    return Path(directory) / PAGE


def build(directory: str | Path) -> Path:
    """Write ``report.html`` of a saved result of any kind again, and the figures that it shows; of a signature its
    ``findings.json``, too, which says the same.

    The folder changes places with one that has them all, so that it is the old one or the new one.

    Raises:
        InputError: if the folder is no result, or cannot be written.

    Returns:
        The path of the page.
    """
    folder = Path(directory)
    kind = _kind(folder)
    if kind == COMPARE:
        return compared_page.build(folder)
    draws = _DRAWN[kind](folder) if kind in _DRAWN else partial(_redraw, Signature.load(folder))
    # Elsewhere a file of that name is somebody's own.
    with redrawing(folder, leave=MADE if kind in _DRAWN else (*MADE, FINDINGS)) as fresh:
        draws(fresh)
    return folder / PAGE


def draw(directory: str | Path, forms: str | Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Draw every figure of a saved signature, comparison, replication or study of repeats into its folder ``figures``.

    What was in there is replaced; everything else in the result stays. The folder changes places with one that has
    them all.

    Args:
        forms: of ``png``, ``svg`` and ``pdf``, as a list or with commas in between.

    Raises:
        InputError: if the folder is no result that has figures, or cannot be written; for an unknown format.

    Returns:
        The files.
    """
    folder, forms = Path(directory), formats(forms)
    figures = _figures(folder)
    with redrawing(folder, leave=(FIGURES,)) as fresh:
        save_figures(figures, fresh / FIGURES, forms)
    return sorted((folder / FIGURES).iterdir())


_DRAWN: Mapping[str | None, Callable[[Path], Callable[[Path], None]]] = {
    REPEAT: lambda folder: partial(repeated_page.draw, Repeated.load(folder)),
    LENS: lambda folder: partial(lens_page.draw, lens_page.read(folder)),
    FOUND_BLOCKS: lambda folder: partial(blocks_page.draw, SavedBlocks.load(folder)),
    REPLICATION: lambda folder: partial(replicated_page.draw, Replication.load(folder)),
    STABILITY_CARD: lambda folder: partial(stability_page.draw, StabilityCard.load(folder)),
    SWEEP: lambda folder: partial(swept_page.draw, Swept.load(folder)),
}
"""How a result of each kind is read, and then drawn into a folder."""


def _kind(folder: Path) -> str | None:
    kind = result_kind(folder)
    if kind is None and is_there(folder / COMPARE) and not is_there(folder / SIGNATURE):
        return COMPARE  # a damaged one, which its own reader refuses
    return kind


def _figures(folder: Path) -> Iterable[Drawn]:
    kind = _kind(folder)
    if kind == LENS:
        raise InputError(f"{str(folder)!r} holds a tuned lens, which has no figures; `analyze --lens` draws by it")
    if kind == COMPARE:
        return compared_page.figures_for(Comparison.load(folder))
    if kind == REPEAT:
        return repeat_figures(Repeated.load(folder))
    if kind == FOUND_BLOCKS:
        return blocks_page.block_figures(SavedBlocks.load(folder))
    if kind == REPLICATION:
        return replication_figures(Replication.load(folder))
    if kind == STABILITY_CARD:
        return stability_page.stability_figures(StabilityCard.load(folder))
    if kind == SWEEP:
        return sweep_figures(Swept.load(folder))
    return figures_for(Signature.load(folder))


def _redraw(signature: Signature, folder: Path) -> None:
    signature.write_findings(folder)
    _draw(signature, folder)


def _draw(signature: Signature, folder: Path, figures: Which = "page") -> None:
    write_page(folder, figures_for(signature), lambda saved: render(signature, saved), figures)
