"""Repeated spans: the (start, end) map, and a task's score against the number of passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from depthsig.report.figures.labels import whole_numbers
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, DIVERGING, MARKERS

LOSSES, ACCURACIES = Scale("symlog", -10.0, 10.0), Scale("symlog", -1.0, 1.0)
"""Of changes: small ones are told apart, and repeating the first layers still is on the scale."""


def draw_span_map(
    ax: Axes, table: pd.DataFrame, value: str = "delta_loss", label: str = "change of loss [nats]"
) -> Axes:
    """Draw one value a span: start upwards, end (exclusive) to the right; what was not run stays blank."""
    rows = table.dropna(subset=["start", "end", value])
    start, end = rows["start"].to_numpy(dtype=int), rows["end"].to_numpy(dtype=int)
    size = int(end.max())
    matrix = np.full((size, size), np.nan)
    matrix[start, end - 1] = rows[value].to_numpy(dtype=float)
    scale = LOSSES if "loss" in value else ACCURACIES
    # Blue is better, for a loss and for an accuracy.
    palette = colormaps[DIVERGING if "loss" in value else DIVERGING.removesuffix("_r")]
    image = ax.imshow(
        np.ma.masked_invalid(matrix), origin="lower", aspect="equal", cmap=palette,
        norm=scale.colours(), extent=(0.5, size + 0.5, -0.5, size - 0.5),
    )  # fmt: skip
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02, extend=scale.ends(matrix))
    scale.mark(bar.ax.yaxis)
    bar.set_label(label)
    best = rows.loc[rows[value].idxmin() if "loss" in value else rows[value].idxmax()]
    ax.plot(float(best["end"]), float(best["start"]), marker="o", mfc="none", mec="black", ms=6)
    ax.set_xlabel("end of the span (exclusive) [layer]")
    ax.set_ylabel("start of the span [layer]")
    whole_numbers(ax, y=True)
    return ax


def draw_times(ax: Axes, table: pd.DataFrame, value: str = "loss", label: str = "loss of answers [nats]") -> Axes:
    """Draw a measure of one span against the number of passes: a line and band each task and damping."""
    plain = table[table["times"] == 1].set_index("task")
    for number, ((task, damping), rows) in enumerate(
        table[table["times"] > 1].groupby(["task", "damping"], sort=False)
    ):
        rows = pd.concat([plain.loc[[task]].reset_index(), rows]).sort_values("times")
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        name = str(task) if damping == 1.0 else f"{task}, damped {damping:g}"
        x = rows["times"].to_numpy(dtype=float)
        low, high = rows[f"{value}_low"].to_numpy(dtype=float), rows[f"{value}_high"].to_numpy(dtype=float)
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        ax.plot(x, rows[value], color=colour, marker=marker, label=name, ls="-" if damping == 1.0 else "--")
    ax.legend(loc="best", fontsize=5.5)
    ax.set_xlabel("times the span runs")
    ax.set_ylabel(label)
    whole_numbers(ax)
    return ax
