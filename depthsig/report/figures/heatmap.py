"""A matrix as a heat map; cells that are undefined are visibly blank."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.report.figures.labels import (
    draw_borders,
    draw_layer_borders,
    layers_are_steps,
    plain,
    whole_numbers,
    with_unit,
)
from depthsig.report.scale import Scale
from depthsig.report.style import DIVERGING, SEQUENTIAL, UNDEFINED


def draw_heatmap(ax: Axes, matrix: pd.DataFrame, entry: Metric, plan: pd.DataFrame) -> Axes:
    """Draw ``matrix`` (rows x columns, NaN undefined) with a colour bar and the blocks' borders."""
    values = matrix.to_numpy(dtype=float)
    rows, cols = matrix.index.to_numpy(dtype=float), matrix.columns.to_numpy(dtype=float)
    extent = (cols[0] - 0.5, cols[-1] + 0.5, rows[0] - 0.5, rows[-1] + 0.5)
    ax.set_facecolor(UNDEFINED)
    if np.isnan(values).any():
        ax.patch.set_hatch("////")
        ax.patch.set_edgecolor("#bdbdbd")
    scale = Scale.of(entry, values)
    image = ax.imshow(
        np.ma.masked_invalid(values), origin="lower", extent=extent, aspect="auto",
        cmap=colormaps[DIVERGING if entry.centre is not None else SEQUENTIAL], norm=scale.colours(),
    )  # fmt: skip
    if entry.rows in ("step", "depth") or (entry.rows == "layer" and layers_are_steps(plan)):
        # States d lie between steps, so a block's border falls on the state, not beside it.
        draw_borders(ax, plan, offset=-0.5, cols=entry.cols != "ahead")
    if entry.rows == "start":
        draw_layer_borders(ax, plan)
    # Pointed ends: there are values beyond.
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, extend=scale.ends(values))
    if entry.rows == "start":
        bar.ax.axhline(0.0, color="black", lw=1.2)  # the baseline: nothing repeated
    bar.set_label(plain(with_unit(entry)))
    bar.outline.set_linewidth(0.4)
    scale.mark(bar.ax.yaxis)
    ax.set_xlim(*extent[:2])  # the borders of blocks add no steps that there are not
    ax.set_ylim(*extent[2:])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(plain(entry.col_label))
    ax.set_ylabel(plain(entry.row_label))
    whole_numbers(ax, y=True)
    return ax
