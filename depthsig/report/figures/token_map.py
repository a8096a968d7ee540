"""Token x depth maps: how much a state matters, by depth and position, over readable tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.report.figures.labels import draw_borders, plain, with_unit
from depthsig.report.figures.top_tokens import readable
from depthsig.report.scale import Scale
from depthsig.report.style import DIVERGING, SEQUENTIAL, UNDEFINED

MOST_POSITIONS = 32
"""More columns than this are not readable: the last ones are shown."""


def draw_token_map(ax: Axes, tokens: pd.DataFrame, entry: Metric, plan: pd.DataFrame) -> Axes:
    """Draw one prompt's rows of a token metric; deepest depth on top, blocks' borders as lines."""
    # What a table lacks is undefined, and what it has twice counts once.
    table = tokens.pivot_table(index="index", columns="position", values="value", aggfunc="first", dropna=False)
    table = table.iloc[:, -MOST_POSITIONS:]
    values = table.to_numpy(dtype=float)
    ax.set_facecolor(UNDEFINED)
    scale = Scale.of(entry, values)
    image = ax.imshow(
        np.ma.masked_invalid(values), origin="lower", aspect="auto",
        cmap=DIVERGING if entry.centre is not None else SEQUENTIAL, norm=scale.colours(),
    )  # fmt: skip
    within = ax.get_ylim()
    draw_borders(ax, plan, offset=-0.5, cols=False)
    ax.set_ylim(*within)  # the borders of blocks add no depths that there are not
    words = tokens.drop_duplicates("position").set_index("position")["input_token"]
    labels = [readable(str(words[p])) for p in table.columns]
    ax.set_xticks(range(len(labels)), labels, fontsize=5.5, rotation=90, parse_math=False)
    ax.set_xlabel("input token")
    ax.set_ylabel("depth d")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01, extend=scale.ends(values))
    scale.mark(bar.ax.yaxis)
    bar.set_label(plain(with_unit(entry)))
    return ax
