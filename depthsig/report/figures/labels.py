"""What every figure shares: axis labels with units, and the borders of blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from depthsig.metrics import Metric
from depthsig.report.style import SPAN
from depthsig.terms import described


def in_words(entry: Metric, *about: str) -> str:
    """A heading: what a metric is called, and what it is of.

    >>> from depthsig.metrics import entry
    >>> in_words(entry("lens.kl"), "-")
    'KL(lens ‖ final)'
    """
    said = described(entry.label, *about)
    return said[0].upper() + said[1:]


def with_unit(entry: Metric) -> str:
    """``label [unit]``."""
    return f"{entry.label} [{entry.unit}]" if entry.unit else entry.label


LONGEST_LABEL = 32
"""Letters that fit beside the axes of the lowest figures."""


def label_side(ax: Axes, entry: Metric) -> None:
    """Label the vertical axis, in letters that are small enough for all of them to fit."""
    text = with_unit(entry)
    label = ax.set_ylabel(plain(text))
    label.set_fontsize(float(label.get_fontsize()) * min(1.0, LONGEST_LABEL / max(1, len(text))))


def draw_references(ax: Axes, entry: Metric, vocabulary: int | None) -> None:
    """Lines at the natural middle of a metric, and (dashed) at what a uniform guess gives."""
    if entry.centre is not None:
        ax.axhline(entry.centre, color="0.5", lw=0.6, zorder=1)
    chance = entry.by_chance(vocabulary)
    low, high = sorted(ax.get_ylim())
    if chance is not None and low <= chance <= high:
        ax.axhline(chance, color="0.35", lw=0.7, ls=(0, (3, 2)), zorder=1)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def blocks(plan: pd.DataFrame) -> list[tuple[int, int, int, str]]:
    """(first step, end, block, span) of every block in the plan."""
    found: list[tuple[int, int, int, str]] = []
    if plan.empty or "block" not in plan:
        return found
    for step, block, span in zip(plan["step"], plan["block"], plan["span"], strict=True):
        if pd.isna(block):
            continue
        here = (int(step), int(block), str(span))
        # A new block starts where span or block changes, or steps are missing in between.
        if found and (found[-1][1], *found[-1][2:]) == here:
            found[-1] = (found[-1][0], here[0] + 1, *here[1:])
        else:
            found.append((here[0], here[0] + 1, *here[1:]))
    return found


def layers_are_steps(plan: pd.DataFrame) -> bool:
    """Whether each layer runs once and in order, so that its place is its step's.

    >>> layers_are_steps(pd.DataFrame({"step": [0, 1, 2], "layer": [0, 1, 1]}))
    False
    """
    return not plan.empty and plan["layer"].tolist() == plan["step"].tolist()


def shade_blocks(ax: Axes, plan: pd.DataFrame, offset: float = 0.0) -> None:
    """Tint alternating blocks behind a profile; ``offset`` is -0.5 where steps are bars."""
    tint(ax, [(start + offset, end + offset, block) for start, end, block, _ in blocks(plan)])


def tint(ax: Axes, stretches: Sequence[tuple[float, float, int]]) -> None:
    """Tint stretches (start, end, block) of the horizontal axis, which reaches over all of them."""
    if not stretches:
        return
    # One collection: a patch for each costs more than everything else in a profile.
    corners = [[(start, 0), (start, 1), (end, 1), (end, 0)] for start, end, _ in stretches]
    colours = [SPAN[block % 2] for _, _, block in stretches]
    drawn = PolyCollection(
        corners, facecolors=colours, alpha=0.10, linewidths=0, zorder=0, transform=ax.get_xaxis_transform()
    )
    ax.add_collection(drawn, autolim=False)
    ax.update_datalim([(x, 0) for start, end, _ in stretches for x in (start, end)], updatey=False)


BORDER: tuple[dict[str, Any], ...] = (
    {"color": "white", "lw": 1.3, "solid_capstyle": "butt"},
    {"color": "0.1", "lw": 0.6, "solid_capstyle": "butt"},
)
"""Dark upon light, so that one of the two is seen on any colour of a map."""


def draw_borders(ax: Axes, plan: pd.DataFrame, *, offset: float, rows: bool = True, cols: bool = True) -> None:
    """Thin lines at the borders of blocks on a heat map."""
    for edge in sorted({edge for start, end, _, _ in blocks(plan) for edge in (start, end)}):
        for style in BORDER:
            if cols:
                ax.axvline(edge + offset, **style)
            if rows:
                ax.axhline(edge + offset, **style)


def draw_layer_borders(ax: Axes, plan: pd.DataFrame) -> None:
    """Borders of blocks on a map of spans of layers: starts upwards, exclusive ends to the right."""
    layers = plan["layer"].tolist()
    edges = sorted({edge for start, end, _, _ in blocks(plan) for edge in (start, end)})
    for edge in edges:
        layer = layers[edge] if edge < len(layers) else layers[-1] + 1
        for style in BORDER:
            ax.axhline(layer - 0.5, **style)
            ax.axvline(layer + 0.5, **style)


def whole_numbers(ax: Axes, x: bool = True, y: bool = False) -> None:
    """Ticks at whole steps or depths."""
    if x:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if y:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


_SUPERSCRIPTS = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class PowersOfTen(LogFormatterSciNotation):
    """Labels as ``2×10⁻³`` in plain characters: no formula has to be read, and the text stays text."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = str(super().__call__(x, pos))
        raised = re.sub(r"\^\{([-−]?\d+)\}", lambda found: found[1].translate(_SUPERSCRIPTS), formula)
        return re.sub(r"[${}]|\\mathdefault", "", raised.replace(r"\times", "×"))


def powers_of_ten(axis: Axis, *, between: bool = True) -> None:
    """Such labels on a logarithmic axis, on the ticks between powers too where there is room for them."""
    axis.set_major_formatter(PowersOfTen())
    if between:
        axis.set_minor_formatter(PowersOfTen(labelOnlyBase=False))
