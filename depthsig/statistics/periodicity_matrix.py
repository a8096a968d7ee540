"""Does a matrix of similarities between steps (or layers) recur with the block?

For cosines and correlations; a matrix of raw dot products would be ruled by its largest vectors.
Two tests with different weaknesses, of which the larger p counts: relabelling phases within
cycles, and the mean similarity as a function of lag. Alone they reach false-positive rates of .105
and .09 at a nominal 5 %, together at most .039 on matrices of smooth drift and correlated noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from math import factorial
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.statistics.periodicity import PeriodTest, bad_span, proper_divisors, wrong_sizes
from depthsig.statistics.periodicity_design import (
    DRAWS,
    ROUNDING,
    Design,
    calibrated,
    legendre,
    make_design,
    null_distribution,
    orthonormal,
)

MIN_STEPS = 9
MIN_RELABELLINGS = 32
MAX_EXHAUSTIVE = 5000
KEPT_CELLS = 3_000_000
"""Relabelled weights are kept for the next matrix up to this size (24 MB)."""


def matrix_periodicity(matrix: Real[ndarray, "step step"], start: int, block: int, count: int) -> PeriodTest:
    """Test whether steps of equal phase in different blocks are more alike, on a declared span.

    Pairs i < j of the span, lag d = j − i, middle s. What explains likeness without a period: one
    effect a step, and Legendre polynomials up to degree 2 in s times up to degree 3 in log d.

    - Relabelling: T is the covariance of the matrix with w = 1[same phase], both after that;
      phases are relabelled within each block but the first, exhaustively up to 5,000 relabellings,
      else 1,999 of them at random. One-sided.
    - Lag: step effects removed, the mean at each lag d = 1..n−block, tested for lags that are
      multiples of the block after a cubic in log d, by the machinery of
      :func:`~depthsig.statistics.periodicity.block_periodicity`. One-sided; left out where fewer
      than 2 degrees of freedom are left.

    Args:
        matrix: over all steps; only cells above the diagonal are read.
        start, block, count: the span in steps, its block size and its number of blocks.

    Returns:
        A record as of ``block_periodicity``; p is the larger of the two, ``strength`` the adjusted
        R² of w, with the sign of its effect. Not testable: fewer than 3 blocks, fewer than 9 steps,
        fewer than 32 relabellings, cells that are not finite, nothing left.

    Raises:
        InputError: if the matrix is not square.

    >>> rng = np.random.default_rng(0)
    >>> vectors = np.tile(rng.normal(size=(3, 20)), (4, 1)) + rng.normal(size=(12, 20))
    >>> found = matrix_periodicity(np.corrcoef(vectors), 0, 3, 4)
    >>> found.p < 0.05, found.strength > 0.3
    (True, True)
    """
    cells, where, reason = _cut(matrix, start, block, count)
    if reason:
        return PeriodTest(False, reason, **where)
    n = block * count
    pairs = Pairs.of(n)
    if np.linalg.norm(pairs.after(cells)) <= ROUNDING * max(float(np.linalg.norm(cells)), 1e-300):
        return PeriodTest(False, "nothing is left of the matrix after effects of step and lag", **where)
    nested = {c: _test(cells, n, block, c) for c in proper_divisors(block)}
    wrong = {other: float(matrix_strength(cells, n, other)) for other in wrong_sizes(block, n)}
    strength = float(matrix_strength(cells, n, block))
    return PeriodTest(True, "", _test(cells, n, block), strength, nested, wrong, **where)


def _cut(
    matrix: Real[ndarray, "step step"], start: int, block: int, count: int
) -> tuple[Float[ndarray, "pair"], dict[str, Any], str]:
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise InputError(f"a matrix over steps is square; found an array of shape {values.shape}")
    where: dict[str, Any] = {"start": int(start), "block": int(block), "count": int(count)}
    reason = bad_matrix_span(len(values), start, block, count)
    if reason:
        return values.ravel()[:0], where, reason
    cells = span_cells(values, start, block * count)
    if not np.isfinite(cells).all():
        return cells, where, f"{int((~np.isfinite(cells)).sum())} of the span's cells are undefined"
    return cells, where, ""


def bad_matrix_span(size: int, start: int, block: int, count: int) -> str:
    """Why a span of a matrix cannot be tested, whatever its values; empty if it can."""
    reason = bad_span(size, start, block, count)
    if not reason and block * count < MIN_STEPS:
        reason = f"{block * count} steps; a matrix needs {MIN_STEPS} or more"
    if not reason and relabellings(block, count) < MIN_RELABELLINGS:
        reason = (
            f"{relabellings(block, count)} ways to relabel {count} blocks of {block}; "
            f"a test needs {MIN_RELABELLINGS} or more"
        )
    return reason


def span_cells(matrices: Float[ndarray, "*batch step step"], start: int, n: int) -> Float[ndarray, "*batch pair"]:
    """The cells of a span above the diagonal, in the order of :class:`Pairs`."""
    rows, cols = np.triu_indices(n, 1)
    return matrices[..., rows + start, cols + start]


def relabellings(block: int, count: int, divisor: int = 1) -> int:
    """How many ways there are to relabel phases within every block but the first.

    With a ``divisor``, only phases that are equal modulo it change places.
    """
    return (factorial(block // divisor) ** divisor) ** (count - 1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs i < j of n steps, with what explains their likeness without a period.

    ``nuisance`` is an orthonormal basis; ``effects`` one of the step effects alone.
    """

    rows: Int[ndarray, "pair"]
    cols: Int[ndarray, "pair"]
    nuisance: Float[ndarray, "pair k"]
    effects: Float[ndarray, "pair n"]

    @property
    def lag(self) -> Int[ndarray, "pair"]:
        """j − i."""
        return self.cols - self.rows

    @staticmethod
    @lru_cache(maxsize=64)
    def of(n: int) -> Pairs:
        """The pairs of n steps."""
        rows, cols = np.triu_indices(n, 1)
        lag, middle = cols - rows, (rows + cols - n + 1) / (n - 1)
        one = (rows[:, None] == np.arange(n)) | (cols[:, None] == np.arange(n))
        by_middle = np.polynomial.legendre.legvander(middle, 2)
        by_lag = np.polynomial.legendre.legvander(2 * np.log(lag) / np.log(n - 1) - 1, 3)
        smooth = (by_middle[:, :, None] * by_lag[:, None, :]).reshape(len(lag), -1)
        effects = orthonormal(one.astype(float))
        return Pairs(rows, cols, orthonormal(np.hstack([one.astype(float), smooth])), effects)

    def after(self, cells: Float[ndarray, "*batch pair"]) -> Float[ndarray, "*batch pair"]:
        """What the nuisance leaves."""
        return cells - (cells @ self.nuisance) @ self.nuisance.T

    def same_phase(self, block: int) -> Float[ndarray, "pair"]:
        """1 where two steps have the same phase, else 0."""
        return (self.lag % block == 0).astype(float)


