"""Generalised least squares for "does an effect stand out of a smooth trend with AR(1) noise?".

For X (what explains a profile without a period) and P (what a period would add), the noise's
autocorrelation φ is averaged over instead of estimated: short profiles say little about it, and a
plug-in estimate rejects too often. The averaged p-value is then calibrated by simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray
from scipy.special import betainc, betaln, expit

PHI = (-0.6, -0.3, 0.0, 0.3, 0.6, 0.8)
"""Autocorrelations that the statistic averages over."""
NULL_PHI = (-0.6, -0.3, 0.0, 0.3, 0.6)
"""Autocorrelations of the simulated null series; the largest p over them counts."""
DRAWS = 1999
ROUNDING = 1e-10
"""What is left of a profile relative to itself, below which it is rounding and no signal."""

_TINY = 1e-280


@dataclass(frozen=True, eq=False)
class Design:
    """X, P and their whitened projections for every φ of :data:`PHI`.

    Attributes:
        nuisance: orthonormal basis of X, [n, rank X].
        basis: orthonormal basis of [X, P], its first columns being ``nuisance``.
        d1, d2: degrees of freedom of the effect and of what is left.
        degree: of the trend's polynomial.
        folded: [n, φ, n]; ``y @ folded`` are y's whitened coordinates: rank X of them in X's space,
            then d₁ in the effect's, then d₂ in what is left.
        constant: [φ], what the restricted log-likelihood has besides the residuals.
    """

    nuisance: Float[ndarray, "n k"]
    basis: Float[ndarray, "n r"]
    d1: int
    d2: int
    degree: int
    folded: Float[ndarray, "n phi n"]
    constant: Float[ndarray, "phi"]

    @property
    def n(self) -> int:
        """Length of the series."""
        return len(self.basis)

    @property
    def rank(self) -> int:
        """Rank of X."""
        return self.nuisance.shape[1]

    def coordinates(self, y: Float[ndarray, "m n"], start: int, stop: int | None = None) -> Float[ndarray, "m phi d"]:
        """Whitened coordinates ``start:stop`` of series, for every φ."""
        some = np.ascontiguousarray(self.folded[:, :, start:stop])
        return (np.ascontiguousarray(y) @ some.reshape(self.n, -1)).reshape(len(y), *some.shape[1:])

    def average_p(self, y: Float[ndarray, "m n"], one_sided: bool = False) -> Float[ndarray, "m"]:
        """p̄ = Σ softmax(ℓ(φ)) p(φ) for every series; 1 where X leaves nothing but rounding.

        ``one_sided``: small where the effect is positive (one effect column only).
        """
        found = self.coordinates(y, self.rank)
        squares = found * found
        effect, residual = squares[..., : self.d1].sum(-1), squares[..., self.d1 :].sum(-1)
        p = self.averaged(effect, residual, found[..., 0] > 0 if one_sided else None)
        left = (effect + residual)[:, PHI.index(0.0)]
        return np.where(left <= ROUNDING**2 * (y * y).sum(-1), 1.0, p)

    def averaged(
        self, effect: Float[ndarray, "m phi"], residual: Float[ndarray, "m phi"], positive: ndarray | None = None
    ) -> Float[ndarray, "m"]:
        """p̄ from RSS_X − RSS_XP and RSS_XP for every φ; one-sided with the effect's sign given."""
        log_residual = np.log(np.maximum(residual, _TINY))
        p = np.exp(f_tail(self.d1, self.d2)(log_residual - np.log(np.maximum(effect, _TINY))))
        if positive is not None:
            p = np.where(positive, p / 2, 1 - p / 2)
        likelihood = self.constant - 0.5 * self.d2 * log_residual
        weights = np.exp(likelihood - likelihood.max(-1, keepdims=True))
        return (weights * p).sum(-1) / weights.sum(-1)

    def r_squared(self, y: Float[ndarray, "*batch n"]) -> Float[ndarray, "*batch"]:
        """R² of P after X, by ordinary least squares; NaN where X leaves nothing but rounding."""
        coordinates = y @ self.folded[:, PHI.index(0.0), self.rank :]
        squares = coordinates * coordinates
        effect, total = squares[..., : self.d1].sum(-1), squares.sum(-1)
        nothing = total <= ROUNDING**2 * (y * y).sum(-1)
        return np.where(nothing, np.nan, effect / np.where(nothing, 1.0, total))

    def strength(self, y: Float[ndarray, "*batch n"]) -> Float[ndarray, "*batch"]:
        """Adjusted R² = 1 − (1 − R²)(d₁ + d₂)/d₂."""
        return np.asarray(1 - (1 - self.r_squared(y)) * (self.d1 + self.d2) / self.d2)


@dataclass(frozen=True, eq=False)
class LogTable:
    """A smooth function tabulated evenly from ``low``, read by linear interpolation."""

    low: float
    per_unit: int
    values: Float[ndarray, "knot"]
    slopes: Float[ndarray, "knot-1"]

    def __call__(self, x: Float[ndarray, "*m"]) -> Float[ndarray, "*m"]:
        place = (x - self.low) * self.per_unit
        np.clip(place, 0, len(self.slopes) - 1e-9, out=place)
        cell = place.astype(np.int32)
        place -= cell
        return self.values[cell] + place * self.slopes[cell]


