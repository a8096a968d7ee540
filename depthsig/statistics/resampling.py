"""Percentile bootstrap over prompts (Efron & Tibshirani 1993, ch. 13)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import ndtri, stdtr, stdtrit

RESAMPLES = 1000
MIN_PROMPTS = 5
"""Below this many prompts an interval would say more about the method than about the data."""

_COLUMNS = 4096


@lru_cache(maxsize=32)
def bootstrap_indices(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Int[ndarray, "resample prompt"]:
    """Which prompts each resample draws, with replacement; the same for the same arguments.

    >>> bootstrap_indices(3, 2, seed=0).shape
    (2, 3)
    """
    indices = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    indices.flags.writeable = False
    return indices


def bootstrap_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Float[ndarray, "resample prompt"]:
    """How often each resample draws each prompt."""
    indices = bootstrap_indices(n, resamples, seed)
    counts = np.bincount((np.arange(resamples)[:, None] * n + indices).ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(float)


def bootstrap_mean(
    samples: Float[ndarray, "prompt cell"], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[Float[ndarray, "cell"], Float[ndarray, "cell"], Float[ndarray, "cell"], Int[ndarray, "cell"]]:
    """Mean over prompts with a percentile interval, for every cell.

    Args:
        samples: one row a prompt; a NaN takes no part in its cell.

    Returns:
        (mean, low, high, n): n counts the prompts that take part; the interval is NaN below
        :data:`MIN_PROMPTS` of them, the mean where there is none.

    >>> mean, low, high, n = bootstrap_mean(np.arange(6.0)[:, None])
    >>> float(mean[0]), int(n[0]), bool(low[0] < 2.5 < high[0])
    (2.5, 6, True)
    """
    samples = np.asarray(samples, dtype=float)
    defined = ~np.isnan(samples)
    n = defined.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, samples, 0.0).sum(0) / n
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    tails = [50 * (1 - level), 50 * (1 + level)]
    for rows, columns in _alike(defined):
        if len(rows) < MIN_PROMPTS:
            continue
        weights = bootstrap_counts(len(rows), resamples, seed) / len(rows)
        for start in range(0, len(columns), _COLUMNS):
            some = columns[start : start + _COLUMNS]
            low[some], high[some] = percentiles(samples[np.ix_(rows, some)].T @ weights.T, tails)
    return mean, low, high, n


def missed(n: int, level: float = 0.95) -> float:
    """How often the percentile interval of a mean of n normal values does not hold what it is of.

    It is as wide as if the sample's variance, of n and not n − 1, were the true one, so that Student's t with n − 1
    degrees of freedom tells (Hesterberg 2015, The American Statistician 69:371).

    >>> round(missed(5), 3), round(missed(20), 3), round(missed(10_000), 3)
    (0.154, 0.071, 0.05)
    """
    reach = float(ndtri((1 + level) / 2)) * ((n - 1) / n) ** 0.5
    return float(2 * stdtr(n - 1, -reach))


def widening(n: int, strata: int = 1, level: float = 0.95) -> float:
    """How much wider the percentile interval of a mean of n normal values has to be to hold it as often as it says.

    By Student's t instead of the normal, and the sample's variance of n − 1 (the expanded percentile interval,
    Hesterberg 2015, The American Statistician 69:371). Values drawn within strata lose a degree each.

    >>> round(widening(8), 2), round(widening(20), 2), round(widening(100, 5), 2)
    (1.29, 1.1, 1.04)
    """
    df = n - strata
    if df < 1:
        return float("inf")
    return float(stdtrit(df, (1 + level) / 2) / ndtri((1 + level) / 2) * (n / df) ** 0.5)


def percentiles(values: Float[ndarray, "cell resample"], at: Sequence[float]) -> list[Float[ndarray, "cell"]]:
    """As ``np.percentile(values, at, axis=1)``, of values that are all defined and may be reordered.

    Only the order around each percentile is made; a row's values lie beside each other, as that wants them.

    >>> percentiles(np.array([[4.0, 1.0, 3.0, 2.0, 5.0]]), [50, 90])
    [array([3.]), array([4.6])]
    """
    last = values.shape[1] - 1
    places = [last * one / 100 for one in at]
    below = [min(int(place), last) for place in places]
    values.partition(sorted({k for b in below for k in (b, min(b + 1, last))}), axis=1)
    pairs = [(values[:, b], values[:, min(b + 1, last)]) for b in below]
    with np.errstate(invalid="ignore"):  # infinity less infinity, as np.percentile has it
        return [a + (b - a) * (place - k) for (a, b), place, k in zip(pairs, places, below, strict=True)]


def _alike(
    defined: Bool[ndarray, "prompt cell"],
) -> Iterator[tuple[Int[ndarray, "_row"], Int[ndarray, "_column"]]]:
    """Cells that the same prompts take part in, which are resampled together by one matrix product."""
    if defined.all():
        yield np.arange(defined.shape[0]), np.arange(defined.shape[1])
        return
    patterns, group = np.unique(defined, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield np.flatnonzero(patterns[:, number]), np.flatnonzero(group.ravel() == number)
