"""Scores of where in depth the work is done: arrays in, numbers out.

N, the number of steps that can be non-zero, is given as ``n``: all steps, or one fewer for effects on
later steps and in scope=future, where the last step reaches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from numpy import floating, ndarray

_CSORDAS = "Csordás, Manning & Potts 2505.13898"
_SCORE: dict[str, Any] = {
    "groups": ("skip",), "section": "Layer skip", "undefined": "no effect anywhere",
}  # fmt: skip


@metric(
    "depth_score.effect", needs=("skip.effect",), label="depth score (effects)", unit="step", source=_CSORDAS,
    formula="Σ s·e_s / Σ e_s, e_s = Σ_{l>s} skip.effect[s,l] / max(S−1−s, 1)", **_SCORE,
)  # fmt: skip
def effect_depth_score(matrix: Real[ndarray, "*batch step step"]) -> Float[ndarray | floating, "*batch"]:
    """Centre of mass of the steps' mean effects on later ones, in steps."""
    return depth_score(effect_profile(matrix))


@metric(
    "depth_score.effect.relative", needs=("skip.effect",), label="relative depth score (effects)",
    formula="depth_score.effect / (N−1)", source=_CSORDAS, **_SCORE,
)  # fmt: skip
def relative_effect_depth_score(
    matrix: Real[ndarray, "*batch step step"], n: int
) -> Float[ndarray | floating, "*batch"]:
    """The same as a share of the way to the last step that can have an effect."""
    return effect_depth_score(matrix) / max(n - 1, 1)


@metric(
    "depth_score.output", needs=("skip.output_l2",), label="depth score (output)", unit="step", source=_CSORDAS,
    formula="Σ s·e_s / Σ e_s, e_s = skip.output_l2", **_SCORE,
)  # fmt: skip
def depth_score(effects: Real[ndarray, "*batch step"]) -> Float[ndarray | floating, "*batch"]:
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


@metric(
    "depth_score.output.relative", needs=("skip.output_l2",), label="relative depth score (output)",
    formula="depth_score.output / (N−1)", source=_CSORDAS, **_SCORE,
)  # fmt: skip
def relative_depth_score(effects: Real[ndarray, "*batch step"], n: int) -> Float[ndarray | floating, "*batch"]:
    """The depth score as a share of the way to the last step that can have an effect."""
    return depth_score(effects) / max(n - 1, 1)


@metric(
    "late_share", needs=("skip.output_l2",), label="share of late steps", unit="fraction",
    formula="share of Σ skip.output_l2 over the first N steps that lies in their last third",
    source="Kapl et al. 2602.16490", limits=(0, 1), **_SCORE,
)  # fmt: skip
def late_share(profile: Real[ndarray, "*batch step"], n: int | None = None) -> Float[ndarray | floating, "*batch"]:
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


def effect_profile(matrix: Real[ndarray, "*batch step step"]) -> Float[ndarray, "*batch step"]:
    """e_s = Σ_{l>s} effect[s, l] / max(S−1−s, 1): the mean effect of step s on later ones; undefined ones are 0.

    >>> effect_profile(np.array([[9.0, 1.0, 3.0], [9.0, 9.0, 4.0], [9.0, 9.0, 9.0]])).tolist()
    [2.0, 4.0, 0.0]
    """
    matrix = np.nan_to_num(np.asarray(matrix, dtype=float))
    size = matrix.shape[-1]
    later = np.triu(np.ones((size, size), dtype=bool), 1)
    values = np.where(later, matrix, 0.0).sum(-1)
    return values / np.maximum(size - 1 - np.arange(size), 1)
