"""Scores: one number from aggregated values of other entries, with an interval from resampled prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.errors import InputError
from depthsig.metrics import Metric, entry
from depthsig.metrics.entries.asking import blamed
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES, bootstrap_counts
from depthsig.tables.samples import Key, Samples, aggregate, aggs_of, ordered, score_row, summarise
from depthsig.terms import NONE

Statistic = Callable[..., Float[ndarray, "*batch"]]
"""Of one array a needed entry, its cells along the last axes and any number of rows before them."""


def statistic(score: Metric, steps: int, scope: str) -> Statistic:
    """A score as a function of mean profiles or matrices, one or a batch of them.

    Args:
        steps: how many the model has. scope: of what it is computed from.
    """
    assert score.function is not None, f"{score.id} was read from a file and cannot be computed"
    function, options = score.function, {}
    if "n" in score.asks():
        # The last step reaches no later step and no later position.
        reaches_less = scope == "future" or entry(score.needs[0]).kind == "matrix"
        options["n"] = steps - 1 if reaches_less else steps

    def computed(*values: Float[ndarray, "..."]) -> Float[ndarray, "*batch"]:
        with blamed(score.id, score.own):
            found = np.asarray(function(*((np.stack(values),) if score.stacked else values), **options), dtype=float)
        shape = values[0].shape[: values[0].ndim - len(entry(score.needs[0]).cells)]
        if found.shape != shape:
            raise InputError(
                f"metric {score.id!r} gives the shape {list(found.shape)}; {list(shape)} was expected, a number for "
                "every profile (or matrix) along the last axes of what it is given"
            )
        return found

    return computed


def interval(
    profiles: Sequence[Float[ndarray, "prompt *cell"]], of: Statistic, seed: int
) -> tuple[float, float, float, int]:
    """(value, low, high, n) of a statistic of mean profiles, by resampling prompts.

    Prompts without any value take no part. The statistic takes one [*batch, *cell] array a
    profile; resamples in which it is undefined are left out of the percentiles.
    """
    taking_part = _taking_part(profiles)
    kept = [p[taking_part] for p in profiles]
    n = int(taking_part.sum())
    if not n:
        return np.nan, np.nan, np.nan, 0
    value = float(of(*(aggregate(p, "mean", None) for p in kept)))
    if n < MIN_PROMPTS or np.isnan(value):
        return value, np.nan, np.nan, n
    counts = bootstrap_counts(n, RESAMPLES, seed)
    resampled = of(*(resampled_means(p, counts) for p in kept))
    if np.isnan(resampled).all():
        return value, np.nan, np.nan, n
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return value, float(low), float(high), n


def of_aggregate(
    profiles: Sequence[Float[ndarray, "prompt *cell"]], of: Statistic, agg: str, worst: str | None, seed: int
) -> tuple[float, float, float, int]:
    """(value, low, high, n) of a statistic of aggregated profiles; the worst case has no interval."""
    if agg == "mean":
        return interval(profiles, of, seed)
    n = int(_taking_part(profiles).sum())
    if not n:
        return np.nan, np.nan, np.nan, 0
    return float(of(*(aggregate(p, agg, worst) for p in profiles))), np.nan, np.nan, n


def _taking_part(profiles: Sequence[Float[ndarray, "prompt *cell"]]) -> ndarray:
    return ~np.all([np.isnan(p.reshape(len(p), -1)).all(-1) for p in profiles], axis=0)


def resampled_means(
    values: Float[ndarray, "prompt *cell"], counts: Float[ndarray, "resample prompt"]
) -> Float[ndarray, "resample *cell"]:
    """Means over prompts in every resample; a NaN takes no part in its cell."""
    flat = values.reshape(len(values), -1)
    defined = ~np.isnan(flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (counts @ np.where(defined, flat, 0.0)) / (counts @ defined.astype(float))
    return means.reshape(len(counts), *values.shape[1:])


def scores_table(
    samples: Samples, wanted: Iterable[Metric], steps: int, aggs: Sequence[str], seed: int
) -> pd.DataFrame:
    """Every score that was asked for, periods apart."""
    rows: list[dict[str, Any]] = []
    for one in wanted:
        if one.kind == "score" and one.on != "periods":
            rows += _measured(one, samples, aggs, seed) if one.measured else _made(one, samples, steps, aggs, seed)
    return pd.DataFrame(rows)


def _measured(one: Metric, samples: Samples, aggs: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """A score that tokens or prompts have values of: their average."""
    for key in ordered(k for k in samples.values if k.metric == one.id):
        for agg in aggs_of(one, aggs):
            values = samples.values[key][agg][:, None]
            value, low, high, n = (x[0] for x in summarise(values, one, agg, seed))
            row = _row(one, key, agg, (float(value), float(low), float(high), int(n)))
            yield row if n else {**row, "note": one.undefined}


def _made(one: Metric, samples: Samples, steps: int, aggs: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """A score that is made of other entries' values, for every part and scope that they have."""
    first = ordered(k for k in samples.values if k.metric == one.needs[0])
    if one.stacked:
        yield from _stacked(one, first, samples, steps, aggs, seed)
        return
    for key in first:
        keys = [_alike(name, key, samples) for name in one.needs]
        if any(k is None for k in keys):
            continue
        for agg in aggs:
            values = [samples.values[k][agg] for k in keys if k is not None]
            worst = entry(one.needs[0]).worst
            found = of_aggregate(values, statistic(one, steps, key.scope), agg, worst, seed)
            yield _row(one, key, agg, found)


def _alike(name: str, key: Key, samples: Samples) -> Key | None:
    """What is measured of another metric for the same part and scope, or for none in particular."""
    for candidate in (Key(name, key.part, key.scope), Key(name, key.part), Key(name)):
        if candidate in samples.values:
            return candidate
    return None


def _stacked(
    one: Metric, keys: Sequence[Key], samples: Samples, steps: int, aggs: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    """A score over all parts together; over the first alone, where the others are not known at every step."""
    needed = entry(one.needs[0])
    for agg in aggs if keys else ():
        have = list(keys)
        profiles = [samples.values[k][agg] for k in have]
        if any(np.isnan(p).all(0).any() for p in profiles[1:]):
            have, profiles = have[:1], profiles[:1]
        found = of_aggregate(profiles, statistic(one, steps, NONE), agg, needed.worst, seed)
        row = _row(one, Key(one.id), agg, found)
        known = [k.part for k in have]
        unknown = [part for part in needed.parts if part not in known]
        if unknown:
            said = f"{' and '.join(known)} part only: {' and '.join(unknown)} unknown"
            row["note"] = "; ".join(filter(None, [row["note"], said]))
        yield row


def _row(one: Metric, key: Key, agg: str, found: tuple[float, float, float, int]) -> dict[str, Any]:
    value, low, high, n = found
    note = one.undefined if np.isnan(value) and n else ""
    return score_row(
        one.id, value, part=key.part, scope=key.scope, agg=agg, ci_low=low, ci_high=high, n_prompts=n, note=note
    )
