"""What rules read of a signature: scores, mean profiles, and statistics on resampled prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.findings.finding import LEVEL, Estimate, Unjudged
from depthsig.signature import Signature
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES, bootstrap_counts
from depthsig.terms import NONE

Statistic = Callable[..., Float[ndarray, "row *number"]]
"""Of mean profiles [row, cell], a number (or several) a row."""


class Evidence:
    """One signature, asked by rules.

    What there is not raises :class:`~depthsig.findings.finding.Unjudged` with the reason.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.info = signature.info
        self.steps = len(self.info.get("plan", []))

    @property
    def seed(self) -> int:
        """Of resampling, as for the tables."""
        return int(self.info.get("seed") or 0)

    def score(self, name: str, metric: str = NONE, part: str = NONE, scope: str = NONE) -> Estimate:
        """A score over mean values, with its interval."""
        row = self.score_row(name, metric, part, scope)
        if row is None:
            raise Unjudged(name, f"{name} was not measured (--metrics {self._option(name)} does)")
        found = Estimate(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))
        if np.isnan(found.value):
            raise Unjudged(name, f"{name} is undefined ({row['note'] or 'no value'})")
        return found

    def score_row(self, name: str, metric: str = NONE, part: str = NONE, scope: str = NONE) -> dict[str, Any] | None:
        """The row of the table of scores, or None."""
        return self._scores.get((name, metric, part, scope))

    def layer_of(self, step: int) -> str:
        """A step, with its layer where that is not the same number."""
        layer = int(self.info["plan"][step]["layer"])
        return f"step {step}" if layer == step else f"step {step} (layer {layer})"

    @cached_property
    def _scores(self) -> dict[tuple[str, ...], dict[str, Any]]:
        rows: list[dict[str, Any]] = self.signature.scores[self.signature.scores["agg"] == "mean"].to_dict("records")
        columns = ("score", "metric", "part", "scope")
        return {tuple(str(row[c]) for c in columns): row for row in reversed(rows)}  # of several, the first

    @cached_property
    def _samples(self) -> dict[tuple[str, ...], pd.DataFrame]:
        table = self.signature.samples_table
        groups = table[table["agg"] == "mean"].groupby(["metric", "part", "scope"], sort=False)
        return {tuple(map(str, key)): rows for key, rows in groups}

    def has(self, *metrics: str) -> bool:
        """Whether all of these have values a prompt, of any part and scope."""
        return set(metrics) <= {name for name, _, _ in self._samples}

    def per_prompt(self, metric: str, part: str = NONE, scope: str = NONE) -> Float[ndarray, "prompt *cell"]:
        """Values of a profile [prompt, cell] or matrix [prompt, row, col]; NaN where undefined."""
        rows = self._samples.get((metric, part, scope))
        if rows is None:
            raise Unjudged(metric, f"{metric} was not measured (--metrics {self._option(metric)} does)")
        columns = ["index"] if rows["index"].notna().any() else ["row", "col"]
        index = [rows[c].to_numpy(int) for c in columns]
        prompts, number = np.unique(rows["prompt"].to_numpy(int), return_inverse=True)
        values = np.full((len(prompts), *(int(i.max()) + 1 for i in index)), np.nan)
        values[(number, *index)] = rows["value"].to_numpy(float)
        return values

    def resampled(self, of: Statistic, *profiles: Float[ndarray, "prompt *cell"]) -> Float[ndarray, "row *number"]:
        """A statistic of mean profiles: of all prompts first, then of every resample of them; alone if they are few."""
        n = len(profiles[0])
        counts = np.ones((1, n))
        if n >= MIN_PROMPTS:
            counts = np.concatenate([counts, bootstrap_counts(n, RESAMPLES, self.seed)])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(of(*(_means(p, counts) for p in profiles)), dtype=float)

    def estimate(self, of: Statistic, *profiles: Float[ndarray, "prompt *cell"]) -> Estimate:
        """The same, as a number with an interval of 95 %."""
        return interval(self.resampled(of, *profiles))

    def _option(self, name: str) -> str:
        known = self.signature.entries.get(name)
        return known.groups[0] if known is not None and known.groups else name


def interval(rows: Float[ndarray, "row"], level: float = LEVEL) -> Estimate:
    """The first of rows, with the percentile interval of the others; resamples in which it is undefined are left out.

    >>> interval(np.array([2.0, 1.0, 2.0, 3.0]), level=0.5)
    Estimate(value=2.0, low=1.5, high=2.5)
    """
    defined = rows[1:][np.isfinite(rows[1:])]
    if not len(defined) or not np.isfinite(rows[0]):
        return Estimate(float(rows[0]))
    low, high = np.percentile(defined, [50 * level, 100 - 50 * level])
    return Estimate(float(rows[0]), float(low), float(high))


def average(values: Float[ndarray, "*batch cell"]) -> Float[ndarray, "*batch"]:
    """The mean over the last axis of what is defined; NaN where nothing is.

    >>> average(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])).tolist()
    [2.0, nan]
    """
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0.0).sum(-1) / defined.sum(-1))


def _means(values: Float[ndarray, "prompt *cell"], counts: Float[ndarray, "row prompt"]) -> Float[ndarray, "row *cell"]:
    flat = values.reshape(len(values), -1)
    defined = ~np.isnan(flat)
    means = (counts @ np.where(defined, flat, 0.0)) / (counts @ defined.astype(float))
    return means.reshape(len(counts), *values.shape[1:])
