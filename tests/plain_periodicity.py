"""The periodicity tests again, written as plainly as possible: loops, covariances, least squares.

Nothing here is shared with the package: no whitening matrices (generalised least squares with the
inverse of the AR(1) covariance instead), no projections onto bases, no batches.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.stats

PHI = (-0.6, -0.3, 0.0, 0.3, 0.6, 0.8)
NULL_PHI = (-0.6, -0.3, 0.0, 0.3, 0.6)


def polynomial(x: np.ndarray, degree: int) -> list[np.ndarray]:
    """Powers of x (rescaled for accuracy): they span what Legendre polynomials span."""
    z = (x - x.mean()) / (x.max() - x.min())
    return [z**k for k in range(degree + 1)]


def profile_columns(n: int, first: bool, last: bool, degree: int) -> np.ndarray:
    columns = polynomial(np.arange(n, dtype=float), degree)
    if first:
        columns.append(np.array([1.0] + [0.0] * (n - 1)))
    if last:
        columns.append(np.array([0.0] * (n - 1) + [1.0]))
    return np.array(columns).T


def phases(n: int, block: int) -> np.ndarray:
    return np.array([[float(t % block == k) for k in range(block)] for t in range(n)])


def choose(n: int, block: int, first: bool, last: bool) -> tuple[np.ndarray, np.ndarray] | None:
    for degree, least in ((3, 4), (2, 3)):
        x = profile_columns(n, first, last, degree)
        both = np.hstack([x, phases(n, block)])
        if n - np.linalg.matrix_rank(both) >= least:
            return x, both
    return None


def covariance(n: int, phi: float) -> np.ndarray:
    return scipy.linalg.toeplitz(phi ** np.arange(n)) / (1 - phi**2)


def gls_rss(y: np.ndarray, x: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every column of y."""
    beta = scipy.linalg.lstsq(x.T @ precision @ x, x.T @ precision @ y)[0]
    rest = y - x @ beta
    return np.sum(rest * (precision @ rest), axis=0), beta


def average_p(y: np.ndarray, x: np.ndarray, both: np.ndarray, one_sided: bool = False) -> np.ndarray:
    """Of a series, or of several that are columns."""
    n = len(y)
    d2 = n - np.linalg.matrix_rank(both)
    d1 = np.linalg.matrix_rank(both) - np.linalg.matrix_rank(x)
    basis = scipy.linalg.orth(both)
    p, likelihood = [], []
    for phi in PHI:
        v = covariance(n, phi)
        precision = np.linalg.inv(v)
        rss_x, _ = gls_rss(y, x, precision)
        rss, beta = gls_rss(y, both, precision)
        value = scipy.stats.f.sf(((rss_x - rss) / d1) / (rss / d2), d1, d2)
        if one_sided:
            value = np.where(beta[-1] > 0, value / 2, 1 - value / 2)
        p.append(value)
        _, logdet_v = np.linalg.slogdet(v)
        _, logdet = np.linalg.slogdet(basis.T @ precision @ basis)
        likelihood.append(-0.5 * logdet_v - 0.5 * logdet - 0.5 * d2 * np.log(rss))
    weights = np.exp(np.array(likelihood) - np.max(likelihood, axis=0))
    return (weights * p).sum(0) / weights.sum(0)


def ar1_series(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    """By its recursion, from a state long before the first step."""
    return scipy.signal.lfilter([1.0], [1.0, -phi], rng.standard_normal(n + 200))[200:]


def calibrated_p(y: np.ndarray, x: np.ndarray, both: np.ndarray, draws: int, one_sided: bool = False) -> float:
    rng = np.random.default_rng(12345)
    observed = average_p(y, x, both, one_sided)
    found = []
    for phi in NULL_PHI:
        series = np.array([ar1_series(rng, len(y), phi) for _ in range(draws)]).T
        below = int((average_p(series, x, both, one_sided) <= observed).sum())
        found.append((1 + below) / (draws + 1))
    return max(found)


def block_p(profile: np.ndarray, start: int, block: int, count: int, draws: int) -> float:
    n = block * count
    design = choose(n, block, start == 0, start + n == len(profile))
    assert design is not None
    return calibrated_p(profile[start : start + n], *design, draws)


def strength(profile: np.ndarray, start: int, block: int, count: int) -> float:
    n = block * count
    design = choose(n, block, start == 0, start + n == len(profile))
    assert design is not None
    x, both = design
    y = profile[start : start + n]
    rss = [float(np.sum((y - m @ np.linalg.lstsq(m, y, rcond=None)[0]) ** 2)) for m in (x, both)]
    d2, dx = n - np.linalg.matrix_rank(both), n - np.linalg.matrix_rank(x)
    return 1 - (rss[1] / d2) / (rss[0] / dx)


def pair_columns(n: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    pairs = list(itertools.combinations(range(n), 2))
    columns = [[float(k in pair) for pair in pairs] for k in range(n)]
    for a in range(3):
        for c in range(4):
            s = [(i + j - n + 1) / (n - 1) for i, j in pairs]
            z = [2 * math.log(j - i) / math.log(n - 1) - 1 for i, j in pairs]
            columns.append([scipy.special.eval_legendre(a, u) * scipy.special.eval_legendre(c, v)
                            for u, v in zip(s, z, strict=True)])  # fmt: skip
    return pairs, np.array(columns).T


def residual(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return y - x @ np.linalg.lstsq(x, y, rcond=None)[0]


def exhaustive_relabelling_p(matrix: np.ndarray, block: int, count: int) -> float:
    n = block * count
    pairs, nuisance = pair_columns(n)
    e = np.array([matrix[i, j] for i, j in pairs])
    same = []
    for orders in itertools.product(itertools.permutations(range(block)), repeat=count - 1):
        label = list(range(block)) + [k for order in orders for k in order]
        same.append([float(label[i] == label[j]) for i, j in pairs])
    values = [float(w @ e / np.linalg.norm(w)) for w in residual(np.array(same).T, nuisance).T]
    return float(np.mean([v >= values[0] - 1e-10 for v in values]))


def lag_p(matrix: np.ndarray, block: int, count: int, draws: int) -> float:
    n = block * count
    pairs = list(itertools.combinations(range(n), 2))
    layers = np.array([[float(k in pair) for k in range(n)] for pair in pairs])
    e = residual(np.array([matrix[i, j] for i, j in pairs]), layers)
    lags = np.arange(1, n - block + 1)
    y = np.array([np.mean([v for v, (i, j) in zip(e, pairs, strict=True) if j - i == d]) for d in lags])
    x = np.array(polynomial(np.log(lags), 3)).T
    both = np.hstack([x, (lags % block == 0).astype(float)[:, None]])
    return calibrated_p(y, x, both, draws, one_sided=True)
