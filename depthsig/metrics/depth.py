"""Scores of where in depth the work is done: arrays in, numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthsig.metrics.registry import PARTS, SCOPES, Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

_CSORDAS = "Csordás, Manning & Potts 2505.13898"


def _score(name: str, label: str, formula: str, source: str, unit: str = "") -> Metric:
    return Metric(name, ("skip",), "score", label, formula, source, unit=unit, parts=PARTS, scopes=SCOPES)


METRICS = (
    _score(
        "depth_score.effect", "depth score (effects)",
        "Σ s·e_s / Σ e_s, e_s = Σ_{l>s} skip.effect[s,l] / max(S−1−s, 1)", _CSORDAS, "step",
    ),
    _score("depth_score.effect.relative", "relative depth score (effects)", "depth_score.effect / (N−1)", _CSORDAS),
    _score(
        "depth_score.output", "depth score (output)", "Σ s·e_s / Σ e_s, e_s = skip.output_l2", _CSORDAS, "step"
    ),
    _score("depth_score.output.relative", "relative depth score (output)", "depth_score.output / (N−1)", _CSORDAS),
    _score(
        "late_share", "share of late steps",
        "share of Σ skip.output_l2 over the first N steps that lies in their last third", "Kapl et al. 2602.16490",
        "fraction",
    ),
)  # fmt: skip


def depth_score(effects: Float[ndarray, "*batch step"]) -> Float[ndarray, "*batch"]:
    """Centre of mass of non-negative effects over steps, Σ s·e_s / Σ e_s, in steps.

    NaN steps take no part; NaN where all effects are zero. Source: 2505.13898.

    >>> float(depth_score(np.array([0.0, 1.0, 1.0])))
    1.5
    """
    effects = np.asarray(effects, dtype=float)
    steps = np.arange(effects.shape[-1])
    defined = np.nan_to_num(effects)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (steps * defined).sum(-1) / defined.sum(-1)


def effect_profile(matrix: Float[ndarray, "*batch step step"]) -> Float[ndarray, "*batch step"]:
    """e_s = Σ_{l>s} effect[s, l] / max(S−1−s, 1): the mean effect of step s on later ones.

    >>> effect_profile(np.array([[9.0, 1.0, 3.0], [9.0, 9.0, 4.0], [9.0, 9.0, 9.0]])).tolist()
    [2.0, 4.0, 0.0]
    """
    matrix = np.asarray(matrix, dtype=float)
    size = matrix.shape[-1]
    later = np.triu(np.ones((size, size), dtype=bool), 1)
    values = np.where(later, matrix, 0.0).sum(-1)
    return values / np.maximum(size - 1 - np.arange(size), 1)


def late_share(profile: Float[ndarray, "*batch step"], n: int | None = None) -> Float[ndarray, "*batch"]:
    """Share of Σ profile over the first ``n`` steps that lies in the last third of them.

    The step that straddles 2n/3 counts by its fraction. NaN where the sum is zero. In a model
    whose steps matter alike it is 1/3.

    >>> [round(float(late_share(np.ones(n))), 6) for n in (3, 4)]
    [0.333333, 0.333333]
    """
    profile = np.asarray(profile, dtype=float)
    n = profile.shape[-1] if n is None else n
    first = profile[..., :n]
    weights = np.clip(np.arange(1, n + 1) - 2 * n / 3, 0.0, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(first * weights, axis=-1) / np.nansum(first, axis=-1)


def reaching_steps(steps: int, score: str, scope: str) -> int:
    """N, the number of steps that can be non-zero: the last one reaches no later step and no later position.

    >>> reaching_steps(12, "output", "current"), reaching_steps(12, "effect", "current")
    (12, 11)
    """
    return steps - 1 if score == "effect" or scope == "future" else steps
