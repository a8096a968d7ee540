"""The Jacobians' own numbers, depth by depth (Wang & Reid 2609.01924)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from depthsig.metrics.jacobian import entry_kurtosis, participation_ratio, transport_cosine

JACOBIAN_COLUMNS = ("depth", "layer", "iteration", "phase", "participation", "kurtosis", "cosine_to_next_pass")


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
        next_one = math.nan if later is None else transport_cosine(jacobian, jacobians[later])
        rows.append((depth, step["layer"], step["iteration"], step["phase"],
                     participation_ratio(jacobian), entry_kurtosis(jacobian), next_one))  # fmt: skip
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
