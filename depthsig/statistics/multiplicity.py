"""Several tests at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray


def holm(p: Real[ndarray, "test"]) -> Float[ndarray, "test"]:
    """p-values adjusted by Holm's step-down method (Holm 1979, Scand. J. Statist. 6, 65-70).

    Controls the family-wise error rate under any dependence. The k-th smallest of m is multiplied
    by m − k + 1, and none may be smaller than the one before it.

    >>> [round(float(x), 6) for x in holm(np.array([0.01, 0.04, 0.03]))]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
