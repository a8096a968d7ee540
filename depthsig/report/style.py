"""One look for every figure: colour-blind safe, readable at the width of a paper's column."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import TightLayoutEngine

from depthsig.report.fonts import quiet_glyphs, use_installed_fonts
from depthsig.report.margins import fit

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
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.dpi": 110,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "savefig.dpi": 220,
}


@contextmanager
def house_style() -> Iterator[None]:
    """The look, for the time of one figure; nothing global is changed."""
    with mpl.rc_context(RC):
        yield


class Drawing(Figure):
    """A figure that a notebook shows by itself, without pyplot's machinery.

    Attributes:
        plain: that it has one axes, numbered on both sides, and at most a colour bar beside it.
        above: points that are left free above the axes of a plain one.
    """

    plain = False
    above = 0.0

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        use_installed_fonts(self)
        with house_style(), quiet_glyphs():
            self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def new_figure(
    width: float = COLUMN, height: float = 2.3, *, panels: bool = False, plain: bool = False, above: float = 0.0
) -> Drawing:  # fmt: skip
    """An empty figure of ours (never pyplot's).

    Args:
        panels: many axes with one legend outside of them, which take longer to lay out.
        plain: one axes, numbered on both sides, and at most a colour bar beside it, which take the shortest.
        above: points to be left free above the axes of a plain one.
    """
    if panels:
        return Drawing(figsize=(width, height), layout="constrained")
    figure = Drawing(figsize=(width, height), layout=TightLayoutEngine(pad=0.4, w_pad=1.0))
    figure.plain, figure.above = plain, above
    # Near enough to where the axes end up: labels are measured once only, for these.
    figure.subplots_adjust(left=0.55 / width, right=1 - 0.1 / width, bottom=0.4 / height, top=1 - 0.1 / height)
    return figure


def settle(figure: Figure) -> None:
    """Lay a figure out, once for all formats that it is saved in."""
    engine = figure.get_layout_engine()
    if engine is None:
        return
    FigureCanvasAgg(figure)  # one that measures texts without a trial of its own
    with house_style(), quiet_glyphs():
        figure.dpi = mpl.rcParams["savefig.dpi"]  # what is measured for it is drawn as measured
        if isinstance(figure, Drawing) and figure.plain:
            fit(figure, figure.above)
        else:
            engine.execute(figure)
        figure.set_layout_engine(None)  # for "none" it would still be drawn twice, the first time for nothing
