"""Scores: one number from an aggregated profile, with an interval from resampled prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.analysis.accumulate import Key, Samples, aggregate
from depthsig.analysis.tables import score_row, summarise
from depthsig.metrics import contribution, lens
from depthsig.metrics.registry import metric
from depthsig.statistics.resampling import bootstrap_indices

MIN_PROMPTS = 5
RESAMPLES = 1000

Statistic = Callable[[Float[ndarray, "*batch cell"]], Float[ndarray, "*batch"]]


def interval(
    profiles: Sequence[Float[ndarray, "prompt cell"]],
    statistic: Callable[..., Float[ndarray, "*batch"]],
    seed: int,
) -> tuple[float, float, float, int]:
    """(value, low, high, n) of a statistic of mean profiles, by resampling prompts.

    Prompts without any value take no part. The statistic takes one [*batch, cell] array a
    profile; resamples in which it is undefined are left out of the percentiles.
    """
    taking_part = ~np.all([np.isnan(p).all(-1) for p in profiles], axis=0)
    kept = [p[taking_part] for p in profiles]
    n = int(taking_part.sum())
    if not n:
        return np.nan, np.nan, np.nan, 0
    value = float(statistic(*(aggregate(p, "mean", None) for p in kept)))
    if n < MIN_PROMPTS or np.isnan(value):
        return value, np.nan, np.nan, n
    indices = bootstrap_indices(n, RESAMPLES, seed)
    counts = np.stack([np.bincount(row, minlength=n) for row in indices]).astype(float)
    resampled = statistic(*(_resampled_means(p, counts) for p in kept))
    if np.isnan(resampled).all():
        return value, np.nan, np.nan, n
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return value, float(low), float(high), n


def of_aggregate(
    profiles: Sequence[Float[ndarray, "prompt cell"]],
    statistic: Callable[..., Float[ndarray, "*batch"]],
    agg: str,
    worst: str | None,
    seed: int,
) -> tuple[float, float, float, int]:
    """(value, low, high, n) of a statistic of aggregated profiles; the worst case has no interval."""
    if agg == "mean":
        return interval(profiles, statistic, seed)
    n = int((~np.all([np.isnan(p).all(-1) for p in profiles], axis=0)).sum())
    if not n:
        return np.nan, np.nan, np.nan, 0
    return float(statistic(*(aggregate(p, agg, worst) for p in profiles))), np.nan, np.nan, n


def _resampled_means(
    values: Float[ndarray, "prompt cell"], counts: Float[ndarray, "resample prompt"]
) -> Float[ndarray, "resample cell"]:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts @ np.where(defined, values, 0.0)) / (counts @ defined.astype(float))


def clean_scores(samples: Samples, wanted: Iterable[str], aggs: Sequence[str], seed: int) -> pd.DataFrame:
    """``settling_depth`` and ``effective_depth.*``, as far as they were asked for."""
    wanted, rows = set(wanted), []
    if "settling_depth" in wanted and Key("settling_depth") in samples.values:
        rows += _settling(samples, aggs, seed)
    for name, source, statistic in (
        ("effective_depth.kl", "lens.kl", lens.effective_depth_kl),
        ("effective_depth.overlap", "lens.overlap5", lens.effective_depth_overlap),
    ):
        if name in wanted and Key(source) in samples.values:
            for agg in aggs:
                profile = samples.values[Key(source)][agg]
                rows.append(_row(name, *of_aggregate([profile], statistic, agg, metric(source).worst, seed), agg))
    if "effective_depth.cosine" in wanted:
        rows += [row for agg in aggs for row in _effective_cosine(samples, agg, seed)]
    return pd.DataFrame(rows)


def prompt_mean(samples: Samples, wanted: Iterable[str], name: str, seed: int) -> pd.DataFrame:
    """A score that every prompt has a value of: its mean over prompts."""
    if name not in set(wanted) or Key(name) not in samples.values:
        return pd.DataFrame()
    values = samples.values[Key(name)]["mean"][:, None]
    return pd.DataFrame([_row(name, *interval([values], lambda x: x[..., 0], seed))])


def _settling(samples: Samples, aggs: Sequence[str], seed: int) -> list[dict]:
    values = samples.values[Key("settling_depth")]
    rows = []
    for agg in aggs:
        flat = {a: v[:, None] for a, v in values.items()}
        value, low, high, n = summarise(flat, metric("settling_depth"), agg, seed)
        rows.append(_row("settling_depth", float(value[0]), float(low[0]), float(high[0]), int(n[0]), agg))
    return rows


def _effective_cosine(samples: Samples, agg: str, seed: int) -> list[dict]:
    keys = [Key("contribution.cosine", part) for part in ("layer", "attn", "mlp")]
    have = [k for k in keys if k in samples.values]
    if not have:
        return []
    profiles = [samples.values[k][agg] for k in have]
    if any(np.isnan(p).all(0).any() for p in profiles[1:]):
        have, profiles = have[:1], profiles[:1]

    def statistic(*cosines: Float[ndarray, "*batch step"]) -> Float[ndarray, "*batch"]:
        return contribution.effective_depth_cosine(np.stack(cosines))

    worst = metric("contribution.cosine").worst
    row = _row("effective_depth.cosine", *of_aggregate(profiles, statistic, agg, worst, seed), agg)
    if len(have) < 3:
        row["note"] = "; ".join(filter(None, [row["note"], "layer part only: attn and mlp unknown"]))
    return [row]


def _row(name: str, value: float, low: float, high: float, n: int, agg: str = "mean") -> dict:
    note = "never reached" if np.isnan(value) and n else ""
    return score_row(name, value, agg=agg, ci_low=low, ci_high=high, n_prompts=n, note=note)
