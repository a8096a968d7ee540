"""From per-prompt samples to the tables of a signature: labels and intervals are put on here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.analysis.accumulate import AGGS, Key, Samples, aggregate
from depthsig.metrics.registry import Metric, all_metrics, metric
from depthsig.plan.plan import Plan
from depthsig.statistics.resampling import bootstrap_mean

LABELS = ("layer", "iteration", "span", "block", "phase")


def aggs_of(entry: Metric, asked: Sequence[str]) -> list[str]:
    """The aggregations written for a metric: those asked for that it has."""
    return [agg for agg in asked if agg == "mean" or entry.worst is not None]


def summarise(
    values: dict[str, Float[ndarray, "prompt *cell"]], entry: Metric, agg: str, seed: int
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """(value, ci_low, ci_high, n_prompts) of every cell, flattened."""
    flat = values[agg].reshape(len(values[agg]), -1)
    n = (~np.isnan(flat)).sum(0)
    if agg == "mean" and entry.id != "residual.cka":
        value, low, high, _ = bootstrap_mean(flat, seed=seed)
        return value, low, high, n
    empty = np.full(flat.shape[1], np.nan)
    return aggregate(flat, agg, entry.worst), empty, empty, n


def profiles_table(samples: Samples, wanted: Iterable[str], plan: Plan, aggs: Sequence[str], seed: int) -> pd.DataFrame:
    """``profiles.csv``: one row a metric, part, scope, agg and index."""
    labels = plan_labels(plan)
    frames = []
    for key in _keys(samples, wanted, "profile"):
        entry = metric(key.metric)
        for agg in aggs_of(entry, aggs):
            value, low, high, n = summarise(samples.values[key], entry, agg, seed)
            size = len(plan) + (entry.axis == "depth")
            frame = labels.iloc[:size].reset_index(drop=True)
            frame = frame.assign(
                metric=key.metric, part=key.part, scope=key.scope, agg=agg, axis=entry.axis,
                index=np.arange(size), value=value, ci_low=low, ci_high=high, n_prompts=n,
            )  # fmt: skip
            frames.append(frame)
    return _concat(frames)


def plan_labels(plan: Plan) -> pd.DataFrame:
    """Labels of steps 0..S-1, and one empty row for depth S."""
    frame = plan.frame()[list(LABELS)]
    return frame.reindex(range(len(plan) + 1))


def matrices_table(samples: Samples, wanted: Iterable[str], aggs: Sequence[str], seed: int) -> pd.DataFrame:
    """``matrices.csv``: one row a defined cell."""
    frames = []
    for key in _keys(samples, wanted, "matrix"):
        entry = metric(key.metric)
        for agg in aggs_of(entry, aggs):
            values = samples.values[key]
            value, low, high, n = summarise(values, entry, agg, seed)
            if key in samples.pooled:
                n = pd.array([samples.pooled[key]] * len(value), dtype="Int64")
            rows, cols = cells(key.metric, values[agg].shape[1:])
            frame = pd.DataFrame({
                "metric": key.metric, "part": key.part, "scope": key.scope, "agg": agg,
                "row": rows, "col": cols, "value": value, "ci_low": low, "ci_high": high, "n_prompts": n,
            })  # fmt: skip
            kept = in_domain(key.metric, frame, values[agg].shape[1:])
            if key.metric == "repeat.loss":
                kept &= frame["n_prompts"] > 0  # spans that were not run
            frames.append(frame[kept])
    return _concat(frames)


def cells(name: str, shape: tuple[int, ...]) -> tuple[ndarray, ndarray]:
    """Row and column of every cell of a flattened matrix; n counts from 1, and so does an exclusive end."""
    rows, cols = np.indices(shape)
    return rows.ravel(), cols.ravel() + (name in ("residual.angular", "repeat.loss"))


def in_domain(name: str, frame: pd.DataFrame, shape: tuple[int, ...]) -> pd.Series:
    """Which cells a metric has at all; others are not written."""
    if name == "residual.angular":
        return frame["row"] + frame["col"] <= shape[0]
    if name in ("skip.effect", "local.effect", "repeat.loss"):
        return frame["col"] > frame["row"]
    if name in ("loop.turn_cosine", "loop.acceleration"):
        return frame["row"] >= 1
    if name == "loop.fixed_point_gap":
        return frame["row"] == shape[0] - 1
    return pd.Series(True, index=frame.index)


def samples_table(samples: Samples, wanted: Iterable[str]) -> pd.DataFrame:
    """``samples.parquet``: the per-prompt values behind every interval."""
    frames = []
    for key in ordered(samples.values):
        entry = metric(key.metric)
        if key.metric not in set(wanted) or entry.kind == "token" or key in samples.pooled:
            continue
        for agg in aggs_of(entry, AGGS):
            frames.append(_sample_frame(key, entry, agg, samples.values[key][agg]))
    return _concat(frames)


def _sample_frame(key: Key, entry: Metric, agg: str, values: Float[ndarray, "prompt *cell"]) -> pd.DataFrame:
    flat = values.reshape(len(values), -1)
    prompt, cell = np.indices(flat.shape)
    frame = pd.DataFrame({
        "metric": key.metric, "part": key.part, "scope": key.scope, "agg": agg, "axis": entry.axis,
        "prompt": prompt.ravel(), "index": pd.array([pd.NA] * flat.size, dtype="Int64"),
        "row": pd.array([pd.NA] * flat.size, dtype="Int64"),
        "col": pd.array([pd.NA] * flat.size, dtype="Int64"), "value": flat.ravel(),
    })  # fmt: skip
    if values.ndim == 2 and entry.kind == "profile":
        frame["index"] = pd.array(cell.ravel(), dtype="Int64")
    if values.ndim == 3:
        rows, cols = cells(key.metric, values.shape[1:])
        frame["row"] = pd.array(rows[cell.ravel()], dtype="Int64")
        frame["col"] = pd.array(cols[cell.ravel()], dtype="Int64")
        frame = frame[in_domain(key.metric, frame, values.shape[1:])]
    return frame[frame["value"].notna()]


def score_row(name: str, value: float, **columns: Any) -> dict[str, Any]:
    """One row of ``scores.csv``, with what is not given left empty."""
    row: dict[str, Any] = {
        "score": name, "metric": "", "part": "", "scope": "", "agg": "mean", "value": value,
        "ci_low": np.nan, "ci_high": np.nan, "p_value": np.nan, "n_prompts": pd.NA, "null": "", "note": "",
    }  # fmt: skip
    return {**row, **columns}


def _keys(samples: Samples, wanted: Iterable[str], kind: str) -> list[Key]:
    names = set(wanted)
    return [k for k in ordered(samples.values) if k.metric in names and metric(k.metric).kind == kind]


def ordered(keys: Iterable[Key]) -> list[Key]:
    """Keys in the registry's order of metrics, parts and scopes, whatever was measured first."""

    def place(key: Key) -> tuple[int, int, int]:
        entry = metric(key.metric)
        part = entry.parts.index(key.part) if key.part in entry.parts else len(entry.parts)
        scope = entry.scopes.index(key.scope) if key.scope in entry.scopes else len(entry.scopes)
        return list(all_metrics()).index(key.metric), part, scope

    return sorted(keys, key=place)


def _concat(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
