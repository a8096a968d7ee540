"""One figure of a comparison on axes of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from depthsig.errors import InputError, near, shown
from depthsig.metrics.rules import LATE
from depthsig.report.drawable import drawable
from depthsig.report.figures.forest import draw_by_profile, draw_claims, draw_late, draw_reliance
from depthsig.report.figures.models import draw_distances, draw_relative, draw_tree
from depthsig.report.style import FULL, house_style, new_figure
from depthsig.signature import Comparison
from depthsig.terms import NONE

Draw = Callable[[Axes], Any]


def plot_comparison(comparison: Comparison, name: str, ax: Axes | None = None) -> Axes:
    """Draw one figure on ``ax`` (or a new figure) and return the axes.

    Raises:
        InputError: for a name of no figure; the message lists those that there are.
    """
    draw, _ = _figure(drawable(comparison), name)
    with house_style():
        ax = new_figure(FULL, 2.8).add_subplot() if ax is None else ax
        draw(ax)
    return ax


def comparison_rows(comparison: Comparison, name: str) -> pd.DataFrame:
    """What the figure of this name shows, as a table.

    Raises:
        InputError: for a name of no figure; the message lists those that there are.
    """
    return _figure(comparison, name)[1]


def _figure(comparison: Comparison, name: str) -> tuple[Draw, pd.DataFrame]:
    every = _figures(comparison)
    if name not in every:
        raise InputError(f"no figure {shown(name)}{near(name, every)}; there are {', '.join(every)}")
    return every[name]


def _figures(comparison: Comparison) -> dict[str, tuple[Draw, pd.DataFrame]]:
    """What can be drawn, by name: the figures of the page, and each compared profile by its metric, part and scope."""
    roles = {m["name"]: m["role"] for m in comparison.info["models"]}
    found: dict[str, tuple[Draw, pd.DataFrame]] = {}
    if len(comparison.claims):
        found["claims"] = lambda ax: draw_claims(ax, comparison.claims), comparison.claims
    distances = comparison.distance_matrix()
    found["tree"] = lambda ax: draw_tree(ax, distances, roles), distances
    found["distances"] = lambda ax: draw_distances(ax, distances, roles), distances
    between = comparison.distances[comparison.distances["level"] == "role"]
    if len(between):
        found["distances.roles"] = lambda ax: draw_by_profile(ax, between), between
    scores = _late(comparison.scores).dropna(subset=["value"])
    if len(scores):
        found["late.models"] = lambda ax: draw_reliance(ax, scores, roles), scores
    late = _late(comparison.late).dropna(subset=["difference"])
    if len(late):
        found["late.differences"] = lambda ax: draw_late(ax, late), late
    for (metric, part, scope), rows in comparison.profiles.groupby(["metric", "part", "scope"], sort=False):
        name = ".".join(piece for piece in (metric, part, scope) if piece != NONE)
        found[name] = _profile(comparison, rows, roles), rows
    return found


def _profile(comparison: Comparison, rows: pd.DataFrame, roles: dict[str, str]) -> Draw:
    def draw(ax: Axes) -> None:
        draw_relative(ax, rows, comparison.entries[str(rows.iloc[0]["metric"])], roles, comparison.models)
        ax.set_xlabel("relative depth")
        ax.set_ylabel("mean |value| = 1")
        ax.legend()

    return draw


def _late(frame: pd.DataFrame) -> pd.DataFrame:
    for column, value in zip(("score", "part", "scope"), LATE, strict=True):
        frame = frame[frame[column] == value]
    return frame
