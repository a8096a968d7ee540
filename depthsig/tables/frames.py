"""From per-prompt samples to the tables of a signature: labels and intervals are put on here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from depthsig.metrics import Metric, all_metrics, entry
from depthsig.statistics.resampling import bootstrap_mean
from depthsig.tables.samples import Key, Samples, aggregate
from depthsig.terms import AGGS, NONE

LABELS = ("layer", "iteration", "span", "block", "phase")


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
            value, low, high, n = summarise(samples.values[key][agg], one, agg, seed)
            frame = labels.iloc[: len(value)].reset_index(drop=True)
            frame = frame.assign(
                metric=key.metric, part=key.part, scope=key.scope, agg=agg, axis=one.axis,
                index=np.arange(len(value)), value=value, ci_low=low, ci_high=high, n_prompts=n,
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
