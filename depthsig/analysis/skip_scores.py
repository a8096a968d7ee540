"""Scores of skip profiles: depth scores and the share of late steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.analysis.accumulate import Samples
from depthsig.analysis.scores import of_aggregate
from depthsig.analysis.tables import ordered, score_row
from depthsig.metrics.depth import depth_score, effect_profile, late_share, reaching_steps

Statistic = Callable[[Float[ndarray, "*batch cell"]], Float[ndarray, "*batch"]]


def skip_scores(samples: Samples, wanted: Iterable[str], steps: int, aggs: Sequence[str], seed: int) -> pd.DataFrame:
    """``depth_score.*`` and ``late_share`` of every part, scope and aggregation that was measured."""
    rows = []
    for name in [m for m in SCORES if m in set(wanted)]:
        source, _ = SCORES[name]
        for key in [k for k in ordered(samples.values) if k.metric == source]:
            statistic = score_statistic(name, steps, key.scope)
            for agg in aggs:
                value, low, high, n = _summary(samples.values[key], agg, statistic, seed)
                note = "no effect anywhere" if np.isnan(value) and n else ""
                rows.append(score_row(name, value, part=key.part, scope=key.scope, agg=agg, ci_low=low,
                                      ci_high=high, n_prompts=n, note=note))  # fmt: skip
    return pd.DataFrame(rows)


SCORES = {
    "depth_score.effect": ("skip.effect", "effect"),
    "depth_score.effect.relative": ("skip.effect", "effect"),
    "depth_score.output": ("skip.output_l2", "output"),
    "depth_score.output.relative": ("skip.output_l2", "output"),
    "late_share": ("skip.output_l2", "output"),
}
"""Each score with the metric it is computed from, and whether that holds effects or changes of output."""


def score_statistic(name: str, steps: int, scope: str) -> Statistic:
    """The score as a function of mean profiles (or flattened matrices), one or a batch of them.

    Args:
        name: one of :data:`SCORES`.
        steps: how many the model has.
    """
    kind = SCORES[name][1]
    n = reaching_steps(steps, kind, scope)

    def score(cells: Float[ndarray, "*batch cell"]) -> Float[ndarray, "*batch"]:
        if kind == "effect":
            effects = effect_profile(np.nan_to_num(cells).reshape(*cells.shape[:-1], steps, steps))
        else:
            effects = cells
        if name == "late_share":
            return late_share(effects, n)
        score = depth_score(effects)
        return score / max(n - 1, 1) if name.endswith(".relative") else score

    return score


def _summary(
    values: dict[str, Float[ndarray, "prompt *cell"]], agg: str, statistic: Statistic, seed: int
) -> tuple[float, float, float, int]:
    flat = values[agg].reshape(len(values[agg]), -1)
    return of_aggregate([flat], statistic, agg, "max", seed)
