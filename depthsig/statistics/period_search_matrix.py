"""Is there a block period anywhere in a matrix of similarities? Start, size and count found blindly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Real
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.statistics.period_search import COUNTS, SEARCH_DRAWS
from depthsig.statistics.periodicity import PeriodTest
from depthsig.statistics.periodicity_design import ROUNDING
from depthsig.statistics.periodicity_matrix import MIN_STEPS, Pairs, lag_p, matrix_strength, span_cells

MATRIX_BLOCKS = range(3, 9)
FOUND = 0.01
"""The p below which a search tells of a block: nobody told it where to look."""
WINDOW = 8
"""Layers change places within windows of this many: likeness that decays with distance stays."""

_CHUNK = 200


def find_matrix_period(matrix: Real[ndarray, "step step"], draws: int = SEARCH_DRAWS, seed: int = 0) -> PeriodTest:
    """Search a whole matrix of similarities for a span that recurs with some block.

    Candidates are blocks of 3..8 steps, 3..8 of them, at every start. A candidate's score is
    √df · atanh(r), r the partial correlation of the span's cells with 1[same phase] after what
    :func:`~depthsig.statistics.periodicity_matrix.matrix_periodicity` takes out, df = pairs −
    rank − 1; the statistic is the largest. Null: steps are permuted within windows of 8, whose
    borders lie at random. p is the larger of the search's and of the lag test's at the span found.

    Args:
        matrix: over all steps; only cells above the diagonal are read.
        draws: permutations. seed: of the permutations.

    Returns:
        A record with the p of the whole search, the span found, and its ``strength`` (too large
        by selection). Without candidates or with undefined values: not testable.

    >>> rng = np.random.default_rng(0)
    >>> vectors = rng.normal(size=(16, 40))
    >>> vectors[2:14] += np.tile(2 * rng.normal(size=(3, 40)), (4, 1))
    >>> found = find_matrix_period(np.corrcoef(vectors), draws=99)
    >>> found.p, found.start, found.block, found.count
    (0.01, 2, 3, 4)
    """
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise InputError(f"a matrix over steps is square; found an array of shape {values.shape}")
    size = len(values)
    if size < MIN_STEPS:
        return PeriodTest(False, f"{size} steps; a search needs {MIN_STEPS} or more")
    upper = np.triu(values, 1)
    cells = span_cells(values, 0, size)
    if not np.isfinite(cells).all():
        return PeriodTest(False, f"{int((~np.isfinite(cells)).sum())} of the matrix's cells are undefined")
    # A common level is part of every nuisance; without it, squares lose fewer digits.
    symmetric = upper + upper.T - cells.mean() * (1 - np.eye(size))
    if np.linalg.norm(Pairs.of(size).after(cells)) <= ROUNDING * np.linalg.norm(cells):
        return PeriodTest(False, "nothing is left of the matrix after effects of step and lag")
    score, span = best_span(symmetric)
    start, block, count = span
    rng = np.random.default_rng((seed, size))
    null = np.concatenate([
        search_matrices(symmetric, window_permutations(rng, min(_CHUNK, draws - done), size))
        for done in range(0, draws, _CHUNK)
    ])  # fmt: skip
    p = (1 + int((null >= score - 1e-9).sum())) / (draws + 1)
    n = block * count
    found = span_cells(values, start, n)
    lag = lag_p(found, n, block)
    strength = float(matrix_strength(found, n, block))
    return PeriodTest(True, "", max(p, lag or 0.0), strength, start=start, block=block, count=count)


def window_permutations(rng: np.random.Generator, draws: int, size: int) -> Int[ndarray, "draw step"]:
    """Permutations of steps inside windows of :data:`WINDOW`, at a random offset each."""
    window = (np.arange(size) + rng.integers(0, WINDOW, size=(draws, 1))) // WINDOW
    return np.argsort(window + rng.random((draws, size)), axis=1)


@lru_cache(maxsize=64)
def _spans(size: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(n, the blocks that n steps are 3..8 of) for every n that ``size`` steps have room for."""
    blocks: dict[int, list[int]] = {}
    for block in MATRIX_BLOCKS:
        for count in COUNTS:
            if block * count <= size:
                blocks.setdefault(block * count, []).append(block)
    return tuple((n, tuple(found)) for n, found in sorted(blocks.items()))


@lru_cache(maxsize=64)
def _projections(n: int, blocks: tuple[int, ...]) -> tuple[Float[ndarray, "pair k"], Float[ndarray, "pair block"]]:
    """The nuisance's basis, and 1[same phase] after it, normalised, for every block."""
    pairs = Pairs.of(n)
    w = pairs.after(np.stack([pairs.same_phase(block) for block in blocks]))
    return pairs.nuisance, (w / np.linalg.norm(w, axis=1, keepdims=True)).T


def _scores(cells: Float[ndarray, "m pair"], n: int, blocks: tuple[int, ...]) -> Float[ndarray, "m block"]:
    nuisance, w = _projections(n, blocks)
    found = cells @ np.hstack([nuisance, w])
    k = nuisance.shape[1]
    total = (cells * cells).sum(1)
    left = np.maximum(total - (found[:, :k] ** 2).sum(1), 1e-13 * total + 1e-280)
    r = np.clip(found[:, k:] / np.sqrt(left)[:, None], -1 + 1e-12, 1 - 1e-12)
    return np.sqrt(max(len(w) - k - 1, 1)) * np.arctanh(r)


def best_span(matrix: Float[ndarray, "step step"]) -> tuple[float, tuple[int, int, int]]:
    """The largest score, and its (start, block, count)."""
    best, where = -np.inf, (0, 0, 0)
    for n, blocks in _spans(len(matrix)):
        starts = range(len(matrix) - n + 1)
        scores = _scores(np.stack([span_cells(matrix, start, n) for start in starts]), n, blocks)
        start, index = np.unravel_index(scores.argmax(), scores.shape)
        if scores[start, index] > best:
            best, where = float(scores.max()), (int(start), blocks[index], n // blocks[index])
    return best, where


def search_matrices(matrix: Float[ndarray, "step step"], orders: Int[ndarray, "draw step"]) -> Float[ndarray, "draw"]:
    """The largest score of the matrix with its steps in each of the given orders."""
    size = len(matrix)
    permuted = matrix[orders[:, :, None], orders[:, None, :]].reshape(len(orders), -1)
    best = np.full(len(orders), -np.inf)
    for n, blocks in _spans(size):
        rows, cols = np.triu_indices(n, 1)
        for start in range(size - n + 1):
            cells = permuted[:, (rows + start) * size + cols + start]
            np.maximum(best, _scores(cells, n, blocks).max(1), out=best)
    return best
