"""Figures and page of a results folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from depthsig.report.gallery import Drawn, save_figures
from depthsig.signature.folders.kinds import FIGURES, PAGE

MADE = (FIGURES, PAGE)
"""What is drawn from the tables, and can be drawn again."""


def write_page(folder: Path, figures: Iterable[Drawn], render: Callable[[list[tuple[Drawn, Path]]], str]) -> None:
    """Draw figures and page into a folder that exists and has none.

    Args:
        render: the page's text, from the drawn figures and the paths of their SVGs.
    """
    saved = save_figures(figures, folder / FIGURES)
    (folder / PAGE).write_text(render(saved), encoding="utf-8")
