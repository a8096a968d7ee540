"""Per-prompt values of every metric, for both aggregations: what tables and intervals are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from depthsig.metrics.registry import metric

AGGS = ("mean", "max")


@dataclass(frozen=True)
class Key:
    """One measured quantity: a metric with its part and scope."""

    metric: str
    part: str = ""
    scope: str = ""


@dataclass
class Samples:
    """Values per prompt, ``values[key][agg]`` of shape [prompt, *cell]; NaN where undefined.

    Positions are averaged within a cut and cuts within a prompt (``mean``), or the extreme over
    all of them is taken (``max``), as values come in; nothing per position is kept.
    """

    n_prompts: int
    values: dict[Key, dict[str, Float[ndarray, prompt * cell]]] = field(default_factory=dict)
    _cuts: dict[Key, Int[ndarray, prompt * cell]] = field(default_factory=dict)

    def add(self, key: Key, values: Float[ndarray, token * cell], prompts: Int[ndarray, token]) -> None:
        """Add one cut's values at tokens of the given prompts; a prompt's tokens stand together."""
        values = np.asarray(values, dtype=float)
        if not len(values):
            return
        starts = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]])
        rows = prompts[starts]
        defined = ~np.isnan(values)
        counts = np.add.reduceat(defined, starts, axis=0, dtype=np.int64)
        sums = np.add.reduceat(np.where(defined, values, 0.0), starts, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums / counts
        extreme = np.fmin if metric(key.metric).worst == "min" else np.fmax
        self._merge(key, rows, means, extreme.reduceat(values, starts, axis=0), extreme)

    def put(self, key: Key, prompt: int, values: Float[ndarray, "*cell"]) -> None:
        """Set one prompt's values as they are, without positions to reduce."""
        values = np.asarray(values, dtype=float)[None]
        self._merge(key, np.array([prompt]), values, values, np.fmax)

    def _merge(self, key: Key, rows: Int[ndarray, row], means: ndarray, worst: ndarray, extreme: np.ufunc) -> None:
        if key not in self.values:
            shape = (self.n_prompts, *means.shape[1:])
            self.values[key] = {agg: np.full(shape, np.nan) for agg in AGGS}
            self._cuts[key] = np.zeros(shape, dtype=np.int64)
        store, cuts = self.values[key], self._cuts[key]
        defined = ~np.isnan(means)
        total = np.nan_to_num(store["mean"][rows]) * cuts[rows] + np.nan_to_num(means)
        cuts[rows] += defined
        with np.errstate(invalid="ignore", divide="ignore"):
            store["mean"][rows] = total / cuts[rows]
        store["max"][rows] = extreme(store["max"][rows], worst)


def aggregate(values: Float[ndarray, prompt * cell], agg: str, worst: str | None) -> ndarray:
    """Over prompts: the unweighted mean, or the extreme; NaN where no prompt has a value."""
    if agg == "mean":
        defined = ~np.isnan(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(defined, values, 0.0).sum(0) / defined.sum(0)
    return (np.fmin if worst == "min" else np.fmax).reduce(values, axis=0)
