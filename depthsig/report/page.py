"""Figures and page of a results folder, all new or all old."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from depthsig.report.gallery import Drawn, save_figures


def replace_page(folder: Path, figures: Iterable[Drawn], render: Callable[[list[tuple[Drawn, Path]]], str]) -> None:
    """Draw figures and page into a folder that exists; what was there is replaced when all new ones are there.

    Args:
        render: the page's text, from the drawn figures and the paths of their SVGs.
    """
    scratch = folder / "figures.partial"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        saved = save_figures(figures, scratch)
        (scratch / "report.html").write_text(render(saved), encoding="utf-8")
        shutil.rmtree(folder / "figures", ignore_errors=True)
        (scratch / "report.html").replace(folder / "report.html")
        scratch.rename(folder / "figures")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
