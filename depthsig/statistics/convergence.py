"""How alike two models use their depth: profiles on relative depth, distances, and verdicts with intervals.

Arrays in, arrays out. Everything that is resampled carries its resamples on the first axis, row 0
being the estimate itself (:func:`prompt_weights`), so that paired differences are differences of arrays.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from depthsig.errors import InputError
from depthsig.statistics.resampling import RESAMPLES, bootstrap_counts

POINTS = 50
"""Relative depths that profiles of different length are read at: 0, 1/49, ..., 1."""
COVERAGE = 95.0

Verdict = Literal["supported", "contradicted", "undecided"]


def relative_depths(size: int, axis: str) -> Float[ndarray, "size"]:
    """Where the entries of a profile lie in the model, from 0 (its input) to 1 (its output).

    d/S for the S + 1 states between steps (``axis="depth"``), (s + ½)/S for S steps (``axis="step"``).

    Raises:
        InputError: for another axis, or too few entries for it.

    >>> relative_depths(3, "depth").tolist(), relative_depths(2, "step").tolist()
    ([0.0, 0.5, 1.0], [0.25, 0.75])
    """
    if axis not in ("depth", "step"):
        raise InputError(f"axis {axis!r} is no axis of a profile; it is 'depth' or 'step'")
    if size < (2 if axis == "depth" else 1):
        raise InputError(f"a profile over {axis} of {size} entries has no relative depth")
    return np.arange(size) / (size - 1) if axis == "depth" else (np.arange(size) + 0.5) / size


def on_relative_depth(
    profiles: Real[ndarray, "*batch entry"], axis: str, points: int = POINTS
) -> Float[ndarray, "*batch point"]:
    """Profiles read at evenly spaced relative depths from 0 to 1, by linear interpolation.

    Before the first and after the last defined entry a profile goes on level. Entries that are undefined
    in every row of the batch (a step that an edit cannot start at, say) take no part; a row that lacks
    another one is NaN wherever that one is needed, and so everywhere after :func:`unit_mean`.

    Args:
        profiles: S + 1 entries each where ``axis`` is "depth", S where it is "step".

    >>> on_relative_depth(np.array([0.0, 1.0, 4.0]), "depth", points=5).tolist()
    [0.0, 0.5, 1.0, 2.5, 4.0]
    """
    profiles = np.asarray(profiles, dtype=float)
    places = relative_depths(profiles.shape[-1], axis)
    defined = ~np.isnan(profiles.reshape(-1, profiles.shape[-1])).all(0)
    if not defined.any():
        return np.full((*profiles.shape[:-1], points), np.nan)
    grid, kept = np.linspace(0.0, 1.0, points), profiles[..., defined]
    place = np.interp(grid, places[defined], np.arange(kept.shape[-1]))
    before = np.floor(place).astype(int)
    after, share = np.minimum(before + 1, kept.shape[-1] - 1), place - before
    return np.where(share > 0, kept[..., before] * (1 - share) + kept[..., after] * share, kept[..., before])


def unit_mean(profiles: Real[ndarray, "*batch point"]) -> Float[ndarray, "*batch point"]:
    """Profiles scaled to a mean absolute value of 1; NaN where a profile is zero throughout.

    >>> unit_mean(np.array([[1.0, -3.0], [0.0, 0.0]])).tolist()
    [[0.5, -1.5], [nan, nan]]
    """
    size = np.abs(np.asarray(profiles, dtype=float)).mean(-1, keepdims=True)
    return profiles / np.where(size > 0, size, np.nan)


def l1_distance(a: Real[ndarray, "*batch point"], b: Real[ndarray, "*batch point"]) -> Float[ndarray, "*batch"]:
    """∫|a − b| over relative depth, as the mean over the points; at most 2 for profiles of unit mean.

    >>> float(l1_distance(np.array([1.0, 1.0]), np.array([0.0, 2.0])))
    1.0
    """
    return np.asarray(np.abs(np.asarray(a, dtype=float) - b).mean(-1))


def profile_distance(a: Real[ndarray, "entry"], b: Real[ndarray, "other"], axis: str) -> float:
    """How far apart two profiles are in shape, whatever their scale and however deep their models.

    Both are read at 50 relative depths, scaled to unit mean absolute value, and subtracted (depthsig's
    own: no published measure). 0 for profiles that differ by a positive factor, at most 2.

    >>> profile_distance(np.array([1.0, 2.0, 3.0]), np.array([10.0, 15.0, 20.0, 25.0, 30.0]), "depth") < 1e-12
    True
    """
    return float(l1_distance(*(unit_mean(on_relative_depth(p, axis)) for p in (a, b))))


def prompt_weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Float[ndarray, "row prompt"]:
    """How often each prompt counts: row 0 once each (the estimate), then a row a bootstrap resample.

    >>> prompt_weights(3, 2).shape, prompt_weights(3, 2)[0].tolist()
    ((3, 3), [1.0, 1.0, 1.0])
    """
    return np.concatenate([np.ones((1, n)), bootstrap_counts(n, resamples, seed)]) if n else np.ones((resamples + 1, 0))


def weighted_means(
    values: Float[ndarray, "prompt *cell"], weights: Float[ndarray, "row prompt"]
) -> Float[ndarray, "row *cell"]:
    """Means over prompts in every row of weights; an undefined value takes no part in its cell.

    >>> weighted_means(np.array([[1.0], [np.nan], [3.0]]), prompt_weights(3, 0)).tolist()
    [[2.0]]
    """
    flat = np.asarray(values, dtype=float).reshape(len(values), -1)
    defined = ~np.isnan(flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ np.where(defined, flat, 0.0)) / (weights @ defined.astype(float))
    return means.reshape(len(weights), *np.shape(values)[1:])


def seed_weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Float[ndarray, "row member"]:
    """Shares of an arm's members (networks trained apart) in its mean; row 0: equal, then a row a resample.

    With prompts drawn anew in the same rows this is the two-level bootstrap: seeds first, prompts inside
    (Davison & Hinkley 1997, § 3.8). An arm of one member has nothing to resample.

    >>> seed_weights(2, 3)[0].tolist(), seed_weights(1, 2).tolist()
    ([0.5, 0.5], [[1.0], [1.0], [1.0]])
    """
    return prompt_weights(n, resamples, seed) / n


def arm_mean(values: Float[ndarray, "row member"], weights: Float[ndarray, "row member"]) -> Float[ndarray, "row"]:
    """The mean over an arm's members in every row; a member that is undefined makes it so where it counts.

    >>> arm_mean(np.array([[1.0, 3.0], [1.0, np.nan]]), np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [2.0, 1.0]
    """
    return np.where(weights > 0, weights * values, 0.0).sum(-1)


def arm_distance(
    distances: Float[ndarray, "row member other"],
    weights: Float[ndarray, "row member"],
    other_weights: Float[ndarray, "row other"],
) -> Float[ndarray, "row"]:
    """The mean distance between members of two arms in every row.

    >>> float(arm_distance(np.array([[[1.0, 3.0]]]), np.array([[1.0]]), np.array([[0.5, 0.5]]))[0])
    2.0
    """
    return arm_mean(
        np.where(other_weights[:, None, :] > 0, distances * other_weights[:, None, :], 0.0).sum(-1), weights
    )


def percentile_interval(rows: Float[ndarray, "row"]) -> tuple[float, float, float]:
    """(estimate, low, high) of a statistic: row 0, and the 2.5th and 97.5th percentile of the others.

    Resamples in which it is undefined are left out; without any, the interval is NaN (Efron & Tibshirani
    1993, ch. 13).

    >>> percentile_interval(np.array([5.0, *range(101)]))
    (5.0, 2.5, 97.5)
    """
    estimate, resampled = float(rows[0]), rows[1:][~np.isnan(rows[1:])]
    if np.isnan(estimate) or not resampled.size:
        return estimate, np.nan, np.nan
    low, high = np.percentile(resampled, [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2])
    return estimate, float(low), float(high)


def percentile_intervals(
    rows: Float[ndarray, "row *cell"],
) -> tuple[Float[ndarray, "cell"], Float[ndarray, "cell"], Float[ndarray, "cell"]]:
    """:func:`percentile_interval` of every cell.

    >>> [float(v[0]) for v in percentile_intervals(np.array([[5.0], *([float(i)] for i in range(101))]))]
    [5.0, 2.5, 97.5]
    """
    if len(rows) > 1 and not np.isnan(rows).any():
        low, high = np.percentile(rows[1:], [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2], axis=0)
        return rows[0], low, high
    found = np.array([percentile_interval(column) for column in rows.T]).reshape(-1, 3)
    return found[:, 0], found[:, 1], found[:, 2]


def verdict(low: float, high: float, *, above: bool = True) -> Verdict:
    """What an interval says of the claim that a number is above 0 (or below it, with ``above=False``).

    Supported where all of the interval lies on the claimed side, contradicted where all of it lies on
    the other, else undecided; an undefined interval decides nothing.

    >>> verdict(0.1, 0.3), verdict(-0.3, -0.1), verdict(-0.1, 0.1), verdict(np.nan, np.nan)
    ('supported', 'contradicted', 'undecided', 'undecided')
    """
    if low > 0:
        return "supported" if above else "contradicted"
    if high < 0:
        return "contradicted" if above else "supported"
    return "undecided"


def average_linkage(distances: Float[ndarray, "model model"]) -> Float[ndarray, "merge 4"]:
    """The tree of models (UPGMA, Sokal & Michener 1958), as :func:`scipy.cluster.hierarchy.linkage` has it.

    >>> average_linkage(np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 2.0], [4.0, 2.0, 0.0]]))[:, 2].tolist()
    [1.0, 3.0]
    """
    symmetric = (np.asarray(distances, dtype=float) + np.transpose(distances)) / 2
    return linkage(squareform(symmetric, checks=False), "average")
