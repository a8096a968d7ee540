"""The residual stream itself: how large it is, and how much its direction turns.

Everything here is computed in float64: the quantities are differences of nearly equal
directions, and the cost is nothing beside a layer's matmuls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

CKA_TOKENS = 2048
"""Tokens that are pooled, the first ones in prompt order."""

_RESIDUAL: dict[str, Any] = {"groups": ("residual",), "section": "Residual stream", "precise": True}
_SUN, _GROMOV, _MEN = "Sun et al. (Painters) 2407.09298", "Gromov 2403.17887", "Men et al. (ShortGPT) 2403.03853"


def cosine(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(a, b) over the last axis in float64, within [−1, 1]; 0 with a zero vector, and NaN stays.

    >>> import torch
    >>> float(cosine(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])))
    0.0
    """
    a, b = a.double(), b.double()
    product = a.norm(dim=-1) * b.norm(dim=-1)
    value = ((a * b).sum(-1) / product.clamp_min(1e-300)).clamp(-1.0, 1.0)
    return value.masked_fill(product == 0, 0.0)


def cosine_matrix(vectors: Float[Tensor, "n *batch d"]) -> Float[Tensor, "n n *batch"]:
    """Cosines between all pairs of n vectors, which stand along the first axis; 0 with a zero vector.

    >>> import torch
    >>> cosine_matrix(torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    vectors = vectors.double().movedim(0, -2)
    norms = vectors.norm(dim=-1, keepdim=True)
    unit = vectors / norms.clamp_min(1e-300)
    matrix = (unit @ unit.mT).clamp(-1.0, 1.0)
    # A vector's cosine with itself is 1, or 0 by convention if it is zero; rounding aside. NaN stays.
    size = norms.squeeze(-1)
    own = (size / size).where(size != 0, size.new_zeros(()))
    matrix.diagonal(dim1=-2, dim2=-1).copy_(own)
    return matrix.movedim((-2, -1), (0, 1))


@metric(
    "residual.norm", axis="depth", label="residual norm ‖h‖", formula="‖h_d‖₂",
    source="Csordás, Manning & Potts 2505.13898", limits=(0, None), log=True, norm="log", drawn=(1e-2, 1e4),
    **_RESIDUAL,
)  # fmt: skip
def residual_norm(h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """‖h‖₂ of residual states."""
    return h.double().norm(dim=-1)


@metric(
    "residual.io_cosine", axis="step", label="cos(in, out)", formula="cos(in_s, out_s)", source=f"{_GROMOV}; {_MEN}",
    limits=(-1, 1), **_RESIDUAL,
)  # fmt: skip
def io_cosine(h: Float[Tensor, "*batch d"], h_next: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """cos(in, out) of a step."""
    return cosine(h, h_next)


@metric(
    "residual.block_influence", axis="step", label="block influence", formula="1 − cos(in_s, out_s)", source=_MEN,
    limits=(0, 2), norm="log", drawn=(1e-4, 2), **_RESIDUAL,
)  # fmt: skip
def block_influence(h: Float[Tensor, "*batch d"], h_next: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """1 − cos(in, out) of a step (ShortGPT 2403.03853); 0 for a step that only rescales."""
    return 1.0 - cosine(h, h_next)


def angular_distance(cosines: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """arccos(cos)/π: 0 the same direction, 1 the opposite (Gromov et al. 2403.17887).

    >>> import torch
    >>> round(float(angular_distance(torch.tensor(0.0))), 6)
    0.5
    """
    return cosines.double().clamp(-1.0, 1.0).arccos() / math.pi


@metric(
    "residual.angular", rows="depth", cols="ahead", row_label="depth d", col_label="layers ahead n",
    label="angular distance", unit="half turns", formula="arccos(cos(h_d, h_{d+n}))/π", source=_GROMOV,
    limits=(0, 1), drawn=(0, 0.6), **_RESIDUAL,
)  # fmt: skip
def angular_ahead(hs: Float[Tensor, "depth *batch d"]) -> Float[Tensor, "step n *batch"]:
    """Angular distance of h_d and h_{d+n}: row d = 0..S−1, column n − 1; NaN where d + n is beyond the end."""
    distances = angular_distance(cosine_matrix(hs))
    last = len(hs) - 1
    ahead = distances.new_full((last, last, *distances.shape[2:]), float("nan"))
    for n in range(1, last + 1):
        ahead[: last + 1 - n, n - 1] = distances.diagonal(offset=n, dim1=0, dim2=1).movedim(-1, 0)
    return ahead


@metric(
    "residual.cosine", rows="depth", cols="depth", label="cosine of residual states", formula="cos(h_d, h_d')",
    source=_SUN, centre=0.0, limits=(-1, 1), **_RESIDUAL,
)  # fmt: skip
def residual_cosines(hs: Float[Tensor, "depth *batch d"]) -> Float[Tensor, "depth depth *batch"]:
    """Cosines between a token's states at all pairs of depths."""
    return cosine_matrix(hs)


@metric(
    "residual.cka", level="pooled", rows="depth", cols="depth", label="debiased linear CKA",
    formula="HSIC_u(K,L)/√(HSIC_u(K,K) HSIC_u(L,L)), K = XXᵀ U-centred, first 2,048 pooled tokens",
    source="Kornblith et al. 1905.00414; Székely & Rizzo 2014 (U-centring)", worst=None, limits=(None, 1), drawn=(0, 1),
    default=False, **{**_RESIDUAL, "precise": False},
)  # fmt: skip
def cka_matrix(hs: Float[Tensor, "depth token d"], rows: int = 256) -> Float[Tensor, "depth depth"]:
    """Debiased linear CKA between the representations at all pairs of depths.

    K = XXᵀ with its diagonal left out and U-centred (Székely & Rizzo 2014); HSIC_u(K, L) =
    ⟨K, L⟩ / (n(n − 3)), whose factor cancels in CKA. NaN with fewer than four tokens, and where
    the debiased HSIC of one side with itself is not positive.

    Gram matrices are made ``rows`` rows at a time for all depths, so memory is
    depth x rows x token and not depth x token².
    """
    states = hs.double()
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
