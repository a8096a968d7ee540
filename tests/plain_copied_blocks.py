"""The search for copied blocks again, in plain loops over single cells and from explicit vectors."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

UNIT = math.sqrt(2) * norm.ppf(0.625)


def plain_noise(c: np.ndarray) -> float:
    """Lower quartile of the changes along diagonals, as the sd of a cosine."""
    size = len(c)
    steps = [abs(c[i, j] - c[i + 1, j + 1]) for i in range(size - 1) for j in range(i + 1, size - 1)]
    steps = [s for s in steps if not math.isnan(s)]
    return float(np.quantile(steps, 0.25)) / UNIT if steps else 0.0


def _cell(c: np.ndarray, i: int, j: int) -> list[float]:
    inside = 0 <= i < len(c) and 0 <= j < len(c) and i != j
    return [float(c[i, j])] if inside and not math.isnan(c[i, j]) else []


def plain_excess(c: np.ndarray, i: int, b: int) -> float:
    """c[i, i+b] less the larger of the means of its neighbours along its row and its column."""
    j = i + b
    if math.isnan(c[i, j]):
        return -math.inf
    if c[i, j] >= 1 - 1e-12:
        return math.inf
    row, column = _cell(c, i, j - 1) + _cell(c, i, j + 1), _cell(c, i - 1, j) + _cell(c, i + 1, j)
    around = [sum(cells) / len(cells) for cells in (row, column) if cells]
    if not around:
        off = [c[a, d] for a in range(len(c)) for d in range(len(c)) if a != d and not math.isnan(c[a, d])]
        around = [float(np.median(off))]
    return float(c[i, j] - max(around))


def plain_single(c: np.ndarray, start: int, length: int) -> float:
    """The least of a run of pairs (i, i+1), less what stands around it."""
    own = [float(c[i, i + 1]) for i in range(len(c) - 1)]
    run, outside = own[start : start + length], [*own[:start], *own[start + length :]]
    if any(math.isnan(v) for v in run):
        return -math.inf
    if min(run) >= 1 - 1e-12:
        return math.inf
    outside = sorted(v for v in outside if not math.isnan(v))
    if not outside:
        return -math.inf
    ends = [own[k] for k in (start - 1, start + length) if 0 <= k < len(own) and not math.isnan(own[k])]
    quartile = outside[math.ceil(0.75 * (len(outside) - 1))]
    excess = min(run) - max([quartile, *ends]) - 0.05
    if length == 1:
        third = [outside[-3] + 0.05] if len(outside) >= 3 else []
        return min(excess, run[0] - max([0.5, *third]))
    layers = range(start, start + length + 1)
    mean, two = np.mean(run), np.mean([c[i, i + 2] for i in layers[:-2]])
    least = min(c[i, j] for i in layers for j in layers if i < j)
    excess -= max(two - mean, 0.0)
    return excess if least > min(max(mean, 0.0), 0.95) ** 1.6 else min(excess, 0.0)


def plain_statistic(c: np.ndarray, b: int, least: float) -> float:
    """The statistic of one size."""
    size = len(c)
    if b == 1:
        runs = [
            plain_single(c, start, length)
            for length in range(1, min(15, size - 1) + 1)
            for start in range(size - length)
        ]
    else:
        runs = [
            min(plain_excess(c, i, b) for i in range(start, start + b)) for start in range(size - 2 * b + 1)
        ]  # fmt: skip
    return max(runs) / math.hypot(max(plain_noise(c), least), 0.01)


def plain_cosines(rng: np.random.Generator, correlation: np.ndarray, dimension: int) -> np.ndarray:
    """Cosines between correlated Gaussian vectors that are really drawn."""
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = root @ rng.standard_normal((len(correlation), dimension))
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit @ unit.T


def plain_p(c: np.ndarray, parameters: int, draws: int, seed: int) -> float:
    """p of the whole search."""
    c = np.array(c, dtype=float)
    size = len(c)
    np.fill_diagonal(c, math.nan)
    r, lowest = [1.0], 0.999
    for lag in range(1, size):
        values = [c[i, i + lag] for i in range(size - lag) if not math.isnan(c[i, i + lag])]
        lowest = min([lowest, *([float(np.median(values))] if values else [])])
        r.append(max(lowest, 0.0))
    correlation = np.array([[r[abs(i - j)] for j in range(size)] for i in range(size)])
    least = (1 - max(r[1:]) ** 2) / math.sqrt(parameters)
    s = max(plain_noise(c), least)
    rng = np.random.default_rng(seed)
    holes = np.isnan(c)

    def draw(dimension: int) -> np.ndarray:
        drawn = plain_cosines(rng, correlation, dimension)
        drawn[holes] = math.nan
        return drawn

    trial = max(1000, 2 * size)
    typical = float(np.median([plain_noise(draw(trial)) for _ in range(100)]))
    dimension = int(min(max(trial * (typical / s) ** 2, size + 1), max(min(10_000, parameters), size + 1)))
    sizes = range(1, size // 2 + 1)
    null = (
        np.array([[plain_statistic(m, b, least) for b in sizes] for m in (draw(dimension) for _ in range(draws))]) + 1
    )
    usable = np.isfinite(null).all(0)
    scale = np.maximum(np.quantile(null[:, usable], 0.98, axis=0), 0.5)
    observed = np.array([plain_statistic(c, b, least) for b in sizes])[usable] / scale
    largest = (null[:, usable] / scale).max(1)
    return (1 + int((largest >= observed.max()).sum())) / (draws + 1)
