"""What each step's layer, attention and MLP add to the residual stream.

u is the part's contribution as it is added to the residual (after post-norms and multipliers),
r what it is added to: the step's input h, or h + a for the MLP of a sequential block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from depthsig.metrics.lens import first_from_which
from depthsig.metrics.registry import PARTS, Metric
from depthsig.metrics.residual import cosine

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from torch import Tensor

EPSILON = 1e-6
_SOURCE = "Csordás, Manning & Potts 2505.13898"

METRICS = (
    Metric(
        "contribution.norm",
        ("residual",),
        "profile",
        "contribution norm ‖u‖",
        "‖u‖₂",
        _SOURCE,
        axis="step",
        parts=PARTS,
        log=True,
        limits=(0, None),
    ),
    Metric(
        "contribution.relative",
        ("residual",),
        "profile",
        "relative contribution ‖u‖/‖r‖",
        "‖u‖/max(‖r‖, 1e-6) per token",
        _SOURCE,
        axis="step",
        parts=PARTS,
        log=True,
        limits=(0, None),
    ),
    Metric(
        "contribution.cosine",
        ("residual",),
        "profile",
        "cos(contribution, residual)",
        "cos(u, r)",
        _SOURCE,
        axis="step",
        parts=PARTS,
        limits=(-1, 1),
        diverging=0.0,
    ),
    Metric(
        "contribution.cosine_matrix",
        ("residual",),
        "matrix",
        "cosine of contributions",
        "cos(u_s, u_s')",
        "Kapl et al. 2512.08819",
        parts=PARTS,
        rows="step",
        cols="step",
        worst="max",
        diverging=0.0,
        limits=(-1, 1),
    ),
    Metric(
        "effective_depth.cosine",
        ("residual",),
        "score",
        "effective depth (cosine)",
        "first step from which the mean of contribution.cosine over parts stays ≥ 0 to the end",
        "Hu et al. 2512.14064",
        unit="step",
        worst=None,
    ),
)


def contribution_norm(u: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖u‖₂."""
    return u.double().norm(dim=-1)


def contribution_relative(u: Float[Tensor, "*batch d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖u‖/max(‖r‖, 1e-6).

    >>> import torch
    >>> float(contribution_relative(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0])))
    0.5
    """
    return contribution_norm(u) / r.double().norm(dim=-1).clamp_min(EPSILON)


def contribution_cosine(u: Float[Tensor, "*batch d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(u, r): positive where a part strengthens what is there, negative where it erases."""
    return cosine(u, r)


def effective_depth_cosine(cosines: Float[ndarray, "part *batch step"]) -> Float[ndarray, "*batch"]:
    """First step from which the mean of contribution.cosine over parts stays ≥ 0 to the end.

    NaN if it never does, or where a value is undefined (Hu et al. 2512.14064).

    >>> effective_depth_cosine(np.array([[0.1, -0.3, 0.2, 0.1], [0.1, 0.1, 0.0, 0.1]])).item()
    2.0
    """
    mean = np.asarray(cosines, dtype=float).mean(0)
    return np.where(np.isnan(mean).any(-1), np.nan, first_from_which(mean >= 0))
