"""The picture of the logit lens that everybody knows: the top token at every depth and position."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator

from depthsig.report.figures.cells import write_cells

MOST_POSITIONS, DEPTHS = 16, 26
"""More than this many columns or rows are not readable: a window and a stride are taken."""


def draw_top_tokens(ax: Axes, tokens: pd.DataFrame) -> Axes:
    """Draw rank-1 tokens of one prompt, coloured by probability; deepest depth on top."""
    top = tokens[tokens["rank"] == 1]
    if top.empty:
        ax.set_axis_off()
        return ax
    positions = np.sort(top["position"].unique())[-MOST_POSITIONS:]
    depths = np.sort(top["index"].unique())
    stride = -(-len(depths) // DEPTHS)
    depths = np.array(sorted({*depths[::-1][::stride]}))
    cells = top.drop_duplicates(["index", "position"]).set_index(["index", "position"])
    # What a table lacks is an empty cell.
    cells = cells.reindex(pd.MultiIndex.from_product([depths, positions], names=["index", "position"]))
    shape = (len(depths), len(positions))
    values = cells["value"].to_numpy(float).reshape(shape)
    texts, inputs = (cells[c].fillna("").to_numpy().reshape(shape) for c in ("token", "input_token"))
    image = ax.imshow(values, origin="lower", aspect="auto", cmap="YlGnBu", vmin=0, vmax=1)
    colours = np.where(values > 0.55, "white", "black")
    where = list(np.ndindex(shape))
    write_cells(ax, [(j, i, readable(str(texts[i, j])), str(colours[i, j])) for i, j in where], size=5.2)
    given = [readable(next(filter(None, map(str, column)), "")) for column in inputs.T]
    _label(ax.xaxis, [f"{g}\n{p}" for g, p in zip(given, positions, strict=True)], 5.5)
    _label(ax.yaxis, [str(d) for d in depths], 6)
    ax.set_xlabel("input token and position")
    ax.set_ylabel("depth d")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01)
    bar.set_label("probability of the top token")
    return ax


def _label(axis: Axis, labels: list[str], size: float) -> None:
    """Label rows or columns; their ticks are made when they are drawn, if at all."""
    axis.set_major_locator(FixedLocator(range(len(labels))))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_tick_params(labelsize=size)


def words_as_they_are(ax: Axes) -> None:
    """Let matplotlib's own tick labels be no formulas."""
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_parse_math(False)


def readable(token: str, width: int = 8) -> str:
    """A token that can be read in a cell: white space made visible, long ones clipped.

    ``width`` is in letters; Chinese, Japanese and Korean ones take the place of two, and combining signs none.

    >>> readable("one two three"), readable("\u4f60\u597d\u4e16\u754c\u548c\u5e73")
    ('one␣two…', '你好世…')
    """
    token = token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "↵")
    token = "".join(c if c.isprintable() or c in JOINERS else "·" for c in token)
    if sum(map(_columns, token)) <= width:
        return token
    kept, taken = 0, 0
    while taken + _columns(token[kept]) < width:
        taken += _columns(token[kept])
        kept += 1
    return token[:kept].rstrip(JOINERS) + "…"


JOINERS = "\u200c\u200d"
"""Unseen characters that say how their neighbours are written, in Indic scripts and emoji."""


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
