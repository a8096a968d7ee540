"""What every figure shares: axis labels with units, and the borders of blocks."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from depthsig.metrics import Metric
from depthsig.report.style import SPAN


def with_unit(entry: Metric) -> str:
    """``label [unit]``."""
    return f"{entry.label} [{entry.unit}]" if entry.unit else entry.label


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def blocks(plan: pd.DataFrame) -> list[tuple[int, int, int, str]]:
    """(first step, end, block, span) of every block in the plan."""
    if plan.empty or "block" not in plan or plan["block"].isna().all():
        return []
    inside = plan[plan["block"].notna()]
    # A new block starts where span or block changes, or steps are missing in between.
    change = (
        (inside["span"] != inside["span"].shift())
        | (inside["block"] != inside["block"].shift())
        | (inside["step"] != inside["step"].shift() + 1)
    )
    found = []
    for _, group in inside.groupby(change.fillna(True).cumsum()):
        first, last = group.iloc[0], group.iloc[-1]
        found.append((int(first["step"]), int(last["step"]) + 1, int(first["block"]), str(first["span"])))
    return found


def shade_blocks(ax: Axes, plan: pd.DataFrame, offset: float = 0.0) -> None:
    """Tint alternating blocks behind a profile; ``offset`` is -0.5 where steps are bars."""
    for start, end, block, _ in blocks(plan):
        ax.axvspan(start + offset, end + offset, color=SPAN[block % 2], alpha=0.10, lw=0, zorder=0)


def draw_borders(ax: Axes, plan: pd.DataFrame, *, offset: float, rows: bool = True, cols: bool = True) -> None:
    """Thin lines at the borders of blocks on a heat map."""
    edges = sorted({edge for start, end, _, _ in blocks(plan) for edge in (start, end)})
    style: dict[str, Any] = {"color": "white", "lw": 0.8, "ls": (0, (2, 1.5)), "alpha": 0.9}
    for edge in edges:
        if cols:
            ax.axvline(edge + offset, **style)
        if rows:
            ax.axhline(edge + offset, **style)


def draw_layer_borders(ax: Axes, plan: pd.DataFrame) -> None:
    """Borders of blocks on a map of spans of layers: starts upwards, exclusive ends to the right."""
    layers = plan["layer"].tolist()
    edges = sorted({edge for start, end, _, _ in blocks(plan) for edge in (start, end)})
    style: dict[str, Any] = {"color": "0.45", "lw": 0.7, "ls": (0, (2, 1.5))}
    for edge in edges:
        layer = layers[edge] if edge < len(layers) else layers[-1] + 1
        ax.axhline(layer - 0.5, **style)
        ax.axvline(layer + 0.5, **style)


def whole_numbers(ax: Axes, x: bool = True, y: bool = False) -> None:
    """Ticks at whole steps or depths."""
    if x:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if y:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
