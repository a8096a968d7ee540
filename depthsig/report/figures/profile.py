"""A profile over depth or steps, with its confidence band."""

from __future__ import annotations

import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from depthsig.metrics import Metric
from depthsig.report.figures.labels import draw_references, label_side, plain, shade_blocks, whole_numbers
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, MARKERS
from depthsig.terms import described


def draw_profile(
    ax: Axes, table: pd.DataFrame, entry: Metric, plan: pd.DataFrame, vocabulary: int | None = None
) -> Axes:
    """Draw every part and scope in ``table`` (rows of one metric) as a line on ``ax``.

    Blocks of a span are tinted alternately; the band is the 95 % interval over prompts. Hollow triangles stand
    where a value lies beyond the scale. A dashed line is what a uniform guess gives, where the vocabulary is known.
    """
    shade_blocks(ax, plan, offset=0.0 if entry.axis == "depth" else -0.5)
    scale = Scale.of(entry, table["value"])
    lines = list(table.groupby(["part", "scope", "agg"], sort=False))
    for number, (key, rows) in enumerate(lines):
        rows = rows.sort_values("index")
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x, y = rows["index"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)
        ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.22, lw=0)
        draw_line(ax, x, y, scale, colour, marker, _name(key))
    if len(lines) > 1:
        ax.legend(loc="best", ncols=1 if len(lines) < 4 else 2)
    ax.set_xlabel("depth d (state entering step d)" if entry.axis == "depth" else "step")
    label_side(ax, entry)
    scale.set(ax.yaxis)
    draw_references(ax, entry, vocabulary)
    ax.set_xlim(table["index"].min() - 0.5, table["index"].max() + 0.5)  # no tick at a step that there is not
    whole_numbers(ax)
    return ax


def draw_line(
    ax: Axes, x: Float[ndarray, "cell"], y: Float[ndarray, "cell"], scale: Scale, colour: str, marker: str, label: str,
    line: str = "-",
) -> None:  # fmt: skip
    """A line of a profile; hollow triangles stand where it lies beyond the scale."""
    ax.plot(x, scale.within(y), color=colour, marker=marker, label=label, ls=line, zorder=3)
    for beyond, arrow in ((scale.below(y), "v"), (scale.above(y), "^")):
        if beyond.any():
            ax.plot(x[beyond], scale.within(y[beyond]), arrow, ms=5, mfc="white", mec=colour, zorder=4)


def _name(key: tuple[str, str, str]) -> str:
    part, scope, agg = key
    return plain(described(part, scope, "" if agg == "mean" else agg) or agg)
