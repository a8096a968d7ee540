"""Per-prompt values of every metric, for both aggregations, and the tables that are made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from depthsig.metrics import Metric, all_metrics, entry
from depthsig.statistics.resampling import bootstrap_mean
from depthsig.terms import AGGS, NONE, described

LABELS = ("layer", "iteration", "span", "block", "phase")


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

    @property
    def shapes(self) -> dict[Key, tuple[int, ...]]:
        """The shape of the values of everything that was added."""
        return {key: worst.shape for key, worst in self._worst.items()}

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


def aggs_of(one: Metric, asked: Sequence[str]) -> list[str]:
    """The aggregations written for a metric: those asked for that it has."""
    return [agg for agg in asked if agg == "mean" or one.worst is not None]


def summarise(
    values: Float[ndarray, "prompt *cell"], one: Metric, agg: str, seed: int, *, pooled: bool = False
) -> tuple[Float[ndarray, "cells"], Float[ndarray, "cells"], Float[ndarray, "cells"], Int[ndarray, "cells"]]:
    """(value, ci_low, ci_high, n_prompts) of every cell, flattened; what is pooled has no interval."""
    flat = values.reshape(len(values), -1)
    if agg == "mean" and not pooled:
        return bootstrap_mean(flat, seed=seed)
    empty = np.full(flat.shape[1], np.nan)
    return aggregate(flat, agg, one.worst), empty, empty, (~np.isnan(flat)).sum(0)


def profiles_table(
    samples: Samples, wanted: Iterable[str], plan: pd.DataFrame, aggs: Sequence[str], seed: int
) -> pd.DataFrame:
    """``profiles.csv``: one row a metric, part, scope, agg and index.

    Args:
        plan: the steps, one row each, with their labels.
    """
    # Labels of steps 0..S−1, and one empty row for depth S.
    labels = plan[list(LABELS)].reindex(range(len(plan) + 1))
    frames = []
    for key, one in _measured(samples, wanted, "profile"):
        for agg in aggs_of(one, aggs):
            pooled = key in samples.pooled
            value, low, high, n = summarise(samples.values[key][agg], one, agg, seed, pooled=pooled)
            frame = labels.iloc[: len(value)].reset_index(drop=True)
            frame = frame.assign(
                metric=key.metric, part=key.part, scope=key.scope, agg=agg, axis=one.axis,
                index=np.arange(len(value)), value=value, ci_low=low, ci_high=high,
                n_prompts=pd.array([samples.pooled[key]] * len(value) if pooled else n, dtype="Int64"),
            )  # fmt: skip
            frames.append(frame)
    return _concat(frames)


def matrices_table(samples: Samples, wanted: Iterable[str], aggs: Sequence[str], seed: int) -> pd.DataFrame:
    """``matrices.csv``: one row a defined cell."""
    frames = []
    for key, one in _measured(samples, wanted, "matrix"):
        for agg in aggs_of(one, aggs):
            values, pooled = samples.values[key][agg], key in samples.pooled
            value, low, high, n = summarise(values, one, agg, seed, pooled=pooled)
            rows, cols = cells(one, values.shape[1:])
            frame = pd.DataFrame({
                "metric": key.metric, "part": key.part, "scope": key.scope, "agg": agg, "row": rows, "col": cols,
                "value": value, "ci_low": low, "ci_high": high,
                "n_prompts": pd.array([samples.pooled[key]] * len(value) if pooled else n, dtype="Int64"),
            })  # fmt: skip
            kept = in_domain(one, rows, cols, values.shape[1])
            frames.append(frame[kept & (n > 0)] if one.domain == "later, where run" else frame[kept])
    return _concat(frames)


def cells(one: Metric, shape: tuple[int, ...]) -> tuple[Int[ndarray, "cells"], Int[ndarray, "cells"]]:
    """Row and column of every cell of a flattened matrix, as its tables number them."""
    rows, cols = np.indices(shape)
    return rows.ravel(), cols.ravel() + one.first_col


def in_domain(
    one: Metric, rows: Int[ndarray, "cells"], cols: Int[ndarray, "cells"], height: int
) -> Bool[ndarray, "cells"]:
    """Which cells a metric has at all; others are not written."""
    if one.domain.startswith("later"):
        return cols > rows
    if one.domain == "within":
        return rows + cols <= height
    if one.domain == "from row 1":
        return rows >= 1
    if one.domain == "last row":
        return rows == height - 1
    return np.ones(len(rows), dtype=bool)


def samples_table(samples: Samples, wanted: Iterable[str]) -> pd.DataFrame:
    """``samples.parquet``: the per-prompt values behind every interval, for both aggregations."""
    frames = []
    for key, one in _measured(samples, wanted, "profile", "matrix", "score"):
        if key not in samples.pooled:
            frames += [_sample_frame(key, one, agg, samples.values[key][agg]) for agg in aggs_of(one, AGGS)]
    return _concat(frames)


def _sample_frame(key: Key, one: Metric, agg: str, values: Float[ndarray, "prompt *cell"]) -> pd.DataFrame:
    flat = values.reshape(len(values), -1)
    prompt, cell = np.indices(flat.shape)
    none = pd.array([pd.NA] * flat.size, dtype="Int64")
    frame = pd.DataFrame({
        "metric": key.metric, "part": key.part, "scope": key.scope, "agg": agg,
        "axis": one.axis if one.kind == "profile" else "", "prompt": prompt.ravel(), "index": none, "row": none,
        "col": none, "value": flat.ravel(),
    })  # fmt: skip
    if one.kind == "profile":
        frame["index"] = pd.array(cell.ravel(), dtype="Int64")
    if one.kind == "matrix":
        rows, cols = (x[cell.ravel()] for x in cells(one, values.shape[1:]))
        frame["row"], frame["col"] = pd.array(rows, dtype="Int64"), pd.array(cols, dtype="Int64")
        frame = frame[in_domain(one, rows, cols, values.shape[1])]
    return frame[frame["value"].notna()]


def score_row(name: str, value: float, **columns: Any) -> dict[str, Any]:
    """One row of ``scores.csv``, with what is not given left empty."""
    row: dict[str, Any] = {
        "score": name, "metric": NONE, "part": NONE, "scope": NONE, "agg": "mean", "value": value,
        "ci_low": np.nan, "ci_high": np.nan, "p_value": np.nan, "n_prompts": pd.NA, "null": "", "note": "",
    }  # fmt: skip
    return {**row, **columns}


def ordered(keys: Iterable[Key], entries: Mapping[str, Metric] | None = None) -> list[Key]:
    """Keys in the registry's order of metrics, parts and scopes, whatever was measured first."""
    known = all_metrics() if entries is None else entries
    place = {name: number for number, name in enumerate(known)}

    def at(key: Key) -> tuple[int, int, int]:
        one = known[key.metric]
        return place[key.metric], _index(key.part, one.parts), _index(key.scope, one.scopes)

    return sorted(keys, key=at)


def _index(value: str, known: Sequence[str]) -> int:
    return known.index(value) if value in known else len(known)


def _measured(samples: Samples, wanted: Iterable[str], *kinds: str) -> list[tuple[Key, Metric]]:
    names = set(wanted)
    found = [(key, entry(key.metric)) for key in ordered(samples.values) if key.metric in names]
    return [(key, one) for key, one in found if one.kind in kinds]


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
