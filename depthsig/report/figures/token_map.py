"""Token maps: a value by depth (or pass) and position, over readable tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from depthsig.metrics import Metric
from depthsig.metrics.entries.runs import EXITS
from depthsig.metrics.rules import GAIN_EXITS
from depthsig.report.figures.labels import draw_borders, plain, whole_numbers, with_unit
from depthsig.report.figures.top_tokens import readable
from depthsig.report.scale import Scale
from depthsig.report.style import DIVERGING, MARKERS, SEQUENTIAL, UNDEFINED

MOST_POSITIONS = 32
"""More columns than this are not readable: the last ones are shown."""
Marks = Mapping[str, Mapping[int, int]]
"""By the name of a mark, at every position the row below which it stands."""


def draw_token_map(
    ax: Axes, tokens: pd.DataFrame, entry: Metric, plan: pd.DataFrame, marks: Marks | None = None
) -> Axes:
    """Draw one prompt's rows of a token metric; deepest depth or last pass on top, blocks' borders as lines.

    Args:
        marks: where passes end for a token: at the lower edge of the row with what the next one changes.
    """
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
    if entry.axis == "iteration":
        whole_numbers(ax, x=False, y=True)
    else:
        draw_borders(ax, plan, offset=-0.5, cols=False)
    ax.set_ylim(*within)  # the borders of blocks add no depths that there are not
    _draw_marks(ax, marks or {}, [int(p) for p in table.columns])
    words = tokens.drop_duplicates("position").set_index("position")["input_token"]
    labels = [readable(str(words[p])) for p in table.columns]
    ax.set_xticks(range(len(labels)), labels, fontsize=5.5, rotation=90, parse_math=False)
    ax.set_xlabel("input token")
    ax.set_ylabel("pass k" if entry.axis == "iteration" else "depth d")
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01, extend=scale.ends(values))
    scale.mark(bar.ax.yaxis)
    bar.set_label(plain(with_unit(entry)))
    return ax


def exit_marks(tokens: pd.DataFrame, entry: Metric, prompt: int) -> dict[str, dict[int, int]]:
    """Where each exit leaves the tokens of a prompt: of a map over passes only, and of the exits that were measured.

    Args:
        tokens: all rows of tokens that there are.
    """
    if entry.on != EXITS:
        return {}
    rows = tokens[(tokens["prompt"] == prompt) & tokens["metric"].isin(GAIN_EXITS)].dropna(subset=["position", "index"])
    found = {name: rows[rows["metric"] == metric] for metric, name in GAIN_EXITS.items()}
    return {
        name: dict(zip(some["position"].astype(int), some["index"].astype(int), strict=True))
        for name, some in found.items() if len(some)
    }  # fmt: skip


def _draw_marks(ax: Axes, marks: Marks, positions: list[int]) -> None:
    """Beside each other in a column, so that none hides another."""
    for number, (name, rows) in enumerate(marks.items()):
        places = [(i, rows[p]) for i, p in enumerate(positions) if p in rows]
        aside = (number + 1) / (len(marks) + 1) - 0.5
        x, y = [i + aside for i, _ in places], [row - 0.5 for _, row in places]
        ax.scatter(
            x, y, s=13, marker=MARKERS[number % len(MARKERS)], label=f"exit: {name}", clip_on=False, zorder=4,
            facecolor="white", edgecolor="black", linewidth=0.6,
        )  # fmt: skip
    if marks:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=len(marks), frameon=False)
