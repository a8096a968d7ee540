"""Per-prompt values of every metric, for both aggregations: what tables and intervals are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from depthsig.metrics import entry
from depthsig.terms import NONE, described


@dataclass(frozen=True)
class Key:
    """One measured quantity: a metric with its part and scope."""

    metric: str
    part: str = NONE
    scope: str = NONE

    def __str__(self) -> str:
        rest = described(self.part, self.scope)
        return f"{self.metric} ({rest})" if rest else self.metric


@dataclass
class _Cut:
    """Running sums over the measured positions of one cut, per prompt and cell."""

    sums: Float[ndarray, "prompt *cell"]
    counts: Int[ndarray, "prompt *cell"]


@dataclass
class Samples:
    """Values per prompt, ``values[key][agg]`` of shape [prompt, *cells]; NaN where undefined.

    Positions are averaged within a cut and cuts within a prompt (``mean``), or the extreme over
    all of them is taken (``max``). Only sums are kept, so it does not matter in how many pieces,
    or in which order, the tokens of a cut come in.
    """

    n_prompts: int
    pooled: dict[Key, int | None] = field(default_factory=dict)
    """What has no values a prompt, with the number of prompts that it was computed from, None for none."""
    _cuts: dict[Key, dict[int, _Cut]] = field(default_factory=dict)
    _worst: dict[Key, Float[ndarray, "prompt *cell"]] = field(default_factory=dict)
    _finished: dict[Key, dict[str, Float[ndarray, "prompt *cell"]]] = field(default_factory=dict)

    @property
    def values(self) -> dict[Key, dict[str, Float[ndarray, "prompt *cell"]]]:
        """Per-prompt values by key and aggregation, of everything that was added."""
        for key in self._cuts.keys() - self._finished.keys():
            self._finished[key] = {"mean": self._mean(key), "max": self._worst[key]}
        return {key: self._finished[key] for key in self._cuts}

    def add(
        self, key: Key, values: Float[ndarray, "token *cell"], prompts: Int[ndarray, "token"], cut: int = 0
    ) -> None:
        """Add values at tokens of the given prompts; a prompt's tokens stand together.

        Args:
            cut: which cut of its prompt they belong to; 0 where there is none.
        """
        values = np.asarray(values, dtype=float)
        if not len(values):
            return
        starts = np.flatnonzero(np.r_[True, prompts[1:] != prompts[:-1]])
        rows = prompts[starts]
        defined = ~np.isnan(values)
        counts = np.add.reduceat(defined, starts, axis=0, dtype=np.int64)
        sums = np.add.reduceat(np.where(defined, values, 0.0), starts, axis=0)
        self.add_sums(key, rows, sums, counts, _extreme(key).reduceat(values, starts, axis=0), cut)

    def add_sums(
        self,
        key: Key,
        rows: Int[ndarray, "row"],
        sums: Float[ndarray, "row *cell"],
        counts: Int[ndarray, "row *cell"],
        worst: Float[ndarray, "row *cell"],
        cut: int = 0,
    ) -> None:
        """Add what was already summed over positions of one cut, a row a prompt, with the extremes."""
        into = self._cut(key, cut, sums.shape[1:])
        into.counts[rows] += counts
        into.sums[rows] += sums
        self._worst[key][rows] = _extreme(key)(self._worst[key][rows], worst)

    def state(self) -> dict[str, ndarray]:
        """Everything, as arrays by name, of the prompts that have any value."""
        names, arrays = [], {}
        for number, (key, cuts) in enumerate(self._cuts.items()):
            names.append([key.metric, key.part, key.scope, *cuts])
            rows = np.flatnonzero(sum(c.counts.reshape(self.n_prompts, -1).sum(1) for c in cuts.values()))
            arrays[f"{number}.rows"], arrays[f"{number}.worst"] = rows, self._worst[key][rows]
            for cut, values in cuts.items():
                arrays[f"{number}.{cut}.sums"], arrays[f"{number}.{cut}.counts"] = (
                    values.sums[rows],
                    values.counts[rows],
                )
        return {"names": np.array(json.dumps(names)), **arrays}

    def absorb(self, state: Mapping[str, ndarray]) -> None:
        """Add what :meth:`state` gave."""
        for number, (name, part, scope, *cuts) in enumerate(json.loads(str(state["names"]))):
            key, rows = Key(name, part, scope), state[f"{number}.rows"]
            for cut in cuts:
                sums, counts = state[f"{number}.{cut}.sums"], state[f"{number}.{cut}.counts"]
                self.add_sums(key, rows, sums, counts, state[f"{number}.worst"], int(cut))

    def put(self, key: Key, prompt: int, values: Float[ndarray, "*cell"]) -> None:
        """Set one prompt's values as they are, without positions to reduce."""
        self.add(key, np.asarray(values, dtype=float)[None], np.array([prompt]))

    def put_pooled(self, key: Key, n: int | None, values: Float[ndarray, "*cell"]) -> None:
        """Set values that were computed from ``n`` prompts together, or (None) from no prompt at all."""
        self.put(key, 0, values)
        self.pooled[key] = n

    def _cut(self, key: Key, cut: int, cell: tuple[int, ...]) -> _Cut:
        shape = (self.n_prompts, *cell)
        cuts = self._cuts.setdefault(key, {})
        if cut not in cuts:
            cuts[cut] = _Cut(np.zeros(shape), np.zeros(shape, dtype=np.int64))
        if key not in self._worst:
            self._worst[key] = np.full(shape, np.nan)
        self._finished.pop(key, None)
        return cuts[cut]

    def _mean(self, key: Key) -> Float[ndarray, "prompt *cell"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.stack([cut.sums / cut.counts for cut in self._cuts[key].values()])
        return aggregate(means, "mean", None)


def _extreme(key: Key) -> np.ufunc:
    return np.fmin if entry(key.metric).worst == "min" else np.fmax


def aggregate(values: Float[ndarray, "prompt *cell"], agg: str, worst: str | None) -> ndarray:
    """Over prompts: the unweighted mean, or the extreme; NaN where no prompt has a value."""
    if agg == "mean":
        defined = ~np.isnan(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(defined, values, 0.0).sum(0) / defined.sum(0)
    return (np.fmin if worst == "min" else np.fmax).reduce(values, axis=0)
