"""Is there a block period anywhere in a profile? Start, size and count found blindly.

One statistic for the whole search, its null simulated for the whole search: what is found is
corrected for having been looked for. A span found this way must not be tested again as if it had
been declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.statistics.periodicity import PeriodTest
from depthsig.statistics.periodicity_design import (
    NULL_PHI,
    PHI,
    ROUNDING,
    Design,
    ar1,
    calibrated,
    legendre,
    orthonormal,
    phase_dummies,
    profile_design,
    profile_null,
    whitener,
)

BLOCKS = range(2, 9)
COUNTS = range(3, 9)
SEARCH_DRAWS = 999
MIN_FREE = 4
EXTREME = 0.02
"""Each candidate's p̄ is put on one scale where its own null has this quantile."""
LOCALISE_PHI = 0.3


def find_period(profile: Real[ndarray, "step"], log: bool = False, draws: int = SEARCH_DRAWS) -> PeriodTest:
    """Search a whole profile for a span that recurs with some block.

    Candidates are all blocks of 2..8 steps, 3..8 of them, at every start, each with the design of
    :func:`~depthsig.statistics.periodicity.block_periodicity` and d₂ ≥ 4. A candidate's score is
    −log₁₀ p̄ − c, where c (≥ 0) puts the 2 % quantile of its own null at .02; the statistic is the
    largest score. Null: ``draws`` Gaussian AR(1) series of the profile's length for each φ₀, the
    largest p counts. The block is the best candidate's; start and count are those that minimise
    the residuals of a generalised-least-squares fit of the whole profile (φ = .3). Starts are
    within one step in three cases of four: read them as ±1.

    Args:
        profile: one value a step. log: take logarithms first, as the metric's entry says.
        draws: null series for each φ₀.

    Returns:
        A record with the p of the whole search, the span found, and its ``strength`` (too large
        by selection). Without candidates or with undefined values: not testable.

    >>> rng = np.random.default_rng(3)
    >>> pattern = np.r_[np.zeros(4), np.tile([0, 3, 1], 5), np.zeros(5)]
    >>> found = find_period(pattern + 0.3 * rng.normal(size=24), draws=99)
    >>> found.p, found.block, found.count
    (0.01, 3, 5)
    """
    values = np.asarray(profile, dtype=float)
    if values.ndim != 1:
        raise InputError(f"a profile has one axis; found an array of shape {values.shape}")
    if not np.isfinite(values).all():
        return PeriodTest(False, f"{int((~np.isfinite(values)).sum())} of the profile's values are undefined")
    if log and (values <= 0).any():
        return PeriodTest(False, "values of 0 or less have no logarithm")
    if not candidates(len(values)):
        return PeriodTest(False, f"{len(values)} steps are too few to search for a period")
    y = np.log(values) if log else values
    trend = orthonormal(legendre(np.arange(len(y)), 3))
    if np.linalg.norm(y - trend @ (trend.T @ y)) <= ROUNDING * np.linalg.norm(y):
        return PeriodTest(False, "nothing is left of the profile after its trend")
    statistic, best = search(y[None])
    # Small statistics are the ordinary ones: negated, they are calibrated as p̄ is.
    p = float(calibrated(-statistic, -search_null(len(y), draws)[:, ::-1])[0])
    block = candidates(len(y))[int(best[0])].block
    start, count = (int(v[0]) for v in localise(y[None], block))
    last = start + block * count == len(y)
    design = profile_design(block * count, block, start == 0, last)
    strength = float(design.strength(y[start : start + block * count])) if design is not None else np.nan
    return PeriodTest(True, "", p, strength, start=start, block=block, count=count)


