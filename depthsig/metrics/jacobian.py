"""Jacobian lens: what the model would predict if a state went on as it does on average (Gurnee et al. 2026).

J_d is the mean derivative of the last state by h_d over prompts and positions; J_d h_d is where h_d leads, to first
order, and q_d is read from it by the model's own readout: head(norm(J_d h_d)). With J_d the identity that is the
logit lens. ``jacobian.*`` of the readouts stands in :mod:`depthsig.metrics.lens`; here is what the matrices tell by
themselves, without a prompt (Wang & Reid 2609.01924, read second-hand): how many directions they keep, how unevenly
their entries are spread, and whether successive passes of a loop transport alike.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from depthsig.metrics.registry import metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

_TRANSPORT: dict[str, Any] = {
    "on": "transport", "level": "pooled", "source": "Wang & Reid 2609.01924 (second-hand)", "section": "Jacobian lens",
    "worst": None,
}  # fmt: skip


def participation_ratio(jacobian: Float[Tensor, "out in"]) -> float:
    """(Σσ²)²/Σσ⁴ of a matrix' singular values σ: how many directions it keeps, from 1 to the width.

    Of squared Frobenius norms, ‖J‖⁴/‖JᵀJ‖², so that no singular value is computed. NaN for a matrix of zeros.

    >>> import torch
    >>> participation_ratio(torch.eye(4)), participation_ratio(torch.ones(3, 3))
    (4.0, 1.0)
    """
    jacobian = jacobian.double()
    largest = float(jacobian.abs().max())
    if not largest:
        return float("nan")
    jacobian = jacobian / largest  # fourth powers of small numbers would be none
    return float((jacobian**2).sum() ** 2 / ((jacobian.T @ jacobian) ** 2).sum())


def entry_kurtosis(jacobian: Float[Tensor, "out in"]) -> float:
    """Excess kurtosis of a matrix' entries, m₄/m₂² − 3: 0 for normal ones, large where few entries are large.

    NaN where all entries are equal.

    >>> import torch
    >>> entry_kurtosis(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    -2.0
    """
    entries = jacobian.double().flatten()
    centred = entries - entries.mean()
    largest = float(centred.abs().max())
    if not largest:
        return float("nan")
    centred = centred / largest
    return float((centred**4).mean() / (centred**2).mean() ** 2 - 3)


def transport_cosine(first: Float[Tensor, "out in"], second: Float[Tensor, "out in"]) -> float:
    """⟨A, B⟩/(‖A‖‖B‖) of two matrices, entry by entry: 1 where one is the other's positive multiple. NaN with zeros.

    >>> import torch
    >>> transport_cosine(torch.eye(2), 3 * torch.eye(2)), transport_cosine(torch.eye(2), torch.zeros(2, 2))
    (1.0, nan)
    """
    first, second = first.double(), second.double()
    norms = math.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return max(-1.0, min(1.0, float((first * second).sum()) / norms)) if norms else float("nan")


@metric(
    "jacobian.participation", axis="depth", label="participation ratio of J_d", unit="directions",
    formula="(Σσ²)²/Σσ⁴ of the singular values of J_d, d < S", limits=(1, None), norm="log", drawn=(1, 1e3),
    **_TRANSPORT,
)  # fmt: skip
def transport_participation(jacobians: Sequence[Float[Tensor, "out in"] | None]) -> Float[Tensor, "depth"]:
    """:func:`participation_ratio` of the matrix of every depth; NaN where there is none."""
    return _each(participation_ratio, jacobians)


@metric(
    "jacobian.kurtosis", axis="depth", label="kurtosis of J_d", formula="excess kurtosis of the entries of J_d, d < S",
    norm="log", drawn=(0.1, 1e4), **_TRANSPORT,
)  # fmt: skip
def transport_kurtosis(jacobians: Sequence[Float[Tensor, "out in"] | None]) -> Float[Tensor, "depth"]:
    """:func:`entry_kurtosis` of the matrix of every depth; NaN where there is none."""
    return _each(entry_kurtosis, jacobians)


@metric(
    "jacobian.cosine", rows="iteration", cols="phase", row_label="iteration k", label="cosine of J in passes k, k+1",
    formula="⟨J^k, J^{k+1}⟩/(‖J^k‖‖J^{k+1}‖), J^k of the state entering pass k at that phase", limits=(-1, 1),
    centre=0.0, default=False, **_TRANSPORT,
)  # fmt: skip
def pass_cosine(passes: Sequence[Sequence[Float[Tensor, "out in"] | None]]) -> Float[Tensor, "turn phase"]:
    """:func:`transport_cosine` of the matrices of successive passes at each phase; NaN where one is missing.

    >>> import torch
    >>> pass_cosine([[torch.eye(2), None], [torch.eye(2), torch.eye(2)]]).tolist()
    [[1.0, nan]]
    """
    import torch  # lazily: entries are read where torch is not installed

    rows = [
        [float("nan") if a is None or b is None else transport_cosine(a, b) for a, b in zip(one, after, strict=True)]
        for one, after in itertools.pairwise(passes)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _each(
    of: Callable[[Tensor], float], jacobians: Sequence[Float[Tensor, "out in"] | None]
) -> Float[Tensor, "depth"]:  # fmt: skip
    import torch  # lazily: entries are read where torch is not installed

    values = [float("nan") if one is None else of(one) for one in jacobians]
    return torch.tensor(values, dtype=torch.float64)
