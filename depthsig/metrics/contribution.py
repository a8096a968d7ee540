"""What each step's layer, attention and MLP add to the residual stream.

u is the part's contribution as it is added to the residual (after post-norms and multipliers),
r what it is added to: the step's input h, or h + a for the MLP of a sequential block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from depthsig.metrics.registry import metric
from depthsig.metrics.residual import cosine, cosine_matrix
from depthsig.metrics.vectors import EPSILON, first_from_which
from depthsig.terms import PARTS

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from numpy import ndarray
    from torch import Tensor

_CSORDAS = "Csordás, Manning & Potts 2505.13898"
_CONTRIBUTION: dict[str, Any] = {
    "groups": ("residual",), "section": "Contributions", "parts": PARTS, "precise": True,
}  # fmt: skip


@metric(
    "contribution.norm", axis="step", label="contribution norm ‖u‖", formula="‖u‖₂", source=_CSORDAS,
    limits=(0, None), log=True, norm="log", drawn=(1e-3, 1e4), **_CONTRIBUTION,
)  # fmt: skip
def contribution_norm(u: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖u‖₂."""
    return u.double().norm(dim=-1)


@metric(
    "contribution.relative", axis="step", label="relative contribution ‖u‖/‖r‖",
    formula="‖u‖/max(‖r‖, 1e-6) per token", source=_CSORDAS, limits=(0, None), log=True, norm="log",
    drawn=(1e-3, 1e3), **_CONTRIBUTION,
)  # fmt: skip
def contribution_relative(u: Float[Tensor, "*batch d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖u‖/max(‖r‖, 1e-6).

    >>> import torch
    >>> float(contribution_relative(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0])))
    0.5
    """
    return contribution_norm(u) / r.double().norm(dim=-1).clamp_min(EPSILON)


@metric(
    "contribution.cosine", axis="step", label="cos(contribution, residual)", formula="cos(u, r)", source=_CSORDAS,
    limits=(-1, 1), centre=0.0, **_CONTRIBUTION,
)  # fmt: skip
def contribution_cosine(u: Float[Tensor, "*batch d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(u, r): positive where a part strengthens what is there, negative where it erases."""
    return cosine(u, r)


@metric(
    "contribution.cosine_matrix", rows="step", cols="step", label="cosine of contributions", formula="cos(u_s, u_s')",
    source="Kapl et al. 2512.08819", limits=(-1, 1), centre=0.0, drawn=(-0.6, 0.6), **_CONTRIBUTION,
)  # fmt: skip
def contribution_cosines(us: Float[Tensor, "step *batch d"]) -> Float[Tensor, "step step *batch"]:
    """Cosines between a token's contributions at all pairs of steps; NaN where one is not known."""
    return cosine_matrix(us)


@metric(
    "effective_depth.cosine", needs=("contribution.cosine",), stacked=True, label="effective depth (cosine)",
    unit="step",
    formula="first step from which the mean of contribution.cosine over parts stays ≥ 0 to the end",
    source="Hu et al. 2512.14064", groups=("residual",), section="Contributions", worst=None,
    undefined="never reached",
)  # fmt: skip
def effective_depth_cosine(cosines: Real[ndarray, "part *batch step"]) -> Float[ndarray, "*batch"]:
    """First step from which the mean of contribution.cosine over parts stays ≥ 0 to the end.

    NaN if it never does, or where a value is undefined (Hu et al. 2512.14064).

    >>> effective_depth_cosine(np.array([[0.1, -0.3, 0.2, 0.1], [0.1, 0.1, 0.0, 0.1]])).item()
    2.0
    """
    mean = np.asarray(cosines, dtype=float).mean(0)
    return np.where(np.isnan(mean).any(-1), np.nan, first_from_which(mean >= 0))
