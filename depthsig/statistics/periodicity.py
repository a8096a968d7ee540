"""Does a profile recur with the block, on a span that was declared beforehand?

No published work defines a statistic for this. What is here was chosen by simulation: its
false-positive rates and power are tabulated in ``data/studies`` and can be measured again with
the script there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.statistics.periodicity_design import (
    ROUNDING,
    Design,
    calibrated,
    make_design,
    phase_dummies,
    profile_design,
    profile_null,
)

SUFFICES = 0.05
"""A divisor of the block suffices where the phases beyond it have a p above this."""


@dataclass(frozen=True)
class PeriodTest:
    """Outcome of a test for a block period.

    Attributes:
        testable: False where the span allows no test; ``reason`` then says why, and numbers are NaN.
        p: calibrated p-value. strength: adjusted R² of the phases after the trend, by ordinary
            least squares (signed for matrices, where only likeness of equal phases counts).
        nested: for each proper divisor c > 1 of the block, the p-value of the same test with the
            phases of c among the nuisance; above .05, period c suffices. NaN where not testable.
        wrong_blocks: strength of every block size that neither divides the block nor is a
            multiple of it, with the same trend: a description, no test.
        start, block, count: the span, declared or found.
    """

    testable: bool
    reason: str = ""
    p: float = np.nan
    strength: float = np.nan
    nested: dict[int, float] = field(default_factory=dict)
    wrong_blocks: dict[int, float] = field(default_factory=dict)
    start: int | None = None
    block: int | None = None
    count: int | None = None

    @property
    def suffices(self) -> int | None:
        """The smallest proper divisor of the block that suffices, if one does."""
        return next((c for c, p in sorted(self.nested.items()) if p > SUFFICES), None)

    @property
    def beats_wrong_blocks(self) -> bool:
        """Whether no wrong block size fits as well."""
        return all(self.strength > other for other in self.wrong_blocks.values())


def block_periodicity(
    profile: Real[ndarray, "step"], start: int, block: int, count: int, log: bool = False
) -> PeriodTest:
    """Test whether a profile over steps recurs with the block on a declared span.

    y = profile[start : start + block·count] (its logarithm with ``log``: norms and other positive
    profiles). X is a cubic polynomial in step (quadratic where the span is short) with an impulse
    at the model's first and last step where the span holds them; P are block − 1 phase dummies.
    For each φ in {−.6, −.3, 0, .3, .6, .8}, AR(1) whitening gives an F test of P after X and a
    restricted likelihood; the statistic is the likelihood-weighted p, calibrated against 1,999
    Gaussian AR(1) series for each φ₀ in {−.6 … .6}, of which the largest p counts.

    Args:
        profile: one value a step of the whole model (its ends are where impulses are needed).
        start, block, count: the span in steps, its block size and its number of blocks.
        log: take logarithms first; fixed by the metric, never chosen from the data.

    Returns:
        A record. Not testable: fewer than 3 blocks, block < 2, a span outside the profile, values
        that are not finite (or not positive, with ``log``), too few steps, nothing left after X.

    Raises:
        InputError: if the profile is not one-dimensional.

    >>> steps = np.arange(16)
    >>> rough = np.array([3, -1, 2, 0, -2, 1, 1, -3, 2, 2, -1, 0, 1, -2, 0, 3]) / 10
    >>> found = block_periodicity(steps / 4 + np.tile([0, 2, 1, 0], 4) + rough, 0, 4, 4)
    >>> found.p < 0.05, round(found.strength, 1)
    (True, 1.0)
    >>> block_periodicity(steps, 0, 8, 2).reason
    '2 blocks; a period needs 3 or more'
    """
    y, where, reason = cut_span(profile, start, block, count, log)
    if reason:
        return PeriodTest(False, reason, **where)
    n, edges = block * count, (start == 0, start + block * count == len(profile))
    design = profile_design(n, block, *edges)
    if design is None:
        return PeriodTest(False, f"{n} steps in blocks of {block} leave too few degrees of freedom", **where)
    if left_over(y, design) <= ROUNDING:
        return PeriodTest(False, "nothing is left of the profile after its trend", **where)
    p = float(calibrated(design.average_p(y[None]), profile_null(n, block, *edges))[0])
    nested = {c: _nested(y, n, block, edges, c) for c in proper_divisors(block)}
    wrong = {other: _wrong(y, design, other) for other in wrong_sizes(block, n)}
    wrong = {other: value for other, value in wrong.items() if np.isfinite(value)}
    return PeriodTest(True, "", p, float(design.strength(y)), nested, wrong, **where)


def cut_span(
    profile: Real[ndarray, "step"], start: int, block: int, count: int, log: bool
) -> tuple[Float[ndarray, "n"], dict[str, Any], str]:
    """The span's values, its description, and why it cannot be tested (empty if it can)."""
    values = np.asarray(profile, dtype=float)
    if values.ndim != 1:
        raise InputError(f"a profile has one axis; found an array of shape {values.shape}")
    where: dict[str, Any] = {"start": int(start), "block": int(block), "count": int(count)}
    reason = bad_span(len(values), start, block, count)
    if reason:
        return values[:0], where, reason
    y = values[start : start + block * count]
    if not np.isfinite(y).all():
        return y, where, f"{int((~np.isfinite(y)).sum())} of the span's values are undefined"
    if log and (y <= 0).any():
        return y, where, "values of 0 or less have no logarithm"
    return (np.log(y) if log else y), where, ""


