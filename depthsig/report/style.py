"""One look for every figure: colour-blind safe, readable at the width of a paper's column."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from depthsig.report.fonts import quiet_glyphs, use_installed_fonts

COLUMN, FULL = 3.4, 6.9
"""Widths in inches of one column, and of a page."""

# Okabe & Ito 2008: distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SPAN = ("#0072B2", "#E69F00")
"""Background tints of alternating blocks."""
UNDEFINED = "#d9d9d9"
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"

RC: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.0,
    "image.interpolation": "nearest",
    "svg.hashsalt": "depthsig",
    "svg.fonttype": "path",
    "figure.dpi": 110,
    "savefig.dpi": 220,
}


@contextmanager
def house_style() -> Iterator[None]:
    """The look, for the time of one figure; nothing global is changed."""
    with mpl.rc_context(RC):
        yield


class Drawing(Figure):
    """A figure that a notebook shows by itself, without pyplot's machinery."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        use_installed_fonts(self)
        with house_style(), quiet_glyphs():
            self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def new_figure(width: float = COLUMN, height: float = 2.3) -> Figure:
    """An empty figure of ours (never pyplot's)."""
    return Drawing(figsize=(width, height), layout="constrained")
