"""Pictures of a comparison: the tree of models, their distances, and profiles on relative depth."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import dendrogram

from depthsig.metrics import Metric
from depthsig.report.figures.labels import in_words, plain
from depthsig.report.scale import Scale
from depthsig.report.style import COLOURS, SEQUENTIAL
from depthsig.statistics.convergence import average_linkage

ROLE_COLOURS = {"looped": COLOURS[0], "grown": COLOURS[1], "baseline": COLOURS[2], "": "0.45"}
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
LONGEST = 34
FAR = 1.0
"""A distance of profiles (at most 2) that few pairs of models reach."""
DISTANCES = Scale("linear", 0.0, FAR)
"""The same for every comparison, in print and on the page."""


def shorten(name: str) -> str:
    """A model's name as a label: its middle is cut out where it is long, and no dollar sign begins a formula."""
    return plain(name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}")


def styles(models: list[str], roles: dict[str, str]) -> dict[str, dict[str, object]]:
    """Colour by role (by model where there are no roles), line by place within it."""
    found: dict[str, dict[str, object]] = {}
    count: dict[str, int] = {}
    for place, name in enumerate(models):
        role = roles.get(name, "")
        number = count[role] = count.get(role, -1) + 1
        alone = not any(roles.values())
        colour = COLOURS[place % len(COLOURS)] if alone else ROLE_COLOURS.get(role, ROLE_COLOURS[""])
        line = LINES[(place // len(COLOURS) if alone else number) % len(LINES)]
        found[name] = {"color": colour, "ls": line}
    return found


def role_legend(ax: Axes, roles: dict[str, str]) -> None:
    """Which colour is which role, where there are roles."""
    shown = [role for role in ROLE_COLOURS if role in roles.values()] if any(roles.values()) else []
    handles = [Line2D([], [], color=ROLE_COLOURS[role], lw=2, label=role or "no role") for role in shown]
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), borderaxespad=0.1)


def draw_tree(ax: Axes, distances: pd.DataFrame, roles: dict[str, str]) -> Axes:
    """Draw the models' tree (average linkage); the closer the fork is to the names, the closer the models."""
    tree = average_linkage(distances.to_numpy(float))
    drawn = dendrogram(
        tree, labels=list(distances.index), orientation="right", ax=ax, link_color_func=lambda _: "0.35",
        leaf_font_size=7,
    )  # fmt: skip
    look = styles(list(distances.index), roles)
    ax.set_yticklabels([shorten(name) for name in drawn["ivl"]])
    for label, name in zip(ax.get_yticklabels(), drawn["ivl"], strict=True):
        label.set_color(str(look[name]["color"]))
    role_legend(ax, roles)
    ax.set_xlim(float(tree[:, 2].max()) * 1.08 or 1.0, 0)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("mean distance of profiles (L1, at most 2)")
    return ax


def draw_distances(ax: Axes, distances: pd.DataFrame, roles: dict[str, str]) -> Axes:
    """Draw the distances between models as a heat map with its numbers."""
    values = distances.to_numpy(float)
    size = len(values)
    image = ax.imshow(values, cmap=colormaps[SEQUENTIAL], norm=DISTANCES.colours(), aspect="equal")
    if size <= 14:
        for (row, col), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 * FAR else "black"
            ax.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color=colour)
    look = styles(list(distances.index), roles)
    names = [shorten(name) for name in distances.index]
    ax.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(size), names)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        for label, name in zip(labels, distances.index, strict=True):
            label.set_color(str(look[name]["color"]))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, extend=DISTANCES.ends(values))
    bar.set_label("mean distance of profiles (L1)")
    bar.outline.set_linewidth(0.4)
    return ax


def draw_relative(
    ax: Axes, rows: pd.DataFrame, entry: Metric, roles: dict[str, str], models: list[str], letters: int = 120
) -> Axes:
    """Draw one profile of every model on relative depth, with bands over prompts.

    Args:
        letters: of the title that fit on a line.
    """
    look = styles(models, roles)
    for name, curve in rows.groupby("model", sort=False):
        curve = curve.sort_values("depth")
        style = look[str(name)]
        x = curve["depth"].to_numpy(float)
        low, high = curve["ci_low"].to_numpy(float), curve["ci_high"].to_numpy(float)
        ax.fill_between(x, low, high, color=str(style["color"]), alpha=0.15, lw=0)
        ax.plot(x, curve["value"].to_numpy(float), label=shorten(str(name)), lw=1.0, **style)  # type: ignore[arg-type]
    first = rows.iloc[0]
    ax.set_title(plain(fill(in_words(entry, first["part"], first["scope"]), letters)), fontsize=7)
    ax.set_xlim(0, 1)
    ax.margins(y=0.08)
    if entry.centre is not None:
        ax.axhline(entry.centre, color="0.5", lw=0.6, zorder=1)
    return ax
