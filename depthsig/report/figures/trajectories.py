"""The paths of tokens' states through the passes of a loop, on two principal components."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

TOKENS = 12
"""More paths than this cannot be told apart: the last tokens of the prompt are drawn."""


def draw_trajectories(ax: Axes, tokens: pd.DataFrame) -> Axes:
    """Draw ``loop.pca`` of one prompt: a line a token, a dot a pass, darker for later ones."""
    positions = np.sort(tokens["position"].unique())[-TOKENS:]
    passes = int(tokens["index"].max()) + 1
    shades = colormaps["viridis"](np.linspace(0.1, 0.9, passes))
    for position in positions:
        rows = tokens[tokens["position"] == position]
        path = rows.pivot_table(index="index", columns="rank", values="value", aggfunc="first").to_numpy(dtype=float)
        if path.shape[1] < 2:  # a table that lacks a component has no path to draw
            continue
        ax.plot(path[:, 0], path[:, 1], color="0.75", lw=0.7, zorder=1)
        ax.scatter(path[:, 0], path[:, 1], c=shades[: len(path)], s=9, zorder=2, lw=0)
        ax.annotate(str(position), path[-1], fontsize=5.5, xytext=(2, 2), textcoords="offset points")
    for k in range(passes):
        ax.scatter([], [], color=shades[k], s=9, label=f"k = {k}")
    if passes <= 12:
        ax.legend(loc="best", ncols=1 + passes // 7, title="before pass", title_fontsize=6)
    ax.set_xlabel("first component")
    ax.set_ylabel("second component (numbers: position)")
    return ax
