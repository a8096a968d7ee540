"""What a figure shows, in one sentence: for those who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from depthsig.metrics import Metric
from depthsig.report.figure_rows import SideBySide, measures_in
from depthsig.report.figures.token_map import MOST_POSITIONS
from depthsig.report.figures.top_tokens import readable
from depthsig.report.figures.trajectories import TOKENS

SMALL = 90
"""Percent of a matrix's cells below which its usual values lie."""


def profile_in_words(table: pd.DataFrame, place: str) -> str:
    """Where one line of a profile begins and ends, and what it does in between.

    Args:
        table: its rows, with ``index`` and ``value``; undefined values are left out.
        place: what the index counts, ``depth`` or ``step``.

    >>> profile_in_words(pd.DataFrame({"index": [0, 1, 2], "value": [12.0, 11.0, 0.0]}), "depth")
    'falls from 12 at depth 0 to 0 at depth 2, fastest between 1 and 2'
    """
    rows = table.dropna(subset=["value"]).sort_values("index")
    x, y = rows["index"].to_numpy(int), rows["value"].to_numpy(float)
    if not len(y):
        return "nothing is defined"
    if len(y) == 1 or np.ptp(y) == 0:
        where = f"at {place} {x[0]}" if len(y) == 1 else f"from {place} {x[0]} to {x[-1]}"
        return f"is {y[0]:.3g} {where}"
    first, last = f"{y[0]:.3g} at {place} {x[0]}", f"{y[-1]:.3g} at {place} {x[-1]}"
    if (y[0] == y.max() and y[-1] == y.min()) or (y[0] == y.min() and y[-1] == y.max()):
        moves = np.diff(y) if y[-1] > y[0] else -np.diff(y)
        fastest = int(np.argmax(moves))
        said = "rises" if y[-1] > y[0] else "falls"
        between = f", fastest between {x[fastest]} and {x[fastest + 1]}" if len(y) > 2 else ""
        return f"{said} from {first} to {last}{between}"
    low, high = int(np.argmin(y)), int(np.argmax(y))
    extremes = f"highest at {place} {x[high]} ({y[high]:.3g}), lowest at {place} {x[low]} ({y[low]:.3g})"
    return f"goes from {first} to {last}; {extremes}"


def matrix_in_words(matrix: pd.DataFrame, row: str, column: str) -> str:
    """Where a matrix is largest, and below what most of its cells lie.

    Args:
        matrix: rows x columns, NaN where undefined.
        row, column: what its rows and columns are.

    >>> matrix_in_words(pd.DataFrame([[0.0, 1.9], [0.2, float("nan")]]), "step", "later step")
    'largest at step 0, later step 1 (1.9), 90 % of cells at most 1.56'
    """
    values = matrix.to_numpy(dtype=float)
    if not np.isfinite(values).any():
        return "nothing is defined"
    i, j = np.unravel_index(int(np.nanargmax(values)), values.shape)
    most = float(np.nanpercentile(values, SMALL))
    where = f"{row} {matrix.index[i]}, {column} {matrix.columns[j]}"
    return f"largest at {where} ({values[i, j]:.3g}), {SMALL} % of cells at most {most:.3g}"


def extremes_in_words(values: pd.Series) -> str:
    """Which of the named values is highest and which lowest.

    >>> extremes_in_words(pd.Series([0.47, 0.31, 0.3], index=["looped", "grown", "baseline"]))
    'highest looped (0.47), lowest baseline (0.3)'
    >>> extremes_in_words(pd.Series([0.47], index=["looped"]))
    'looped 0.47'
    """
    known = values.dropna()
    if known.empty:
        return "nothing is defined"
    if len(known) == 1:
        return f"{known.index[0]} {known.iloc[0]:.3g}"
    high, low = known.idxmax(), known.idxmin()
    return f"highest {high} ({known.max():.3g}), lowest {low} ({known.min():.3g})"


def pairs_in_words(distances: pd.DataFrame) -> str:
    """Which two models are nearest to each other, and which farthest.

    Args:
        distances: symmetric, named by model.

    >>> names = ["a", "b", "c"]
    >>> pairs_in_words(pd.DataFrame([[0, 0.1, 0.5], [0.1, 0, 0.4], [0.5, 0.4, 0]], names, names))
    'nearest a and b (0.1), farthest a and c (0.5)'
    """
    values = distances.to_numpy(float)
    rows, cols = np.triu_indices(len(values), 1)
    apart = pd.Series(values[rows, cols]).dropna()
    if apart.empty:
        return "nothing is defined"
    named = [f"{distances.index[i]} and {distances.index[j]}" for i, j in zip(rows, cols, strict=True)]
    near, far = int(apart.idxmin()), int(apart.idxmax())
    if near == far:
        return f"{named[near]} are {apart[near]:.3g} apart"
    return f"nearest {named[near]} ({apart[near]:.3g}), farthest {named[far]} ({apart[far]:.3g})"


