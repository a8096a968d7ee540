"""The commonest figures made ready to be saved: one axes, a colour bar beside it or none.

matplotlib makes five artists of every tick, and its layouts measure everything that is drawn, each label several
times; together that takes most of the time of a figure. Here the ticks of an axis are one artist and their labels
another, and of the labels only the longest are measured.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT, TICKRIGHT
from matplotlib.transforms import ScaledTranslation, Transform

from depthsig.report.figures.cells import Cells

EDGE = 3.0
"""Points between the figure's edge and what is in it."""
LINE = 1.25
"""Height of a line in sizes of its letters."""
MEASURED = 3
"""So many of the longest labels are measured: letters differ in width."""

_SIDES = {"left": ((0.0, 0.5), (-1, 0)), "right": ((1.0, 0.5), (1, 0)), "bottom": ((0.5, 0.0), (0, -1))}
"""The middle of each side of an axes, and the direction away from it."""
_MARKS: dict[str, Any] = {"left": TICKLEFT, "right": TICKRIGHT, "bottom": TICKDOWN}


def fit(figure: Figure, above: float = 0.0) -> None:
    """Make room for what stands beside a figure's one axes, and beside the colour bar that follows it, and draw it.

    Args:
        above: points to be left free above the axes.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    main, *bars = figure.axes
    width, height = (72 * inches for inches in figure.get_size_inches())
    axes = [main.xaxis, main.yaxis, *(bar.yaxis for bar in bars)]
    below, beside, *outside = [Side(axis, renderer) for axis in axes]
    right = EDGE + outside[-1].depth if outside else EDGE + below.width / 2
    top = EDGE + max(above, *(side.above for side in (beside, *outside)))
    figure.subplots_adjust(
        left=(EDGE + beside.depth) / width, right=1 - right / width,
        bottom=(EDGE + below.depth) / height, top=1 - top / height,
    )  # fmt: skip
    for axis in axes:  # other ticks may suit their lengths now
        Side(axis, renderer).draw(figure)
    for bar in bars:
        bar.xaxis.set_visible(False)


class Side:
    """What stands beside an axis, in points.

    Attributes:
        width: of the widest tick label. depth: of everything, away from the axes.
        above: what stands higher than the axis itself: half a tick label, or the factor of all of them.
    """

    def __init__(self, axis: Axis, renderer: RendererAgg) -> None:
        self.axis, self.upright = axis, isinstance(axis, YAxis)
        self.tick = axis.get_major_ticks(1)[0]
        self.major = self._shown(axis.get_majorticklocs(), axis.get_major_formatter())
        self.factor = axis.get_major_formatter().get_offset()
        self.minor = self._shown(axis.get_minorticklocs(), axis.get_minor_formatter())
        self.size = float(self.tick.label1.get_fontsize())
        self.away = self.tick.get_tick_padding() + mpl.rcParams["ytick.major.pad"]
        labels = [label for _, label in (*self.major, *self.minor)]
        lines = sorted({line for label in labels for line in label.split("\n")}, key=lambda line: (-len(line), line))
        font = self.tick.label1.get_fontproperties()
        widths = [renderer.get_text_width_height_descent(line, font, False)[0] for line in lines[:MEASURED]]
        self.width = max(widths, default=0.0) * 72 / renderer.dpi
        rows = max((label.count("\n") + 1 for label in labels), default=1)
        self.reach = self.away + (self.width if self.upright else rows * LINE * self.size)
        self.above = LINE * self.size + self.away if self.factor else 0.6 * self.size
        label = axis.label
        taken = axis.labelpad + LINE * float(label.get_fontsize()) if label.get_text() else 0.0
        self.depth = self.reach + taken

    def _shown(self, places: np.ndarray, formatter: mpl.ticker.Formatter) -> list[tuple[float, str]]:
        """Ticks within the view, with their labels."""
        low, high = sorted(self.axis.get_view_interval())
        slack = 1e-9 * (high - low)
        labels = formatter.format_ticks(list(places))
        return [(float(p), t) for p, t in zip(places, labels, strict=True) if low - slack <= p <= high + slack]

    def draw(self, figure: Figure) -> None:
        """Draw ticks and labels, as matplotlib does, in the place of its own."""
        ax, side = self.axis.axes, self.axis.get_label_position()
        (x, y), (across, up) = _SIDES[side]

        def shifted(transform: Transform, points: float) -> Transform:
            inches = points / 72
            return transform + ScaledTranslation(across * inches, up * inches, figure.dpi_scale_trans)

        along = ax.get_yaxis_transform() if self.upright else ax.get_xaxis_transform()
        edge = x if self.upright else y
        rc = mpl.rcParams
        self._mark(self.major, along, edge, rc["ytick.major.size"], rc["ytick.major.width"])
        self._mark(self.minor, along, edge, rc["ytick.minor.size"], rc["ytick.minor.width"])
        look = {"left": ("right", "center"), "right": ("left", "center"), "bottom": ("center", "top")}[side]
        labels = [(*((edge, p) if self.upright else (p, edge)), t, "black") for p, t in (*self.major, *self.minor)]
        texts = Cells(labels, ha=look[0], va=look[1], fontsize=self.size, transform=shifted(along, self.away))
        ax.add_artist(texts)
        if self.axis.label.get_text():
            label = self.axis.label
            ax.text(
                x, y, label.get_text(), fontsize=float(label.get_fontsize()), rotation=label.get_rotation(),
                ha="center", va={"left": "bottom", "right": "top", "bottom": "top"}[side],
                rotation_mode="anchor", transform=shifted(ax.transAxes, self.reach + self.axis.labelpad),
            )  # fmt: skip
        if self.factor:
            self._write_factor(figure)
        self.axis.set_visible(False)

    def _mark(
        self, ticks: list[tuple[float, str]], along: Transform, edge: float, size: float, width: float
    ) -> None:  # fmt: skip
        """Draw the ticks themselves, all as one line without a line."""
        places, ends = [place for place, _ in ticks], [edge] * len(ticks)
        marks = Line2D(
            *((ends, places) if self.upright else (places, ends)), ls="", color="black", transform=along,
            marker=_MARKS[self.axis.get_label_position()], markersize=size, markeredgewidth=width, clip_on=False,
            zorder=2.01,
        )  # fmt: skip
        self.axis.axes.add_artist(marks)

    def _write_factor(self, figure: Figure) -> None:
        """Write the power of ten by which all tick labels are multiplied: above an upright axis, else at its end."""
        ax = self.axis.axes
        up = (mpl.rcParams["ytick.major.pad"] if self.upright else -self.reach) / 72
        transform = ax.transAxes + ScaledTranslation(0, up, figure.dpi_scale_trans)
        x, y, side, line = (0.0, 1.0, "left", "bottom") if self.upright else (1.0, 0.0, "right", "top")
        if self.axis.get_label_position() == "right":
            x, side = 1.0, "right"
        ax.text(x, y, self.factor, fontsize=self.size, ha=side, va=line, transform=transform)
