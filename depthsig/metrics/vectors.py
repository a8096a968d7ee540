"""Small arithmetic that several families share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from torch import Tensor

EPSILON = 1e-6
"""What a norm is at least, where something is divided by it."""


def relative_change(
    delta: Float[Tensor, "*batch d"], delta_edited: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch"]:
    """‖delta − delta_edited‖ / max(‖delta‖, ε): how much of an update an edit has changed, ε = 1e-6.

    >>> import torch
    >>> float(relative_change(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])))
    1.0
    """
    return (delta - delta_edited).norm(dim=-1) / delta.norm(dim=-1).clamp_min(EPSILON)


def first_from_which(holds: Bool[ndarray, "*batch depth"]) -> Float[ndarray, "*batch"]:
    """First index from which a condition holds to the end (last axis); NaN where it never does.

    >>> first_from_which(np.array([True, False, True, True])).item()
    2.0
    >>> first_from_which(np.array([True, False])).item()
    nan
    """
    holds = np.asarray(holds, dtype=bool)
    tail = np.cumprod(holds[..., ::-1], axis=-1).sum(-1)
    first = holds.shape[-1] - tail
    return np.where(tail > 0, first, np.nan).astype(float)
