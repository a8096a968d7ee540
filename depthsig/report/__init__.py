"""Reports: figures and a page from a saved signature, with no model (and no torch) at hand."""

from __future__ import annotations

from pathlib import Path

from depthsig.errors import InputError
from depthsig.report import compared_page
from depthsig.report.gallery import figures_for
from depthsig.report.html import render
from depthsig.report.page import replace_page
from depthsig.signature import Signature, storage
from depthsig.signature.compared import RECORD
from depthsig.untrusted import is_there


def save(signature: Signature, directory: str | Path) -> Path:
    """Write a results folder with its figures and page, whole or not at all.

    Raises:
        InputError: if the folder is no result of ours, or cannot be written.

    Returns:
        The path of the page.
    """
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
    folder = Path(directory)
    if is_there(folder / RECORD):
        return compared_page.build(folder)
    try:
        _draw(Signature.load(folder), folder)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}") from None
    return folder / "report.html"


def _draw(signature: Signature, folder: Path) -> None:
    replace_page(folder, figures_for(signature), lambda saved: render(signature, saved))