@dataclass(frozen=True)
class Candidate:
    """A span size with the starts that share one design."""

    block: int
    count: int
    first: bool
    last: bool
    starts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Steps of the span."""
        return self.block * self.count

    @property
    def design(self) -> Design:
        """The design of the span."""
        design = profile_design(self.n, self.block, self.first, self.last)
        assert design is not None
        return design

    @property
    def offset(self) -> float:
        """c = max(0, max over φ₀ of log₁₀(.02 / the 2 % quantile of p̄*))."""
        null = profile_null(self.n, self.block, self.first, self.last)
        quantiles = np.quantile(null, EXTREME, axis=1)
        return max(0.0, float(np.log10(EXTREME / quantiles).max()))


@lru_cache(maxsize=128)
def candidates(size: int) -> list[Candidate]:
    """Every block, count and kind of position that a profile of ``size`` steps has room for."""
    found = []
    for block in BLOCKS:
        for count in COUNTS:
            room = size - block * count
            if room < 0:
                continue
            groups: dict[tuple[bool, bool], list[int]] = {}
            for start in range(room + 1):
                groups.setdefault((start == 0, start == room), []).append(start)
            for (first, last), starts in groups.items():
                design = profile_design(block * count, block, first, last)
                if design is not None and design.d2 >= MIN_FREE:
                    found.append(Candidate(block, count, first, last, tuple(starts)))
    return found


def search(y: Float[ndarray, "m step"]) -> tuple[Float[ndarray, "m"], ndarray]:
    """The statistic of every series, and the index of the candidate group that gave it."""
    # Constants are part of every X: taking one out changes nothing but rounding.
    y = y - y.mean(1, keepdims=True)
    found = candidates(y.shape[1])
    best, where = np.full(len(y), -np.inf), np.zeros(len(y), dtype=int)
    for index, candidate in enumerate(found):
        windows = np.lib.stride_tricks.sliding_window_view(y, candidate.n, axis=1)[:, list(candidate.starts)]
        p = window_p(candidate.design, windows.reshape(-1, candidate.n)).reshape(len(y), -1)
        score = -np.log10(np.maximum(p.min(1), 1e-300)) - candidate.offset
        better = score > best
        best[better], where[better] = score[better], index
    return best, where


def window_p(design: Design, y: Float[ndarray, "m n"]) -> Float[ndarray, "m"]:
    """p̄ of many windows, by fewer multiplications than :meth:`Design.average_p`.

    RSS_XP = ‖Wy‖² − ‖Wy projected on W[X, P]‖²; the few columns of [X, P] are cheaper than the many
    of what is left, at the price of digits that a search does not need.
    """
    squares = design.coordinates(y, 0, design.rank + design.d1) ** 2
    effect, total = squares[..., design.rank :].sum(-1), whitened_squares(y)
    residual = np.maximum(total - squares.sum(-1), 1e-14 * total)
    return design.averaged(effect, residual)


def whitened_squares(y: Float[ndarray, "m n"]) -> Float[ndarray, "m phi"]:
    """‖Wy‖² for every φ: Σy² (1 + φ²) − 2φ Σ y_t y_{t−1} − φ² (y_first² + y_last²)."""
    phi = np.array(PHI)
    own, next_to = (y * y).sum(1), (y[:, 1:] * y[:, :-1]).sum(1)
    ends = y[:, 0] ** 2 + y[:, -1] ** 2
    return own[:, None] * (1 + phi**2) - 2 * phi * next_to[:, None] - phi**2 * ends[:, None]


@lru_cache(maxsize=32)
def search_null(size: int, draws: int = SEARCH_DRAWS) -> Float[ndarray, "phi draw"]:
    """Sorted statistics of ``draws`` AR(1) series of ``size`` steps for every φ₀."""
    rng = np.random.default_rng((size, 2))
    return np.sort([search(ar1(rng, draws, size, phi))[0] for phi in NULL_PHI], axis=1)


def localise(y: Float[ndarray, "m step"], block: int) -> tuple[ndarray, ndarray]:
    """Start and count that minimise the residuals of a fit of the whole series, for a given block."""
    spans, bases = _localiser(y.shape[1], block)
    coordinates = (y @ bases).reshape(len(y), len(spans), -1)
    # The nuisance is common to all spans, so the largest effect leaves the smallest residuals.
    best = (coordinates**2).sum(-1).argmax(1)
    chosen = np.array(spans)[best]
    return chosen[:, 0], chosen[:, 1]


@lru_cache(maxsize=64)
def _localiser(size: int, block: int) -> tuple[list[tuple[int, int]], Float[ndarray, "step d"]]:
    """Spans (start, count), and the whitened phase effects of each, folded for ``y @ bases``."""
    w = whitener(size, LOCALISE_PHI)
    edges = np.zeros((size, 2))
    edges[0, 0] = edges[-1, 1] = 1.0
    degree = min(5, max(2, size // 5))
    nuisance = orthonormal(w @ np.hstack([legendre(np.arange(size), degree), edges]))
    spans, bases = [], []
    for count in COUNTS:
        for start in range(size - block * count + 1):
            dummies = np.zeros((size, block))
            n = block * count
            dummies[start : start + n] = phase_dummies(n, block) - 1 / block
            effect = orthonormal(w @ dummies, nuisance)
            # Spans whose phases the trend or the edges partly absorb have fewer columns.
            padded = np.zeros((size, block - 1))
            padded[:, : effect.shape[1]] = effect
            spans.append((start, count))
            bases.append(w.T @ padded)
    return spans, np.hstack(bases)