@lru_cache(maxsize=256)
def f_tail(d1: int, d2: int) -> LogTable:
    """log of the upper tail of F(d₁, d₂) as a function of log(RSS_XP / (RSS_X − RSS_XP)).

    The tail is the regularised incomplete beta function I(d₂/2, d₁/2) at RSS_XP / RSS_X. A search
    needs it a hundred million times; the table is good to a few parts in 10⁵ at a tenth of the cost.
    """
    low, high, per_unit = -60.0, 30.0, 128
    x = np.linspace(low, high, int((high - low) * per_unit) + 1)
    a, b = d2 / 2, d1 / 2
    tail = betainc(a, b, expit(x))
    # Where the tail underflows, its leading term u^a / (a B(a, b)) is all there is.
    leading = a * np.minimum(x, 0.0) - np.log(a) - betaln(a, b)
    values = np.where(tail > 1e-250, np.log(np.maximum(tail, 1e-300)), leading)
    return LogTable(low, per_unit, values, np.diff(values))


def whitener(n: int, phi: float) -> Float[ndarray, "n n"]:
    """W with W y white for a stationary AR(1) series y of unit innovations."""
    w = np.eye(n) - phi * np.eye(n, k=-1)
    w[0, 0] = np.sqrt(1 - phi**2)
    return w


def orthonormal(columns: Float[ndarray, "n k"], against: Float[ndarray, "n j"] | None = None) -> ndarray:
    """Orthonormal basis of the columns, after what is in ``against`` (orthonormal) is taken out."""
    scale = np.linalg.norm(columns, axis=0)
    columns = columns[:, scale > 0] / scale[scale > 0]
    if against is not None:
        for _ in range(2):
            columns = columns - against @ (against.T @ columns)
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular > 1e-9 * max(1.0, singular[0] if len(singular) else 1.0)]


def legendre(x: Real[ndarray, "n"], degree: int) -> Float[ndarray, "n k"]:
    """Legendre polynomials 0..degree at x, which is first scaled to [−1, 1]."""
    low, high = x.min(), x.max()
    return np.polynomial.legendre.legvander(2 * (x - low) / (high - low) - 1, degree)


def phase_dummies(n: int, block: int) -> Float[ndarray, "n block"]:
    """One indicator column a phase."""
    return (np.arange(n)[:, None] % block == np.arange(block)).astype(float)


def make_design(x: Float[ndarray, "n k"], p: Float[ndarray, "n j"], degree: int) -> Design:
    """The design of effect P after nuisance X; d₂ may come out as 0 or less (no test then)."""
    n = len(x)
    nuisance = orthonormal(x)
    effect = orthonormal(p, nuisance)
    basis = np.hstack([nuisance, effect])
    k, r = nuisance.shape[1], basis.shape[1]
    folded, constant = np.empty((n, len(PHI), n)), np.empty(len(PHI))
    for i, phi in enumerate(PHI):
        w = whitener(n, phi)
        q, triangle = np.linalg.qr(w @ basis, mode="complete")
        # Positive diagonal: a positive coordinate then means a positive effect.
        signs = np.sign(np.diag(triangle))
        q[:, :r] *= signs
        folded[:, i] = w.T @ q
        constant[i] = 0.5 * np.log(1 - phi**2) - np.log(np.abs(np.diag(triangle))).sum()
    if r - k == 1 and p.shape[1] == 1 and effect[:, 0] @ p[:, 0] < 0:
        folded[:, :, k] *= -1
    return Design(nuisance, basis, r - k, n - r, degree, folded, constant)


@lru_cache(maxsize=512)
def profile_design(n: int, block: int, first: bool, last: bool, divisor: int = 1) -> Design | None:
    """The design of a span of ``n`` steps in blocks; None where it leaves too little to test.

    X is a polynomial in step, an impulse at the model's first and last step where the span
    reaches them, and, for a nested test, the phases of a ``divisor`` of the block. The degree is
    3 where d₂ ≥ 4, else 2 where d₂ ≥ 3.
    """
    edges = np.zeros((n, 2))
    edges[0, 0], edges[-1, 1] = first, last
    for degree, least in ((3, 4), (2, 3)):
        x = np.hstack([legendre(np.arange(n), degree), edges])
        if n - orthonormal(np.hstack([x, phase_dummies(n, block)])).shape[1] >= least:
            if divisor > 1:
                x = np.hstack([x, phase_dummies(n, divisor)])
            design = make_design(x, phase_dummies(n, block), degree)
            return design if design.d1 else None
    return None


@lru_cache(maxsize=512)
def profile_null(
    n: int, block: int, first: bool, last: bool, divisor: int = 1, draws: int = DRAWS
) -> Float[ndarray, "phi draw"]:
    """Sorted p̄ of simulated AR(1) series under :func:`profile_design`, one row a φ₀."""
    design = profile_design(n, block, first, last, divisor)
    assert design is not None
    return null_distribution(design, (n, block, int(first), int(last), divisor), draws)


def null_distribution(
    design: Design, seed: tuple[int, ...], draws: int = DRAWS, one_sided: bool = False
) -> Float[ndarray, "phi draw"]:
    """Sorted p̄ of ``draws`` Gaussian AR(1) series for every φ₀ of :data:`NULL_PHI`."""
    rng = np.random.default_rng(seed)
    rows = [design.average_p(ar1(rng, draws, design.n, phi), one_sided) for phi in NULL_PHI]
    return np.sort(rows, axis=1)


def ar1(rng: np.random.Generator, rows: int, n: int, phi: float) -> Float[ndarray, "rows n"]:
    """Stationary Gaussian AR(1) series of unit innovations."""
    return rng.standard_normal((rows, n)) @ np.linalg.inv(whitener(n, phi)).T


def calibrated(value: Float[ndarray, "*m"], null: Float[ndarray, "phi draw"]) -> Float[ndarray, "*m"]:
    """The largest over φ₀ of (1 + #{p̄* ≤ p̄}) / (N + 1)."""
    below = np.stack([np.searchsorted(row, value, side="right") for row in null])
    return (1 + below.max(0)) / (null.shape[1] + 1)
