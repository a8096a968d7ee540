"""Estimates with their intervals, one below the other: claims, late reliance, distances by profile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from depthsig.metrics.rules import LATE
from depthsig.report.figures.labels import plain
from depthsig.report.figures.models import ROLE_COLOURS, role_legend, shorten, styles
from depthsig.report.style import COLOURS, MARKERS
from depthsig.terms import described

VERDICT_COLOURS = {"supported": COLOURS[2], "contradicted": COLOURS[1], "undecided": "0.45"}


def draw_forest(
    ax: Axes, labels: Sequence[str], rows: pd.DataFrame, value: str, colours: Sequence[str], *, zero: bool = True
) -> Axes:
    """Draw a point and its interval a row, from the top down; an undefined row stays empty.

    Args:
        rows: with the column ``value`` and, for intervals, ``ci_low`` and ``ci_high``.
    """
    columns = (rows[c].to_numpy(float) for c in (value, "ci_low", "ci_high"))
    for place, (middle, left, right, colour) in enumerate(zip(*columns, colours, strict=True)):
        if np.isfinite(left) and np.isfinite(right):
            ax.plot([left, right], [place, place], color=colour, lw=1.6, solid_capstyle="butt")
        if np.isfinite(middle):
            ax.plot(middle, place, marker="o", color=colour, ms=4)
    if zero:
        ax.axvline(0, color="0.5", lw=0.6, zorder=1)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return ax


def draw_claims(ax: Axes, claims: pd.DataFrame) -> Axes:
    """Draw the claims: their differences with intervals, and the verdict beside each."""
    labels = [claim_label(claim) for claim in claims.to_dict("records")]
    colours = [VERDICT_COLOURS[v] for v in claims["verdict"]]
    draw_forest(ax, labels, claims, "estimate", colours)
    beside = blended_transform_factory(ax.transAxes, ax.transData)
    for place, (verdict, colour) in enumerate(zip(claims["verdict"], colours, strict=True)):
        ax.text(1.03, place, verdict, transform=beside, ha="left", va="center", color=colour, fontsize=8, weight="bold")
    ax.set_xlabel("difference, 95 % interval (recurrence: of adjusted R²; convergence claims a value below 0)")
    return ax


def claim_label(claim: dict[str, str]) -> str:
    """``late: looped − baseline``, or the distances that convergence compares."""
    if claim["claim"] == "convergence":
        a, b, c = (claim[name] for name in "abc")
        return plain(f"convergence: d({a}, {b}) − min d to {c}")
    return plain(f"{claim['claim']}: {claim['a']} − {claim['c']}")


def draw_reliance(ax: Axes, scores: pd.DataFrame, roles: dict[str, str]) -> Axes:
    """Draw one score of every model, the largest on top."""
    rows = scores.sort_values("value", ascending=False)
    look = styles(list(scores["model"]), roles)
    names = list(rows["model"])
    draw_forest(ax, [shorten(n) for n in names], rows, "value", [str(look[n]["color"]) for n in names], zero=False)
    if rows["score"].iloc[0] == LATE[0]:
        ax.axvline(1 / 3, color="0.5", lw=0.6, ls=(0, (3, 2)), zorder=1)
    role_legend(ax, roles)
    ax.set_xlabel(f"{rows['score'].iloc[0]} ({described(*LATE[1:])}), 95 % interval over prompts")
    return ax


def draw_late(ax: Axes, late: pd.DataFrame) -> Axes:
    """Draw paired differences of late reliance, black where the interval is clear of 0."""
    labels = [f"{shorten(r['a'])} − {shorten(r['b'])}" for r in late.to_dict("records")]
    clear = (late["ci_low"] > 0) | (late["ci_high"] < 0)
    draw_forest(ax, labels, late, "difference", ["black" if c else "0.6" for c in clear])
    ax.set_xlabel(f"difference of {late['score'].iloc[0]} ({described(*LATE[1:])})")
    return ax


def draw_by_profile(ax: Axes, distances: pd.DataFrame) -> Axes:
    """Draw the distances between roles profile by profile, the mean on top."""
    rows = distances.copy()
    rows["name"] = [f"{r['metric']} {described(r['part'], r['scope'])}".strip() for r in rows.to_dict("records")]
    names = list(dict.fromkeys(rows["name"]))
    pairs = list(rows[["a", "b"]].drop_duplicates().itertuples(index=False, name=None))
    for number, (a, b) in enumerate(pairs):
        chosen = rows[(rows["a"] == a) & (rows["b"] == b)].drop_duplicates("name").set_index("name").reindex(names)
        y = np.arange(len(names)) + (number - (len(pairs) - 1) / 2) * 0.25
        colour = _pair_colour(a, b, number)
        ax.hlines(y, chosen["ci_low"], chosen["ci_high"], color=colour, lw=1.1)
        label = plain(f"{a} – {b}")
        ax.plot(chosen["distance"], y, ls="", marker=MARKERS[number % len(MARKERS)], color=colour, ms=3, label=label)
    ax.axhline(0.5, color="0.6", lw=0.6)
    ax.set_yticks(range(len(names)), [plain(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(left=0)
    ax.legend(loc="lower right")
    ax.set_xlabel("distance on relative depth (L1), 95 % interval")
    return ax


def _pair_colour(a: str, b: str, number: int) -> str:
    """Looped and grown together black; a pair with the baseline in the other one's colour."""
    if {a, b} == {"looped", "grown"}:
        return "black"
    other = a if b == "baseline" else b
    return ROLE_COLOURS.get(other, ROLE_COLOURS[""]) if "baseline" in (a, b) else COLOURS[number % len(COLOURS)]
