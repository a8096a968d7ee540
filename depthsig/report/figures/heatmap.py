"""A matrix as a heat map; cells that are undefined are visibly blank."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm

from depthsig.metrics import Metric
from depthsig.report.figures.labels import draw_borders, draw_layer_borders, plain, whole_numbers, with_unit
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
    image = ax.imshow(
        np.ma.masked_invalid(values), origin="lower", extent=extent, aspect="auto",
        cmap=colormaps[DIVERGING if entry.centre is not None else SEQUENTIAL], norm=norm_of(values, entry),
    )  # fmt: skip
    if entry.rows in ("step", "depth"):
        # States d lie between steps, so a block's border falls on the state, not beside it.
        draw_borders(ax, plan, offset=-0.5, cols=entry.cols != "ahead")
    if entry.rows == "start":
        draw_layer_borders(ax, plan)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    if entry.rows == "start":
        bar.ax.axhline(0.0, color="black", lw=1.2)  # the baseline: nothing repeated
    bar.set_label(plain(with_unit(entry)))
    bar.outline.set_linewidth(0.4)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(plain(entry.col_label))
    ax.set_ylabel(plain(entry.row_label))
    whole_numbers(ax, y=True)
    return ax


def norm_of(values: np.ndarray, entry: Metric) -> Normalize:
    """The colour scale of a metric's values: centred where the metric has a natural centre."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Normalize(0, 1)
    if entry.centre is None:
        return Normalize(finite.min(), finite.max() if finite.max() > finite.min() else finite.min() + 1)
    centre = entry.centre
    # The diagonal of a cosine matrix is 1 by definition and would wash out everything else.
    off = values[np.eye(*values.shape) == 0] if values.shape[0] == values.shape[1] else finite
    off = off[np.isfinite(off)]
    reach = float(np.abs((off if off.size else finite) - centre).max()) or 1.0
    return TwoSlopeNorm(centre, centre - reach, centre + reach)