def curves_in_words(rows: pd.DataFrame, place: str = "relative depth") -> str:
    """Where the models' curves of one profile lie farthest apart.

    Args:
        rows: of one profile, with ``model``, relative ``depth`` and ``value``.
        place: what the column ``depth`` holds.

    >>> curves_in_words(pd.DataFrame({"model": ["a", "b"], "depth": [0.5, 0.5], "value": [1.0, 3.0]}))
    'farthest apart at relative depth 0.5: highest b (3), lowest a (1)'
    """
    table = rows.pivot_table(index="depth", columns="model", values="value", aggfunc="first").dropna(how="all")
    if table.empty:
        return "nothing is defined"
    if table.shape[1] == 1:
        return profile_in_words(rows.assign(index=range(len(rows))), "place")
    depth = (table.max(axis=1) - table.min(axis=1)).idxmax()
    return f"farthest apart at {place} {depth:.2g}: {extremes_in_words(table.loc[depth])}"


def phases_in_words(rows: pd.DataFrame) -> str:
    """Which phase of the block lies highest and which lowest once the trend is removed.

    Args:
        rows: as :attr:`depthsig.report.period_tables.PeriodTable.rows`.

    >>> phases_in_words(pd.DataFrame({"phase": [0, 1, 0, 1], "phase_fit": [0.2, -0.2, 0.2, -0.2]}))
    'highest phase 0 (0.2), lowest phase 1 (-0.2)'
    """
    fits = rows.groupby("phase")["phase_fit"].mean()
    return extremes_in_words(fits.rename(index=lambda phase: f"phase {int(phase)}"))


def side_by_side_in_words(curves: pd.DataFrame, which: SideBySide, entries: Mapping[str, Metric]) -> str:
    """A sentence for each measure and line of a figure of several kinds of run."""
    said = []
    for measure in measures_in(curves, which):
        for name, line in zip(measure.metrics, measure.lines, strict=True):
            rows, one = curves[curves["metric"] == name], entries[name]
            said.append(f"{one.label}, {which.lines[line]}, {profile_in_words(rows, one.axis)}.")
    return " ".join(said)


def token_map_in_words(tokens: pd.DataFrame, row: str = "depth") -> str:
    """At which depth (or pass) and input token a map of tokens is largest.

    Args:
        tokens: one prompt's rows of a metric, with ``index``, ``position``, ``input_token`` and ``value``.
        row: what its rows are called.
    """
    words = tokens.drop_duplicates("position").set_index("position")["input_token"]
    table = tokens.pivot_table(index="index", columns="position", values="value", aggfunc="first")
    table = table.iloc[:, -MOST_POSITIONS:]
    return matrix_in_words(table.rename(columns=lambda p: f"{p} ({readable(str(words[p]))})"), row, "position")


def top_tokens_in_words(tokens: pd.DataFrame) -> str:
    """Which token is on top at the last position, from depth to depth.

    Args:
        tokens: one prompt's rows, with ``index``, ``position``, ``rank``, ``token`` and ``value`` (a probability).

    >>> top_tokens_in_words(pd.DataFrame({"index": [0, 1, 2], "position": 3, "rank": 1, "token": ["a", "b", "b"],
    ...                                   "value": [0.1, 0.4, 0.9]}))
    'at position 3 the top token is a from depth 0, b from depth 1; its probability at depth 2 is 0.9'
    """
    top = tokens[(tokens["rank"] == 1) & (tokens["position"] == tokens["position"].max())]
    top = top.drop_duplicates("index").sort_values("index")
    if top.empty:
        return "nothing is defined"
    changes = top[top["token"] != top["token"].shift()]
    said = [f"{readable(str(row.token))} from depth {row.index}" for row in changes.itertuples(index=False)]
    if len(said) > 6:
        said = [*said[:2], f"{len(said) - 5} others", *said[-3:]]
    last = top.iloc[-1]
    end = f"its probability at depth {last['index']} is {last['value']:.3g}"
    return f"at position {last['position']} the top token is {', '.join(said)}; {end}"


def paths_in_words(tokens: pd.DataFrame) -> str:
    """How far tokens' states move from pass to pass on the components that are drawn.

    Args:
        tokens: one prompt's rows of ``loop.pca``: ``index`` (pass), ``position``, ``rank`` (component), ``value``.
    """
    shown = tokens[tokens["position"].isin(np.sort(tokens["position"].unique())[-TOKENS:])]
    paths = shown.pivot_table(index="index", columns=["position", "rank"], values="value", aggfunc="first")
    squares = (paths.diff().iloc[1:] ** 2).T.groupby(level="position").sum(min_count=1)
    moves = np.sqrt(squares).mean().rename("value").rename_axis("index").reset_index()
    return f"the mean move on both components {profile_in_words(moves, 'state')}"
