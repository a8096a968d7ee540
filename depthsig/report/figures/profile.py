"""A profile over depth or steps, with its confidence band."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.report.figures.labels import label_side, plain, powers_of_ten, shade_blocks, whole_numbers
from depthsig.report.style import COLOURS, MARKERS
from depthsig.terms import described


def draw_profile(ax: Axes, table: pd.DataFrame, entry: Metric, plan: pd.DataFrame) -> Axes:
    """Draw every part and scope in ``table`` (rows of one metric) as a line on ``ax``.

    Blocks of a span are tinted alternately; the band is the 95 % interval over prompts.
    """
    shade_blocks(ax, plan, offset=0.0 if entry.axis == "depth" else -0.5)
    lines = list(table.groupby(["part", "scope", "agg"], sort=False))
    for number, (key, rows) in enumerate(lines):
        rows = rows.sort_values("index")
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        x = rows["index"].to_numpy(dtype=float)
        ax.fill_between(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.22, lw=0)
        ax.plot(x, rows["value"], color=colour, marker=marker, label=_name(key), zorder=3)
    if len(lines) > 1:
        ax.legend(loc="best", ncols=1 if len(lines) < 4 else 2)
    if entry.centre is not None:
        ax.axhline(entry.centre, color="0.5", lw=0.6, zorder=1)
    ax.set_xlabel("depth d (state entering step d)" if entry.axis == "depth" else "step")
    label_side(ax, entry)
    values = table["value"].dropna()
    if entry.norm == "log" and len(values) and (values > 0).all():
        ax.set_yscale("log")
        powers_of_ten(ax.yaxis)
    whole_numbers(ax)
    return ax


def _name(key: tuple[str, str, str]) -> str:
    part, scope, agg = key
    return plain(described(part, scope, "" if agg == "mean" else agg) or agg)
