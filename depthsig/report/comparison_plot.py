"""What a comparison's figures are, and one of them on axes of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from depthsig.errors import InputError, near, shown
from depthsig.metrics.rules import LATE
from depthsig.report.alt_texts import curves_in_words, extremes_in_words, pairs_in_words
from depthsig.report.drawable import drawable
from depthsig.report.figures.forest import draw_by_profile, draw_claims, draw_late, draw_reliance
from depthsig.report.figures.labels import in_words
from depthsig.report.figures.models import draw_distances, draw_relative, draw_tree
from depthsig.report.style import FULL, house_style, new_figure
from depthsig.signature import Comparison
from depthsig.signature.compared import in_numbers, stated
from depthsig.terms import NONE, described

MOST_PAIRS = 28
"""More paired differences than this are in the table only, those with roles first."""


@dataclass(frozen=True, eq=False)
class Pictured:
    """A figure of a comparison: what is drawn of which rows, and what the page says of it.

    Attributes:
        size: in inches. alt: what is seen. paged: whether the page shows it.
    """

    name: str
    group: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Axes], Any]
    rows: pd.DataFrame
    alt: str
    paged: bool = True


def plot_comparison(comparison: Comparison, name: str, ax: Axes | None = None) -> Axes:
    """Draw one figure on ``ax`` (or a new figure) and return the axes.

    Raises:
        InputError: for a name of no figure; the message lists those that there are.
    """
    one = _named(drawable(comparison), name)
    with house_style():
        ax = new_figure(*one.size).add_subplot() if ax is None else ax
        one.draw(ax)
    return ax


def comparison_rows(comparison: Comparison, name: str) -> pd.DataFrame:
    """What the figure of this name shows, as a table.

    Raises:
        InputError: for a name of no figure; the message lists those that there are.
    """
    return _named(comparison, name).rows


def _named(comparison: Comparison, name: str) -> Pictured:
    every = {one.name: one for one in (*pictured(comparison), *_profiles(comparison))}
    if name not in every:
        raise InputError(f"no figure {shown(name)}{near(name, every)}; there are {', '.join(every)}")
    return every[name]


def pictured(comparison: Comparison) -> Iterator[Pictured]:
    """Every figure that a comparison allows, its profiles apart."""
    roles, size, claims = _roles(comparison), len(comparison.models), comparison.claims
    if len(claims):
        yield Pictured(
            "claims", "claims", "Claims", "Each claimed difference with its 95 % interval.",
            (FULL, 0.75 + 0.3 * len(claims)), lambda ax: draw_claims(ax, claims), claims,
            " ".join(f"{stated(c)}: {in_numbers(c)}." for c in claims.to_dict("records")),
        )  # fmt: skip
    distances = comparison.distance_matrix()
    yield Pictured(
        "tree", "distances", "Tree of models",
        "Average linkage of the mean distance; models that fork close to their names use depth alike.",
        (FULL, 0.6 + 0.24 * size), lambda ax: draw_tree(ax, distances, roles), distances,
        f"Tree of models: {pairs_in_words(distances)}.",
    )  # fmt: skip
    yield Pictured(
        "distances", "distances", "Distances",
        f"Mean L1 distance over {len(comparison.info['profiles']['compared'])} profiles.",
        (FULL * 0.8, 1.6 + 0.33 * size), lambda ax: draw_distances(ax, distances, roles), distances,
        f"Mean distances: {pairs_in_words(distances)}.",
    )  # fmt: skip
    between = comparison.distances[comparison.distances["level"] == "role"]
    if len(between):
        number = len(between[["metric", "part", "scope"]].drop_duplicates())
        yield Pictured(
            "distances.roles", "distances", "Distances by profile",
            "Which profiles the mean distance between roles rests on.", (FULL, 0.9 + 0.19 * number),
            lambda ax: draw_by_profile(ax, between), between, _between_in_words(between),
            paged=between["b"].nunique() > 1 or between["a"].nunique() > 1,
        )  # fmt: skip
    scores = _late(comparison.scores).dropna(subset=["value"])
    if scores.empty:
        return
    yield Pictured(
        "late.models", "late", "Who relies on late layers",
        "Share of what skipping layers changes that lies in the last third of the steps; 1/3 if all matter alike.",
        (FULL, 0.6 + 0.2 * len(scores)), lambda ax: draw_reliance(ax, scores, roles), scores,
            f"Share of the last third: {extremes_in_words(scores.set_index('model')['value'])}.",
    )  # fmt: skip
    late = _late(comparison.late).dropna(subset=["difference"])
    late = pd.concat([late[late["level"] == "role"], late[late["level"] == "model"]]).head(MOST_PAIRS)
    if len(late):
        yield Pictured(
            "late.differences", "late", "Differences of late reliance",
            "Paired differences: roles first (over their seeds), then models (over prompts).",
            (FULL, 0.6 + 0.17 * len(late)), lambda ax: draw_late(ax, late), late, _late_in_words(late),
        )  # fmt: skip


def _between_in_words(between: pd.DataFrame) -> str:
    """A sentence for each pair of roles."""
    said = []
    for (a, b), rows in between.groupby(["a", "b"], sort=False):
        names = [described(*row) for row in rows[["metric", "part", "scope"]].itertuples(index=False, name=None)]
        said.append(f"{a} against {b}: {extremes_in_words(pd.Series(rows['distance'].to_numpy(), index=names))}.")
    return " ".join(said)


def _late_in_words(late: pd.DataFrame) -> str:
    """Differences between roles one by one, or the ends of many between models."""
    roles = late[late["level"] == "role"]
    named = [f"{a} minus {b}" for a, b in late[["a", "b"]].itertuples(index=False, name=None)]
    if len(roles):
        values = zip(named, roles["difference"], roles["ci_low"], roles["ci_high"], strict=False)
        return " ".join(f"{name}: {value:+.3g} [{low:+.3g}, {high:+.3g}]." for name, value, low, high in values)
    return f"{extremes_in_words(pd.Series(late['difference'].to_numpy(), index=named))}."


def _profiles(comparison: Comparison) -> Iterator[Pictured]:
    """Each compared profile by itself, by its metric, part and scope; the page has them by family."""
    roles = _roles(comparison)
    for (metric, part, scope), rows in comparison.profiles.groupby(["metric", "part", "scope"], sort=False):
        name = ".".join(piece for piece in (metric, part, scope) if piece != NONE)
        one = comparison.entries[str(metric)]
        draw = partial(_profile, comparison, rows, roles)
        title = in_words(one, str(part), str(scope))
        caption = f"{name}: {one.formula}; on relative depth, scaled to unit mean absolute value; bands over prompts."
        alt = f"{title}: {curves_in_words(rows)}."
        yield Pictured(name, "profiles", title, caption, (FULL, 2.8), draw, rows, alt, paged=False)


def _profile(comparison: Comparison, rows: pd.DataFrame, roles: dict[str, str], ax: Axes) -> None:
    draw_relative(ax, rows, comparison.entries[str(rows.iloc[0]["metric"])], roles, comparison.models)
    ax.set_xlabel("relative depth")
    ax.set_ylabel("mean |value| = 1")
    ax.legend()


def _roles(comparison: Comparison) -> dict[str, str]:
    return {m["name"]: m["role"] for m in comparison.info["models"]}


def _late(frame: pd.DataFrame) -> pd.DataFrame:
    for column, value in zip(("score", "part", "scope"), LATE, strict=True):
        frame = frame[frame[column] == value]
    return frame
