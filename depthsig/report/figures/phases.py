"""A profile without its trend, its phases coloured: the period as the test sees it."""

from __future__ import annotations

from matplotlib.axes import Axes

from depthsig.report.figures.labels import tint, whole_numbers
from depthsig.report.figures.profile import draw_line
from depthsig.report.period_tables import PeriodTable
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, MARKERS

IN_DEVIATIONS = Scale("linear", -3.0, 3.0)
"""The same for every model, so that how far the bars reach among the points is the strength of a period."""
LEGEND = 28.0
"""Points that the phases' legend takes above the axes."""


def draw_period(ax: Axes, table: PeriodTable) -> Axes:
    """Draw what is left of each step as a point, and what its phase accounts for as a short bar.

    In standard deviations of what is left; hollow triangles stand where a step lies beyond the scale.
    """
    rows = table.rows.assign(left=table.rows["left"] / table.unit, phase_fit=table.rows["phase_fit"] / table.unit)
    ends = rows.groupby("block")["step"].agg(["min", "max"])
    tint(ax, [(first - 0.5, last + 0.5, int(block)) for block, first, last in ends.itertuples()])
    ax.axhline(0, color="0.5", lw=0.6, zorder=1)
    ax.plot(rows["step"], IN_DEVIATIONS.within(rows["left"].to_numpy()), color="0.6", lw=0.7, zorder=2)
    for phase, steps in rows.groupby("phase"):
        colour, marker = COLOURS[int(phase) % len(COLOURS)], MARKERS[int(phase) % len(MARKERS)]
        ax.hlines(steps["phase_fit"], steps["step"] - 0.4, steps["step"] + 0.4, color=colour, lw=2, alpha=0.5, zorder=3)
        x, y = steps["step"].to_numpy(float), steps["left"].to_numpy(float)
        draw_line(ax, x, y, IN_DEVIATIONS, colour, marker, str(phase), line="")
    if rows["phase"].nunique() <= 8:
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=int(rows["phase"].nunique()), title="phase",
            title_fontsize=7, borderaxespad=0.1, handletextpad=0.1, columnspacing=0.8,
        )  # fmt: skip
    ax.set_xlabel("step")
    ax.set_ylabel(f"{table.scale}trend removed [s.d.]")
    IN_DEVIATIONS.set(ax.yaxis)
    whole_numbers(ax)
    return ax
