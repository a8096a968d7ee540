"""Figures as files: one form of each for the page, or every form that is asked for."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from depthsig.errors import InputError
from depthsig.report.fonts import foreign_texts, quiet_glyphs, say_lacking, use_fonts
from depthsig.report.gallery import Drawn
from depthsig.report.style import Drawing, house_style, settle

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
"""What a figure can be saved as, the same bytes for the same figure. Labels of SVG and PDF are text."""

LONGEST_NAME = 120


def formats(asked: str | Sequence[str]) -> tuple[str, ...]:
    """The formats that were asked for, as a list or with commas in between, each once.

    Raises:
        InputError: for one that there is not.
    """
    names = asked.split(",") if isinstance(asked, str) else asked
    found = tuple(dict.fromkeys(name.strip().lower() for name in names))
    for name in found:
        if name not in FORMATS:
            raise InputError(f"--format {name!r} is none that figures are drawn in; there are {', '.join(FORMATS)}")
    return found


def save_figures(figures: Iterable[Drawn], directory: Path, forms: Sequence[str] = ()) -> list[tuple[Drawn, Path]]:
    """Write every figure into ``directory``; returns them with the path of what a page shows, if that was written.

    A page shows the PNG; where labels are in scripts that the figures' own font does not have, the SVG, whose labels
    are text that the reader's browser has fonts for. A warning says how many labels no installed font can write.

    Args:
        forms: of :data:`FORMATS`; empty: what a page shows.
    """
    directory.mkdir(parents=True, exist_ok=True)
    saved: list[tuple[Drawn, Path]] = []
    lacking: list[str] = []
    taken: set[str] = set()
    for drawn in figures:
        name = file_name(drawn.name, taken)
        taken.add(name)
        if isinstance(drawn.figure, Drawing) and drawn.figure.plain:
            settle(drawn.figure)  # first: ticks with words as labels become texts of its own
        foreign = foreign_texts(drawn.figure)
        lacking += use_fonts(foreign)
        shown = "svg" if foreign else "png"
        save_figure(drawn.figure, directory, name, forms or (shown,))
        saved.append((drawn, directory / f"{name}.{shown}"))
    say_lacking(lacking)
    return saved


def save_figure(figure: Figure, directory: Path, name: str, forms: Sequence[str]) -> None:
    """One figure in some formats, drawn once for each."""
    with house_style(), quiet_glyphs():
        settle(figure)
        for form in forms:
            figure.savefig(directory / f"{name}.{form}", **FORMATS[form])


def file_name(name: str, taken: Container[str] = ()) -> str:
    """A figure's name as the name of a file in one folder: tables may hold any text as a part or a scope.

    >>> file_name("skip.kl.layer"), file_name("lens.kl.../../x"), file_name("a", {"a"})
    ('skip.kl.layer', 'lens.kl..-.-x', 'a-2')
    """
    safe = re.sub(r"[^\w.,+=()-]", "-", name).replace("..", ".").strip(".")[:LONGEST_NAME] or "figure"
    numbered = (safe if number == 1 else f"{safe}-{number}" for number in count(1))
    return next(one for one in numbered if one not in taken)
