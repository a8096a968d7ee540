"""The Jacobians' own numbers, depth by depth (Wang & Reid 2609.01924)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

JACOBIAN_COLUMNS = ("depth", "layer", "iteration", "phase", "participation", "kurtosis", "cosine_to_next_pass")


def participation(jacobian: Float[Tensor, "d d"]) -> float:
    """Participation ratio of the squared singular values, (Σσ²)²/Σσ⁴: between 1 (one direction) and d (all alike).

    >>> participation(torch.eye(4)), participation(torch.ones(4, 4))
    (4.0, 1.0)
    """
    matrix = jacobian.double()
    # Σσ⁴ is ‖JᵀJ‖²: no singular value need be computed. Scaled, so that nothing overflows.
    matrix = matrix / matrix.abs().amax().clamp_min(torch.finfo(matrix.dtype).tiny)
    squares = float((matrix**2).sum())
    return squares**2 / float(((matrix.T @ matrix) ** 2).sum()) if squares else math.nan


def kurtosis(jacobian: Float[Tensor, "d d"]) -> float:
    """Excess kurtosis of the d² entries, m₄/m₂² − 3 about their mean: 0 for normal ones, NaN where all are equal.

    >>> kurtosis(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    -2.0
    """
    entries = jacobian.double().flatten()
    entries = entries - entries.mean()
    largest = float(entries.abs().max())
    if not largest:
        return math.nan
    squares = (entries / largest) ** 2
    return float((squares**2).mean() / squares.mean() ** 2) - 3.0


def cosine(one: Float[Tensor, "d d"], other: Float[Tensor, "d d"]) -> float:
    """⟨A, B⟩ / (‖A‖‖B‖) of two matrices' entries; NaN where one is zero."""
    a, b = one.double().flatten(), other.double().flatten()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else math.nan


def jacobian_table(jacobians: Sequence[Float[Tensor, "d d"]], steps: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a depth.

    Args:
        jacobians: J_d by depth. steps: ``layer``, ``iteration`` and ``phase`` (None outside a loop) of every step.

    Returns:
        A table with the columns :data:`JACOBIAN_COLUMNS`.
    """
    rows = []
    for depth, (jacobian, step) in enumerate(zip(jacobians, steps, strict=True)):
        later = next_pass(depth, steps)
        next_one = math.nan if later is None else cosine(jacobian, jacobians[later])
        rows.append((depth, step["layer"], step["iteration"], step["phase"],
                     participation(jacobian), kurtosis(jacobian), next_one))  # fmt: skip
    return pd.DataFrame(rows, columns=list(JACOBIAN_COLUMNS)).astype({"phase": "Int64"})


def next_pass(depth: int, steps: Sequence[Mapping[str, Any]]) -> int | None:
    """The depth at which the same layer runs one pass later in its loop; None where it does not."""
    own = steps[depth]
    if own["phase"] is None:
        return None
    wanted = (own["layer"], own["iteration"] + 1, own["phase"])
    later = range(depth + 1, len(steps))
    return next((d for d in later if tuple(steps[d][k] for k in ("layer", "iteration", "phase")) == wanted), None)


def depth_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as a record keeps them: None for what is not there."""
    return [{k: _plain(v) for k, v in row.items()} for row in table.to_dict(orient="records")]


def _plain(value: Any) -> int | float | None:
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return float(value) if isinstance(value, (float, np.floating)) else int(value)
