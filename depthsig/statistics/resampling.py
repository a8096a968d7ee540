"""Percentile bootstrap over prompts (Efron & Tibshirani 1993, ch. 13)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

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
    counts = np.zeros((resamples, n))
    np.add.at(counts, (np.arange(resamples)[:, None], indices), 1.0)
    return counts


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
    # Cells that the same prompts take part in are resampled together, by one matrix product.
    patterns, group = np.unique(defined, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows = np.flatnonzero(patterns[:, number])
        if len(rows) < MIN_PROMPTS:
            continue
        weights = bootstrap_counts(len(rows), resamples, seed) / len(rows)
        columns = np.flatnonzero(group.ravel() == number)
        for start in range(0, len(columns), _COLUMNS):
            some = columns[start : start + _COLUMNS]
            low[some], high[some] = np.percentile(weights @ samples[np.ix_(rows, some)], tails, axis=0)
    return mean, low, high, n
