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
            profile = samples.values[Key(source)]["mean"]
            rows.append(_row(name, *interval([profile], statistic, seed)))
    if "effective_depth.cosine" in wanted:
        rows += _effective_cosine(samples, seed)
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
        row = _row("settling_depth", float(value[0]), float(low[0]), float(high[0]), int(n[0]))
        rows.append({**row, "agg": agg})
    return rows


def _effective_cosine(samples: Samples, seed: int) -> list[dict]:
    keys = [Key("contribution.cosine", part) for part in ("layer", "attn", "mlp")]
    have = [k for k in keys if k in samples.values]
    if not have:
        return []
    profiles = [samples.values[k]["mean"] for k in have]
    if any(np.isnan(p).all(0).any() for p in profiles[1:]):
        have, profiles = have[:1], profiles[:1]

    def statistic(*cosines: Float[ndarray, "*batch step"]) -> Float[ndarray, "*batch"]:
        return contribution.effective_depth_cosine(np.stack(cosines))

    row = _row("effective_depth.cosine", *interval(profiles, statistic, seed))
    if len(have) < 3:
        row["note"] = "; ".join(filter(None, [row["note"], "layer part only: attn and mlp unknown"]))
    return [row]


def _row(name: str, value: float, low: float, high: float, n: int) -> dict:
    note = "never reached" if np.isnan(value) and n else ""
    return score_row(name, value, ci_low=low, ci_high=high, n_prompts=n, note=note)
