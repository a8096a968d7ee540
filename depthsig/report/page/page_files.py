"""Figures and page of a results folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from depthsig.errors import InputError
from depthsig.report.drawn_files import FORMATS, save_figures
from depthsig.report.gallery import Drawn
from depthsig.signature.folders.kinds import FIGURES, PAGE

MADE = (FIGURES, PAGE)
"""What is drawn from the tables, and can be drawn again."""

Which = Literal["page", "all"]
"""Files of figures: those that the page shows, each in one form; or every form of every figure."""


def write_page(
    folder: Path, figures: Iterable[Drawn], render: Callable[[list[tuple[Drawn, Path]]], str], which: Which = "page"
) -> None:
    """Draw figures and page into a folder that exists and has none.

    Args:
        render: the page's text, from the drawn figures and the paths of the files that it shows.

    Raises:
        InputError: for a word that names no choice of figures.
    """
    if which not in ("page", "all"):
        raise InputError(f"figures={which!r} is no choice; there are 'page' and 'all'")
    saved = save_figures(figures, folder / FIGURES, tuple(FORMATS) if which == "all" else ())
    (folder / PAGE).write_text(render(saved), encoding="utf-8")
