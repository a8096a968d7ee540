"""Profiles on relative depth and their distances again, point by point."""

from __future__ import annotations

import numpy as np


def plain_relative(profile: np.ndarray, axis: str) -> list[float]:
    """One profile on 50 relative depths, point by point, at a mean absolute value of 1."""
    size = len(profile)
    x = [i / (size - 1) if axis == "depth" else (i + 0.5) / size for i in range(size)]
    known = [(a, float(b)) for a, b in zip(x, profile, strict=True) if not np.isnan(b)]
    out = []
    for point in range(50):
        t = point / 49
        if t <= known[0][0]:
            out.append(known[0][1])
        elif t >= known[-1][0]:
            out.append(known[-1][1])
        else:
            k = next(i for i in range(len(known) - 1) if known[i][0] <= t <= known[i + 1][0])
            (x0, y0), (x1, y1) = known[k], known[k + 1]
            out.append(y0 + (y1 - y0) * (t - x0) / (x1 - x0))
    scale = sum(abs(v) for v in out) / 50
    return [v / scale for v in out]


def plain_distance(a: np.ndarray, b: np.ndarray, axis: str) -> float:
    pairs = zip(plain_relative(a, axis), plain_relative(b, axis), strict=True)
    return sum(abs(x - y) for x, y in pairs) / 50