def bad_span(size: int, start: int, block: int, count: int) -> str:
    """Why a span cannot be tested on ``size`` steps, whatever the values; empty if it can."""
    if block < 2:
        return "blocks of one step have no phases"
    if count < 3:
        return f"{count} block{'s' * (count != 1)}; a period needs 3 or more"
    if start < 0 or start + block * count > size:
        return f"the span {start}:{start + block * count} is outside the profile's {size} steps"
    return ""


def left_over(y: Float[ndarray, "n"], design: Design) -> float:
    """What the nuisance leaves of a series, relative to it (1 for a series of zeros' logarithms)."""
    rest = np.linalg.norm(y - design.nuisance @ (design.nuisance.T @ y))
    return float(rest) / max(float(np.linalg.norm(y)), 1e-300)


def proper_divisors(block: int) -> list[int]:
    """Divisors of a block between 1 and the block itself."""
    return [c for c in range(2, block) if block % c == 0]


def wrong_sizes(block: int, n: int) -> list[int]:
    """Block sizes that neither divide the block nor are a multiple of it, up to half the span."""
    return [other for other in range(2, n // 2 + 1) if block % other and other % block]


def _nested(y: Float[ndarray, "n"], n: int, block: int, edges: tuple[bool, bool], divisor: int) -> float:
    design = profile_design(n, block, *edges, divisor)
    if design is None or left_over(y, design) <= ROUNDING:
        return np.nan
    return float(calibrated(design.average_p(y[None]), profile_null(n, block, *edges, divisor))[0])


def _wrong(y: Float[ndarray, "n"], design: Design, other: int) -> float:
    """Strength of another block size after the same trend; NaN with fewer than 3 degrees left."""
    wrong = make_design(design.nuisance, phase_dummies(len(y), other), design.degree)
    return float(wrong.strength(y)) if wrong.d2 >= 3 else np.nan


def period_strength(
    profiles: Real[ndarray, "*batch step"], start: int, block: int, count: int, log: bool = False
) -> Float[ndarray, "*batch"]:
    """``strength`` of many profiles at once (resamples, say); NaN where not testable."""
    values = np.asarray(profiles, dtype=float)
    n, size = block * count, values.shape[-1]
    design = None
    if not bad_span(size, start, block, count):
        design = profile_design(n, block, start == 0, start + n == size)
    if design is None:
        return np.full(values.shape[:-1], np.nan)
    y = values[..., start : start + n]
    if log:
        y = np.log(np.where(y > 0, y, np.nan))
    return design.strength(y)


def wrong_strengths(
    profiles: Real[ndarray, "*batch step"], start: int, block: int, count: int, log: bool = False
) -> dict[int, Float[ndarray, "*batch"]]:
    """``wrong_blocks`` of many profiles at once, by the wrong length, over all steps of the span."""
    n, size = block * count, np.shape(profiles)[-1]
    design = None
    if not bad_span(size, start, block, count):
        design = profile_design(n, block, start == 0, start + n == size)
    if design is None:
        return {}
    y = np.asarray(profiles, dtype=float)[..., start : start + n]
    y = np.log(np.where(y > 0, y, np.nan)) if log else y
    made = {
        other: make_design(design.nuisance, phase_dummies(n, other), design.degree) for other in wrong_sizes(block, n)
    }
    return {other: wrong.strength(y) for other, wrong in made.items() if wrong.d2 >= 3}


@dataclass(frozen=True, eq=False)
class Detrended:
    """A span's profile without its trend: what is left a step, and what its phase accounts for."""

    steps: ndarray
    left: Float[ndarray, "n"]
    phase_fit: Float[ndarray, "n"]


def detrended(
    profile: Real[ndarray, "step"], start: int, block: int, count: int, log: bool = False
) -> Detrended | None:
    """The span after X of :func:`block_periodicity`, for a picture; None where not testable."""
    y, _, reason = cut_span(profile, start, block, count, log)
    n = block * count
    design = None if reason else profile_design(n, block, start == 0, start + n == len(profile))
    if design is None:
        return None
    rank = design.nuisance.shape[1]
    left = y - design.nuisance @ (design.nuisance.T @ y)
    effect = design.basis[:, rank:]
    return Detrended(np.arange(start, start + n), left, effect @ (effect.T @ left))