def matrix_strength(cells: Float[ndarray, "*batch pair"], n: int, block: int) -> Float[ndarray, "*batch"]:
    """Adjusted R² of equal phase after the nuisance, with the sign of its effect.

    r·|r| stands for R² (r the partial correlation), so that steps of equal phase being *less* alike
    gives a negative strength.
    """
    pairs = Pairs.of(n)
    w = pairs.after(pairs.same_phase(block))
    norm = np.linalg.norm(w)
    rest = pairs.after(cells)
    left = np.linalg.norm(rest, axis=-1)
    nothing = (left <= ROUNDING * np.linalg.norm(cells, axis=-1)) | (norm < 1e-9)
    r = np.where(nothing, np.nan, (rest @ w) / np.where(nothing, 1.0, norm * left))
    free = len(w) - pairs.nuisance.shape[1]
    return np.asarray(1 - (1 - r * np.abs(r)) * free / (free - 1))


def _test(cells: Float[ndarray, "pair"], n: int, block: int, divisor: int = 1) -> float:
    """The larger of the two p-values; NaN where too few relabellings keep a divisor's phases."""
    if relabellings(block, n // block, divisor) < MIN_RELABELLINGS:
        return np.nan
    found = relabelling_p(cells, n, block, divisor)
    lag = lag_p(cells, n, block, divisor)
    return found if lag is None else max(found, lag)


def relabelling_p(cells: Float[ndarray, "pair"], n: int, block: int, divisor: int = 1) -> float:
    """p of the relabelling test; ``divisor`` > 1: what the block adds to that period's phases."""
    count = n // block
    exhaustive = relabellings(block, count, divisor) <= MAX_EXHAUSTIVE
    values = np.concatenate([weights @ cells for weights in _weight_chunks(n, block, divisor)])
    slack = 1e-12 * np.linalg.norm(cells)
    at_least = int((values >= values[0] - slack).sum())
    # values[0] is the observed one; it belongs to all relabellings, and is the +1 of a random set.
    return at_least / len(values) if exhaustive else at_least / (DRAWS + 1)


def _weight_chunks(n: int, block: int, divisor: int) -> Iterator[Float[ndarray, "relabelling pair"]]:
    """The weights of all relabellings, kept where they are few and made in pieces where not."""
    labels = _labels(n, block, divisor)
    if len(labels) * n * (n - 1) // 2 <= KEPT_CELLS:
        yield _kept_weights(n, block, divisor)
        return
    for start in range(0, len(labels), 256):
        yield _weights(labels[start : start + 256], n, divisor)


@lru_cache(maxsize=8)
def _kept_weights(n: int, block: int, divisor: int) -> Float[ndarray, "relabelling pair"]:
    return _weights(_labels(n, block, divisor), n, divisor)


def _weights(labels: Int[ndarray, "relabelling n"], n: int, divisor: int) -> Float[ndarray, "relabelling pair"]:
    """1[same label] after the nuisance, normalised, for every relabelling."""
    pairs = Pairs.of(n)
    nuisance = pairs.nuisance
    if divisor > 1:
        nuisance = np.hstack([nuisance, orthonormal(pairs.same_phase(divisor)[:, None], nuisance)])
    w = (labels[:, pairs.rows] == labels[:, pairs.cols]).astype(float)
    w -= (w @ nuisance) @ nuisance.T
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    return np.where(norm < 1e-9, 0.0, w / np.maximum(norm, 1e-9))


@lru_cache(maxsize=64)
def _labels(n: int, block: int, divisor: int) -> Int[ndarray, "relabelling n"]:
    """Every relabelling, or as many random ones, the identity first."""
    exhaustive = relabellings(block, n // block, divisor) <= MAX_EXHAUSTIVE
    return (_all_labels if exhaustive else _random_labels)(block, n // block, divisor)


def _orders(block: int, divisor: int) -> Int[ndarray, "order block"]:
    """Every order of a block's phases that keeps them modulo ``divisor``, the identity first."""
    classes = [permutations(range(residue, block, divisor)) for residue in range(divisor)]
    chosen = list(product(*classes))
    orders = np.empty((len(chosen), block), dtype=int)
    for residue in range(divisor):
        orders[:, residue::divisor] = [choice[residue] for choice in chosen]
    return orders


def _all_labels(block: int, count: int, divisor: int) -> Int[ndarray, "relabelling n"]:
    orders = _orders(block, divisor)
    chosen = np.array(list(product(range(len(orders)), repeat=count - 1)))
    first = np.zeros((len(chosen), 1), dtype=int)
    return orders[np.hstack([first, chosen])].reshape(len(chosen), -1)


def _random_labels(block: int, count: int, divisor: int) -> Int[ndarray, "relabelling n"]:
    rng = np.random.default_rng((block, count, divisor))
    identity = np.tile(np.arange(block), (DRAWS + 1, count, 1))
    for residue in range(divisor):
        places = np.arange(residue, block, divisor)
        keys = rng.random((DRAWS, count - 1, len(places)))
        identity[1:, 1:, places] = places[np.argsort(keys, axis=-1)]
    return identity.reshape(DRAWS + 1, -1)


def lag_p(cells: Float[ndarray, "pair"], n: int, block: int, divisor: int = 1) -> float | None:
    """p of the lag test; None where it is left out."""
    design = lag_design(n, block, divisor)
    if design is None:
        return None
    pairs = Pairs.of(n)
    rest = cells - pairs.effects @ (pairs.effects.T @ cells)
    y = np.bincount(pairs.lag, rest, n)[1 : n - block + 1] / np.arange(n - 1, block - 1, -1)
    return float(calibrated(design.average_p(y[None], one_sided=True), _lag_null(n, block, divisor))[0])


@lru_cache(maxsize=256)
def lag_design(n: int, block: int, divisor: int = 1) -> Design | None:
    """Lags 1..n−block: a cubic in log lag, then whether the block divides the lag."""
    lags = np.arange(1, n - block + 1)
    if n - block - 5 - (divisor > 1) < 2:
        return None
    x = legendre(np.log(lags), 3)
    if divisor > 1:
        x = np.hstack([x, (lags % divisor == 0)[:, None]])
    design = make_design(x, (lags % block == 0).astype(float)[:, None], 3)
    return design if design.d1 == 1 and design.d2 >= 2 else None


@lru_cache(maxsize=256)
def _lag_null(n: int, block: int, divisor: int) -> Float[ndarray, "phi draw"]:
    design = lag_design(n, block, divisor)
    assert design is not None
    return null_distribution(design, (n, block, divisor, 1), one_sided=True)
