"""Margins of the commonest figures: one axes, a colour bar beside it or none.

Only the longest tick labels are measured. matplotlib's own layouts measure everything that is drawn, each label
several times, which takes as long as drawing it.
"""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axis import Axis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

EDGE = 3.0
"""Points between the figure's edge and what is in it."""
LINE = 1.25
"""Height of a line in sizes of its letters."""
MEASURED = 3
"""So many of the longest labels are measured: letters differ in width."""


def fit(figure: Figure) -> None:
    """Make room for labels and ticks of a figure's one axes, and of the colour bar that follows it."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    main, *bars = figure.axes
    width, height = (72 * inches for inches in figure.get_size_inches())
    below, beside = Side(main.xaxis, renderer), Side(main.yaxis, renderer)
    outside = [Side(bar.yaxis, renderer) for bar in bars]
    right = EDGE + outside[-1].depth if outside else EDGE + below.width / 2
    top = EDGE + max(side.above for side in (beside, *outside))
    figure.subplots_adjust(
        left=(EDGE + beside.depth) / width, right=1 - right / width,
        bottom=(EDGE + below.depth) / height, top=1 - top / height,
    )  # fmt: skip


class Side:
    """What stands beside an axis, in points; its label is put beyond its tick labels.

    Attributes:
        width: of the widest tick label. depth: of everything, away from the axes.
        above: what stands higher than the axis itself: half a tick label, or the factor of all of them.
    """

    def __init__(self, axis: Axis, renderer: RendererAgg) -> None:
        texts = axis.get_majorticklabels()  # which brings the ticks between them up to date, too
        texts += [tick.label1 for tick in axis.get_minor_ticks()]
        upright = isinstance(axis, YAxis)
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        shown = [t for t in texts if low - slack <= float(t.get_position()[upright]) <= high + slack]
        lines = sorted({line for t in shown for line in t.get_text().split("\n")}, key=lambda line: (-len(line), line))
        size = float(texts[0].get_fontsize())
        font = texts[0].get_fontproperties()
        widths = [renderer.get_text_width_height_descent(line, font, False)[0] for line in lines[:MEASURED]]
        self.width = max(widths, default=0.0) * 72 / renderer.dpi
        rows = max((t.get_text().count("\n") + 1 for t in shown), default=1)
        away = axis.get_major_ticks(1)[0].get_tick_padding() + mpl.rcParams["ytick.major.pad"]
        reach = away + (self.width if upright else rows * LINE * size)
        self.above = LINE * size + away if axis.get_major_formatter().get_offset() else 0.6 * size
        self.depth = reach
        if axis.label.get_text():
            self.depth += axis.labelpad + LINE * float(axis.label.get_fontsize())
            _put_label(axis, (reach + axis.labelpad) / 72)


def _put_label(axis: Axis, away: float) -> None:
    """Put an axis's label where matplotlib would, so many inches away: it then measures nothing for it again."""
    x, y, across, up = {
        "left": (0.0, 0.5, -away, 0.0), "right": (1.0, 0.5, away, 0.0), "bottom": (0.5, 0.0, 0.0, -away),
        "top": (0.5, 1.0, 0.0, away),
    }[axis.get_label_position()]  # fmt: skip
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    axis.set_label_coords(x, y, transform=axis.axes.transAxes + ScaledTranslation(across, up, figure.dpi_scale_trans))
