"""Profiles made of other profiles: a function of mean profiles, with intervals from resampled prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.metrics import Metric
from depthsig.metrics.entries.asking import blamed
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES, bootstrap_counts
from depthsig.tables.samples import LABELS, Key, Samples, aggregate, aggs_of
from depthsig.tables.score_rows import resampled_means
from depthsig.terms import NONE

Made = tuple[Float[ndarray, "cell"], Float[ndarray, "cell"], Float[ndarray, "cell"], int]


def with_made(
    profiles: pd.DataFrame, samples: Samples, wanted: Iterable[Metric], plan: pd.DataFrame, aggs: Sequence[str],
    seed: int,
) -> pd.DataFrame:  # fmt: skip
    """``profiles.csv`` with the profiles that are made of others behind those that were measured.

    A function of means is made of means: a mean over prompts of what each would give by itself is another number.
    """
    frames = [] if profiles.empty else [profiles]
    for one in wanted:
        keys = [Key(name) for name in one.needs]
        if one.kind != "profile" or one.measured or any(k not in samples.values for k in keys):
            continue
        if not aggs_of(one, aggs):
            continue
        value, low, high, n = made_of([samples.values[k]["mean"] for k in keys], one, seed)
        frame = plan[list(LABELS)].reindex(range(len(value))).reset_index(drop=True)
        frames.append(frame.assign(
            metric=one.id, part=NONE, scope=NONE, agg="mean", axis=one.axis, index=np.arange(len(value)),
            value=value, ci_low=low, ci_high=high, n_prompts=n,
        ))  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def made_of(profiles: Sequence[Float[ndarray, "prompt cell"]], one: Metric, seed: int) -> Made:
    """(value, low, high, n) of every cell, by a paired percentile bootstrap: a resample draws whole prompts.

    Resamples in which a cell is undefined are left out of its percentiles.
    """
    assert one.function is not None, f"{one.id} was read from a file and cannot be computed"
    taking_part = ~np.all([np.isnan(p).all(-1) for p in profiles], axis=0)
    kept, n = [p[taking_part] for p in profiles], int(taking_part.sum())
    nothing = np.full(profiles[0].shape[1], np.nan)
    if not n:
        return nothing, nothing, nothing, 0
    with blamed(one.id, one.own):
        value = np.asarray(one.function(*(aggregate(p, "mean", None) for p in kept)), dtype=float)
    if n < MIN_PROMPTS:
        return value, nothing, nothing, n
    counts = bootstrap_counts(n, RESAMPLES, seed)
    with blamed(one.id, one.own):
        rows = np.asarray(one.function(*(resampled_means(p, counts) for p in kept)), dtype=float)
    low, high = nothing.copy(), nothing.copy()
    there = ~np.isnan(value) & ~np.isnan(rows).all(0)
    if there.any():
        low[there], high[there] = np.nanpercentile(rows[:, there], [2.5, 97.5], axis=0)
    return value, low, high, n
