"""Which span is worth repeating, and does the signature know? Rank correlation over spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy.stats import spearmanr

from depthsig.analysis.repeat_task import Scores
from depthsig.plan.plan import Plan
from depthsig.signature import Signature
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES, bootstrap_counts

METRICS = (
    "skip.output_l2", "skip.loss", "contribution.cosine", "contribution.relative", "residual.block_influence",
    "residual.angular",
)  # fmt: skip
"""What the predictors are made of."""

_SOURCES = {
    "skip_effect": "mean skip.output_l2 of the span's layers",
    "skip_loss": "mean skip.loss of the span's layers",
    "cosine": "mean contribution.cosine (layer) of the span's layers",
    "relative": "mean contribution.relative (layer) of the span's layers",
    "block_influence": "mean residual.block_influence of the span's layers",
    "angular": "residual.angular from the span's start to its end",
    "borders": "how many of the span's two ends are borders of a declared, observed or found block",
    "length": "layers in the span",
}


def predictors(signature: Signature, plan: Plan, spans: Sequence[tuple[int, int]]) -> dict[str, ndarray]:
    """For every predictor its value at every span; those whose metrics are missing are left out."""
    found: dict[str, ndarray] = {}
    profiles = {
        "skip_effect": "skip.output_l2", "skip_loss": "skip.loss", "cosine": "contribution.cosine",
        "relative": "contribution.relative", "block_influence": "residual.block_influence",
    }  # fmt: skip
    have = set(signature.profiles["metric"])
    at = [_steps(plan, span) for span in spans]
    for name, metric in profiles.items():
        if metric in have:
            values = signature.profile(metric)["value"].to_numpy(dtype=float)
            found[name] = np.array([values[steps].mean() for steps in at])
    if "residual.angular" in set(signature.matrices["metric"]):
        matrix = signature.matrix("residual.angular")
        found["angular"] = np.array([matrix.loc[s[0], b - a] for s, (a, b) in zip(at, spans, strict=True)])
    edges = borders(signature, plan)
    if edges:
        found["borders"] = np.array([float((a in edges) + (b in edges)) for a, b in spans])
    found["length"] = np.array([float(b - a) for a, b in spans])
    return found


def _steps(plan: Plan, span: tuple[int, int]) -> list[int]:
    return [s.step for s in plan if span[0] <= s.layer < span[1]]


def borders(signature: Signature, plan: Plan) -> set[int]:
    """Borders of blocks, in layers: of the plan's spans, and of those found blindly in the signature."""
    edges: set[int] = set()
    for span in plan.spans:
        for at in range(span.start, span.end + 1, span.size):
            edges.add(plan[at].layer if at < len(plan) else plan[len(plan) - 1].layer + 1)
    for block in signature.info.get("spans", {}).get("found", []):
        edges.update(block["start"] + i * block["size"] for i in range(block["count"] + 1))
    return edges


def prediction_table(scores: Scores, signature: Signature, plan: Plan, *, times: int, damping: float) -> pd.DataFrame:
    """Spearman's ρ between each predictor and the loss change of repeating a span.

    ρ below 0: the larger the predictor, the more a repeat helps. The 95 % interval resamples the
    tasks' prompts; spans overlap, so they are no sample, and no p value is given.
    """
    spans, values = scores.deltas(times, damping)
    counts = bootstrap_counts(len(values), RESAMPLES, scores.seed) / len(values)
    resampled = counts @ values
    rows = []
    for name, predictor in predictors(signature, plan, spans).items():
        rho = _rho(predictor, values.mean(0))
        spread = [_rho(predictor, line) for line in resampled] if len(values) >= MIN_PROMPTS else [np.nan]
        low, high = np.nanpercentile(spread, [2.5, 97.5]) if not np.isnan(spread).all() else (np.nan, np.nan)
        rows.append({
            "predictor": name, "meaning": _SOURCES[name], "times": times, "damping": damping, "spearman": rho,
            "ci_low": low, "ci_high": high, "n_spans": len(spans), "n_prompts": len(values),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _rho(a: ndarray, b: ndarray) -> float:
    """Spearman's ρ; NaN where one side does not vary or there are fewer than 3 spans."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
