"""The residual stream itself: how large it is, and how much its direction turns.

Everything here is computed in float64: the quantities are differences of nearly equal
directions, and the cost is nothing beside a layer's matmuls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from depthsig.metrics.registry import Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

METRICS = (
    Metric(
        "residual.norm",
        ("residual",),
        "profile",
        "residual norm ‖h‖",
        "‖h_d‖₂",
        "Csordás, Manning & Potts 2505.13898",
        axis="depth",
        log=True,
        limits=(0, None),
    ),
    Metric(
        "residual.io_cosine",
        ("residual",),
        "profile",
        "cos(in, out)",
        "cos(in_s, out_s)",
        "Gromov 2403.17887; Men et al. (ShortGPT) 2403.03853",
        axis="step",
        limits=(-1, 1),
    ),
    Metric(
        "residual.block_influence",
        ("residual",),
        "profile",
        "block influence",
        "1 − cos(in_s, out_s)",
        "Men et al. (ShortGPT) 2403.03853",
        axis="step",
        limits=(0, 2),
    ),
    Metric(
        "residual.angular",
        ("residual",),
        "matrix",
        "angular distance",
        "arccos(cos(h_d, h_{d+n}))/π",
        "Gromov et al. 2403.17887",
        rows="depth d",
        cols="layers ahead n",
        unit="half turns",
        limits=(0, 1),
    ),
    Metric(
        "residual.cosine",
        ("residual",),
        "matrix",
        "cosine of residual states",
        "cos(h_d, h_d')",
        "Sun et al. (Painters) 2407.09298",
        rows="depth",
        cols="depth",
        diverging=0.0,
        limits=(-1, 1),
    ),
    Metric(
        "residual.cka",
        ("residual",),
        "matrix",
        "debiased linear CKA",
        "HSIC_u(K,L)/√(HSIC_u(K,K) HSIC_u(L,L)), K = XXᵀ U-centred, first 2,048 pooled tokens",
        "Kornblith et al. 1905.00414; Székely & Rizzo 2014 (U-centring)",
        rows="depth",
        cols="depth",
        worst=None,
        limits=(None, 1),
        default=False,
    ),
)

CKA_TOKENS = 2048


def cosine(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(a, b) over the last axis in float64, within [−1, 1]; 0 with a zero vector.

    >>> import torch
    >>> float(cosine(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])))
    0.0
    """
    a, b = a.double(), b.double()
    product = a.norm(dim=-1) * b.norm(dim=-1)
    value = (a * b).sum(-1) / product.clamp_min(1e-300)
    return value.where(product > 0, value.new_zeros(())).clamp(-1.0, 1.0)


def residual_norm(h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖h‖₂ of residual states."""
    return h.double().norm(dim=-1)


def io_cosine(before: Float[Tensor, "*batch d"], after: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(in, out) of a step."""
    return cosine(before, after)


def block_influence(before: Float[Tensor, "*batch d"], after: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """1 − cos(in, out) of a step (ShortGPT 2403.03853); 0 for a step that only rescales."""
    return 1.0 - cosine(before, after)


def cosine_matrix(vectors: Float[Tensor, "token n d"]) -> Float[Tensor, "token n n"]:
    """Cosines between all pairs of n vectors, for each token; 0 with a zero vector.

    >>> import torch
    >>> cosine_matrix(torch.eye(2)[None])[0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    vectors = vectors.double()
    norms = vectors.norm(dim=-1, keepdim=True)
    unit = vectors / norms.clamp_min(1e-300)
    matrix = (unit @ unit.mT).clamp(-1.0, 1.0)
    # A vector's cosine with itself is 1, or 0 by convention if it is zero; rounding aside. NaN stays.
    size = norms.squeeze(-1)
    own = (size / size).where(size != 0, size.new_zeros(()))
    matrix.diagonal(dim1=-2, dim2=-1).copy_(own)
    return matrix


def angular_distance(cosines: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """arccos(cos)/π: 0 the same direction, 1 the opposite (Gromov et al. 2403.17887).

    >>> import torch
    >>> round(float(angular_distance(torch.tensor(0.0))), 6)
    0.5
    """
    return cosines.double().clamp(-1.0, 1.0).arccos() / math.pi


def cka_matrix(states: Float[Tensor, "depth token d"], rows: int = 256) -> Float[Tensor, "depth depth"]:
    """Debiased linear CKA between the representations at all pairs of depths.

    K = XXᵀ with its diagonal left out and U-centred (Székely & Rizzo 2014); HSIC_u(K, L) =
    ⟨K, L⟩ / (n(n − 3)), whose factor cancels in CKA. NaN with fewer than four tokens, and where
    the debiased HSIC of one side with itself is not positive.

    Gram matrices are made ``rows`` rows at a time for all depths, so memory is
    depth x rows x token and not depth x token².
    """
    states = states.double()
    depths, n, _ = states.shape
    if n < 4:
        return states.new_full((depths, depths), float("nan"))
    # Row sums of the Gram without its diagonal, then the total: all that centring needs.
    squares = (states * states).sum(-1)
    sums = (states @ states.sum(1)[..., None]).squeeze(-1) - squares
    total = sums.sum(-1)
    inner = states.new_zeros(depths, depths)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        gram = states[:, start:stop] @ states.mT
        gram -= sums[:, start:stop, None] / (n - 2) + sums[:, None, :] / (n - 2)
        gram += (total / ((n - 1) * (n - 2)))[:, None, None]
        index = range(start, stop)
        gram[:, range(stop - start), index] = 0.0
        flat = gram.flatten(1)
        inner += flat @ flat.mT
    own = inner.diagonal()
    scale = (own[:, None] * own[None, :]).clamp_min(0).sqrt()
    return (inner / scale).where(scale > 0, states.new_full((), float("nan")))
