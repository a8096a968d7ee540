"""Reports: figures and a page from a saved signature, with no model (and no torch) at hand."""

from __future__ import annotations

from pathlib import Path

from depthsig.report import compared_page
from depthsig.report.gallery import figures_for
from depthsig.report.html import render
from depthsig.report.page import MADE, write_page
from depthsig.signature import Signature
from depthsig.signature.folders.kinds import COMPARE, PAGE, SIGNATURE, result_kind
from depthsig.signature.folders.writing import redrawing, writing
from depthsig.untrusted import is_there


def save(signature: Signature, directory: str | Path) -> Path:
    """Write a results folder with its figures and page, whole or not at all.

    Raises:
        InputError: if the folder is no result of ours, or cannot be written.

    Returns:
        The path of the page.
    """
    with writing(directory) as partial:
        signature.write(partial)
        _draw(signature, partial)
    return Path(directory) / PAGE


def build(directory: str | Path) -> Path:
    """Draw every figure of a saved signature (or comparison) and write ``report.html`` beside it.

    The folder changes places with one that has them all, so that it is the old one or the new one.

    Raises:
        InputError: if the folder is no result, or cannot be written.

    Returns:
        The path of the page.
    """
    folder = Path(directory)
    kind = result_kind(folder)
    if kind is None and is_there(folder / COMPARE) and not is_there(folder / SIGNATURE):
        kind = COMPARE  # a damaged one, which its own reader refuses
    if kind == COMPARE:
        return compared_page.build(folder)
    signature = Signature.load(folder)
    with redrawing(folder, leave=MADE) as partial:
        _draw(signature, partial)
    return folder / PAGE


def _draw(signature: Signature, folder: Path) -> None:
    write_page(folder, figures_for(signature), lambda saved: render(signature, saved))
