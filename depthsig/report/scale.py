"""The scale of a metric's axis or colours: its entry's, so that it is the same for every model.

Only a metric of one's own that says no range, and has no limits, is drawn over the range of its data; where few
values would fill most of that, they lie beyond.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.ticker import SymmetricalLogLocator
from numpy import ndarray

from depthsig.metrics import Metric
from depthsig.report.figures.labels import powers_of_ten

LINEAR_WITHIN = 0.01
"""Around 0 a ``symlog`` scale is linear: of losses, what nobody would miss."""
OUTERMOST = 0.01
"""The share of values on each side that may lie beyond a scale of the data's own range, ..."""
STRETCHED = 2.0
"""... where they would stretch it so many times."""

Ends = Literal["neither", "min", "max", "both"]


@dataclass(frozen=True)
class Scale:
    """From ``low`` to ``high``, ``linear``, ``log`` or ``symlog``."""

    norm: str
    low: float
    high: float

    @classmethod
    def of(cls, entry: Metric, values: Any) -> Scale:
        """The scale of a metric; ``values`` are looked at for an end that its entry leaves open."""
        finite = np.asarray(values, dtype=float).ravel()
        finite = finite[np.isfinite(finite) & ((finite > 0) | (entry.norm != "log"))]
        data = _range(finite)
        if entry.centre is not None:
            reach = float(np.abs(data - entry.centre).max()) or 1.0
            data = np.array([entry.centre - reach, entry.centre + reach])
        known = [_first(pair) for pair in zip(entry.drawn, entry.limits, strict=True)]
        low, high = (float(d) if end is None else float(end) for end, d in zip(known, data, strict=True))
        if entry.norm == "log" and low <= 0:
            low = min(float(data[0]), high / 10)
        return cls(entry.norm, low, high if high > low else low + (abs(low) or 1.0))

    def colours(self) -> Normalize:
        """As matplotlib's colour maps take it; what lies beyond has the colour of the end."""
        if self.norm == "log":
            return LogNorm(self.low, self.high, clip=True)
        if self.norm == "symlog":
            return SymLogNorm(LINEAR_WITHIN, vmin=self.low, vmax=self.high, clip=True)
        return Normalize(self.low, self.high, clip=True)

    def below(self, values: Float[ndarray, "*cell"]) -> Bool[ndarray, "*cell"]:
        """Where values lie below the scale; undefined ones do not."""
        return np.asarray(values < self.low)

    def above(self, values: Float[ndarray, "*cell"]) -> Bool[ndarray, "*cell"]:
        """Where values lie above the scale."""
        return np.asarray(values > self.high)

    def ends(self, values: Float[ndarray, "*cell"]) -> Ends:
        """At which ends values lie beyond."""
        low, high = bool(self.below(values).any()), bool(self.above(values).any())
        return "both" if low and high else "min" if low else "max" if high else "neither"

    def within(self, values: Float[ndarray, "*cell"]) -> Float[ndarray, "*cell"]:
        """Values, those beyond at the ends."""
        return np.clip(values, self.low, self.high)

    def share(self, values: Float[ndarray, "*cell"]) -> Float[ndarray, "*cell"]:
        """How far along the scale each value lies, from 0 to 1."""
        return np.asarray(self.colours()(self.within(values)), dtype=float)

    def set(self, axis: Axis) -> None:
        """Put an axis on this scale, with room for what stands at its ends."""
        axes = axis.axes
        margin, names = 0.04, ("x", "y")
        name = names[axis is axes.yaxis]
        setter, limits = getattr(axes, f"set_{name}scale"), getattr(axes, f"set_{name}lim")
        if self.norm == "log":
            setter("log")
            wider = (self.high / self.low) ** margin
            limits(self.low / wider, self.high * wider)
            self.mark(axis)
        elif self.norm == "symlog":
            setter("symlog", linthresh=LINEAR_WITHIN)
            limits(self.low * 1.5, self.high * 1.5)
            self.mark(axis)
        else:
            wide = margin * (self.high - self.low)
            limits(self.low - wide, self.high + wide)

    def mark(self, axis: Axis) -> None:
        """Label the ticks of an axis or colour bar, where they are powers of ten."""
        if self.norm == "log":
            powers_of_ten(axis)
        elif self.norm == "symlog":
            axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR_WITHIN))
            powers_of_ten(axis, between=False)


def _range(values: Float[ndarray, "value"]) -> Float[ndarray, "2"]:
    """Of the data, without what would stretch it."""
    if not values.size:
        return np.array([1.0, 2.0])
    most, usual = np.quantile(values, [0, 1]), np.quantile(values, [OUTERMOST, 1 - OUTERMOST])
    return usual if np.ptp(most) > STRETCHED * np.ptp(usual) else most


def _first(options: Iterable[float | None]) -> float | None:
    return next((one for one in options if one is not None), None)
