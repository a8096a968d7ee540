"""Reports: figures and a page from a saved signature, with no model (and no torch) at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from depthsig.errors import InputError

if TYPE_CHECKING:
    from depthsig.signature import Signature


def save(signature: Signature, directory: str | Path) -> Path:
    """Write a results folder with its figures and page, whole or not at all.

    Raises:
        InputError: if the folder is no result of ours, or cannot be written.

    Returns:
        The path of the page.
    """
    from depthsig.signature import storage

    with storage.writing(directory) as partial:
        signature.write(partial)
        _draw(signature, partial)
    return Path(directory) / "report.html"


def build(directory: str | Path) -> Path:
    """Draw every figure of a saved signature (or comparison) and write ``report.html`` beside it.

    Old figures are replaced when all new ones are there.

    Raises:
        InputError: if the folder is no result, or cannot be written.

    Returns:
        The path of the page.
    """
    from depthsig.signature import Signature
    from depthsig.signature.comparison import RECORD

    folder = Path(directory)
    if (folder / RECORD).exists():
        from depthsig.report.compare import build as build_comparison

        return build_comparison(folder)
    try:
        _draw(Signature.load(folder), folder)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}") from None
    return folder / "report.html"


def _draw(signature: Signature, folder: Path) -> None:
    """Figures and page into a folder that exists; what was there is replaced at the end."""
    from depthsig.report.figures import save_figures
    from depthsig.report.html import render

    scratch = folder / "figures.partial"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        saved = save_figures(signature, scratch)
        (scratch / "report.html").write_text(render(signature, saved), encoding="utf-8")
        shutil.rmtree(folder / "figures", ignore_errors=True)
        (scratch / "report.html").replace(folder / "report.html")
        scratch.rename(folder / "figures")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
