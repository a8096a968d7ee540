"""What a figure shows, in one sentence: for those who cannot see it."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
