"""Whether a loop settles, and how often it may run: from values a prompt, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from depthsig.statistics.resampling import MIN_PROMPTS, bootstrap_counts, bootstrap_mean

Regime = Literal["settling", "drifting", "marginal"]


class Interval(NamedTuple):
    """A mean over prompts with its 95 % interval, NaN below five prompts."""

    value: float
    low: float
    high: float


def mean_of(values: Float[ndarray, "prompt"], seed: int = 0) -> Interval:
    """Of what is defined.

    >>> mean_of(np.array([1.0, 3.0]))
    Interval(value=2.0, low=nan, high=nan)
    """
    mean, low, high, _ = bootstrap_mean(np.asarray(values, dtype=float)[:, None], seed=seed)
    return Interval(float(mean[0]), float(low[0]), float(high[0]))


def regime_of(
    radius: Interval, shrinks: Interval, turns: Interval, *, stable: float = 1.0, smaller: float = 0.99,
    straight: float = 0.5,
) -> Regime:  # fmt: skip
    """``settling``, ``drifting`` or else ``marginal``; where there is an interval, all of it has to say so.

    Args:
        radius: spectral radius over all positions at the last pass: settling stays below ``stable``.
        shrinks: the last pass's step length over the first's: settling stays below ``smaller``.
        turns: cosine of the last two passes' updates: drifting stays above ``straight``.

    >>> regime_of(Interval(0.8, 0.7, 0.9), Interval(0.2, 0.1, 0.3), Interval(0.9, 0.8, 1.0))
    'settling'
    >>> regime_of(Interval(1.1, 1.0, 1.2), Interval(1.0, 0.9, 1.1), Interval(0.9, 0.8, 1.0))
    'drifting'
    """
    if _end(radius, "high") < stable and _end(shrinks, "high") < smaller:
        return "settling"
    return "drifting" if _end(turns, "low") > straight else "marginal"


def _end(of: Interval, name: Literal["low", "high"]) -> float:
    end = getattr(of, name)
    return of.value if np.isnan(end) else float(end)


@dataclass(frozen=True)
class SafeCounts:
    """Iteration counts around the best whose loss stays within a band of it.

    Attributes:
        best, low, high: counts, as prompts that choose say.
        low_ends, high_ends: 95 % intervals of the range's ends over resampled prompts; None below five.
        excess: on the prompts that are held out, the largest loss over the range less the smallest over all counts,
            with its interval; NaN without any.
        holds: whether that stays within the band. None without any prompts held out.
        held_low, held_high: the range that the prompts that are held out would have chosen; None where none has a loss
            of every one of them.
    """

    best: int
    low: int
    high: int
    low_ends: tuple[int, int] | None
    high_ends: tuple[int, int] | None
    excess: Interval
    holds: bool | None
    held_low: int | None
    held_high: int | None


def safe_counts(
    losses: Float[ndarray, "prompt count"], held_out: Float[ndarray, "held count"], counts: Sequence[int],
    band: float, seed: int = 0,
) -> SafeCounts | None:  # fmt: skip
    """The contiguous range of counts around the best with a mean loss of at most ``band`` above the best's.

    A count at which any loss is undefined has none; None where there is no other.

    Args:
        losses: of the prompts that choose. held_out: of those that check. band: in nats.

    >>> found = safe_counts(np.array([[1.0, 0.5, 0.52, 0.9]]), np.array([[1.0, 0.5, 0.6, 0.9]]), [1, 2, 3, 4], 0.05)
    >>> found and (found.best, found.low, found.high, found.holds)
    (2, 2, 3, False)
    """
    if not np.isfinite(losses).all(0).any():
        return None
    low, best, high = _range(losses.mean(0), band)
    ends: list[tuple[int, int] | None] = [None, None]
    if len(losses) >= MIN_PROMPTS:
        known = np.isfinite(losses).all(0)
        means = bootstrap_counts(len(losses), seed=seed) @ np.where(known, losses, 0.0) / len(losses)
        found = np.array([_range(np.where(known, row, np.nan), band) for row in means])
        for place, column in enumerate((0, 2)):
            a, b = np.percentile(found[:, column], [2.5, 97.5], method="nearest")
            ends[place] = counts[int(a)], counts[int(b)]
    none = Interval(np.nan, np.nan, np.nan)
    if not len(held_out):
        return SafeCounts(counts[best], counts[low], counts[high], ends[0], ends[1], none, None, None, None)
    excess = _excess(held_out, low, high, seed)
    theirs: tuple[int, int] | tuple[None, None] = (None, None)
    if np.isfinite(held_out).all(0).any():
        held_low, _, held_high = _range(held_out.mean(0), band)
        theirs = counts[held_low], counts[held_high]
    return SafeCounts(
        counts[best], counts[low], counts[high], ends[0], ends[1], excess, bool(excess.value <= band), *theirs
    )  # fmt: skip


def _range(means: Float[ndarray, "count"], band: float) -> tuple[int, int, int]:
    """First, best and last place of the range."""
    means = np.where(np.isfinite(means), means, np.inf)
    best = int(means.argmin())
    inside = means <= means[best] + band
    low, high = best, best
    while low > 0 and inside[low - 1]:
        low -= 1
    while high + 1 < len(means) and inside[high + 1]:
        high += 1
    return low, best, high


def _excess(losses: Float[ndarray, "prompt count"], low: int, high: int, seed: int) -> Interval:
    losses = np.where(np.isfinite(losses), losses, np.inf)
    weights = np.ones((1, len(losses)))
    if len(losses) >= MIN_PROMPTS:
        weights = np.concatenate([weights, bootstrap_counts(len(losses), seed=seed)])
    means = np.stack([_weighted(losses, w) for w in weights])
    with np.errstate(invalid="ignore"):
        over = means[:, low : high + 1].max(1) - means.min(1)
    over = np.where(np.isnan(over), np.inf, over)  # no count has a loss: infinity less infinity
    if len(over) == 1:
        return Interval(float(over[0]), np.nan, np.nan)
    a, b = np.percentile(over[1:], [2.5, 97.5], method="nearest")
    return Interval(float(over[0]), float(a), float(b))


def _weighted(losses: Float[ndarray, "prompt count"], weights: Float[ndarray, "prompt"]) -> Float[ndarray, "count"]:
    """Means in which a prompt that was not drawn takes no part, though its loss is infinite."""
    drawn = weights > 0
    return np.asarray((losses[drawn] * weights[drawn, None]).sum(0) / weights.sum())
