"""The plan as a strip: one cell a step, coloured by block, with its layer's number."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from depthsig.report.figures.labels import blocks
from depthsig.report.style import SPAN, UNDEFINED

TINT = 0.45
"""Pale enough for black numbers."""


def draw_plan(ax: Axes, plan: pd.DataFrame) -> Axes:
    """Draw the steps from left to right; steps outside any span are grey."""
    size = 6.5 if len(plan) <= 32 else 5.0 if len(plan) <= 64 else 0.0
    for step in plan.itertuples():
        block = None if pd.isna(step.block) else int(step.block)
        colour = UNDEFINED if block is None else to_rgba(SPAN[block % 2], TINT)
        ax.add_patch(Rectangle((step.step, 0), 1, 1, facecolor=colour, edgecolor="white", lw=0.8))
        if size:
            ax.text(step.step + 0.5, 0.5, str(step.layer), ha="center", va="center", fontsize=size)
    for start, end, block, _ in blocks(plan):
        ax.plot([start + 0.08, end - 0.08], [-0.12, -0.12], color="0.35", lw=1.0, solid_capstyle="butt")
        ax.text((start + end) / 2, -0.2, f"block {block}", ha="center", va="top", fontsize=6.0, color="0.25")
    ax.set_xlim(0, max(1, len(plan)))
    ax.set_ylim(-0.75, 1.05)
    ax.set_yticks([])
    ax.set_xlabel("step (numbers in the cells: layer)")
    ax.spines["left"].set_visible(False)
    return ax
