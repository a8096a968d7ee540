"""Which span is worth repeating, and does the signature know? Rank correlation over spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from depthsig.commands.repeats.tasks import TaskScores
from depthsig.metrics.rules import ANGULAR, PREDICTORS
from depthsig.plan.plan import Plan
from depthsig.signature import Signature
from depthsig.statistics.resampling import MIN_PROMPTS, RESAMPLES, bootstrap_counts

METRICS = (*PREDICTORS.values(), ANGULAR)
"""What the predictors are made of."""

MEANING = {
    **{name: f"mean {metric} of the span's layers" for name, metric in PREDICTORS.items()},
    "angular": f"{ANGULAR} from the span's start to its end",
    "borders": "how many of the span's two ends are borders of a declared, observed or found block",
    "length": "layers in the span",
}


def predictors(signature: Signature, plan: Plan, spans: Sequence[tuple[int, int]]) -> dict[str, Float[ndarray, "span"]]:
    """For every predictor its value at every span; those whose metrics are missing are left out."""
    found: dict[str, ndarray] = {}
    have = set(signature.profiles["metric"])
    at = [_steps(plan, span) for span in spans]
    for name, metric in PREDICTORS.items():
        if metric in have:
            values = signature.profile(metric)["value"].to_numpy(dtype=float)
            found[name] = np.array([values[steps].mean() for steps in at])
    if ANGULAR in set(signature.matrices["metric"]):
        matrix = signature.matrix(ANGULAR)
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


def prediction_table(
    scores: TaskScores, signature: Signature, plan: Plan, *, times: int, damping: float
) -> pd.DataFrame:
    """Spearman's ρ between each predictor and the loss change of repeating a span.

    ρ below 0: the larger the predictor, the more a repeat helps. The 95 % interval resamples the
    tasks' prompts; spans overlap, so they are no sample, and no p value is given.
    """
    spans, values = scores.deltas(times, damping)
    counts = bootstrap_counts(len(values), RESAMPLES, scores.seed) / len(values)
    resampled = counts @ values
    rows = []
    for name, predictor in predictors(signature, plan, spans).items():
        rho = float(_rho(predictor, values.mean(0)[None])[0])
        spread = _rho(predictor, resampled) if len(values) >= MIN_PROMPTS else np.array([np.nan])
        low, high = np.nanpercentile(spread, [2.5, 97.5]) if not np.isnan(spread).all() else (np.nan, np.nan)
        rows.append({
            "predictor": name, "meaning": MEANING[name], "times": times, "damping": damping, "spearman": rho,
            "ci_low": low, "ci_high": high, "n_spans": len(spans), "n_prompts": len(values),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _rho(a: ndarray, lines: ndarray) -> ndarray:
    """Spearman's ρ with every line; NaN where one side does not vary or there are fewer than 3 spans."""
    if len(a) < 3:
        return np.full(len(lines), np.nan)
    x, y = rankdata(a), rankdata(lines, axis=1)
    x, y = x - x.mean(), y - y.mean(1, keepdims=True)
    norm = np.sqrt((x @ x) * (y * y).sum(1))
    return np.clip(np.divide(y @ x, norm, out=np.full(len(lines), np.nan), where=norm > 0), -1.0, 1.0)
