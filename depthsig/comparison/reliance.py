"""Reliance on late layers, side by side: the scores of it on resampled prompts.

The scores are the ones of ``scores.csv``, by the same functions, computed from mean profiles of the
same resampled prompts in every model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.curves import Arm
from depthsig.comparison.inputs import Input, Pairing, per_prompt
from depthsig.metrics import entry
from depthsig.metrics.rules import LATE_SCORES
from depthsig.statistics.convergence import arm_mean, percentile_interval, weighted_means
from depthsig.tables.samples import Key
from depthsig.tables.score_rows import statistic
from depthsig.terms import PARTS, SCOPES

ROWS_AT_ONCE = 128
"""Resampled matrices held at the same time."""

Score = tuple[str, str, str]
"""(name, part, scope)."""


def resampled_scores(
    inputs: Sequence[Input], pairing: Pairing, weights: Float[ndarray, "row prompt"]
) -> dict[Score, Float[ndarray, "row model"]]:
    """Every score of late reliance in every resample; NaN where a model does not have it."""
    found: dict[Score, Float[ndarray, "row model"]] = {}
    sources = dict.fromkeys(entry(name).needs[0] for name in LATE_SCORES)
    keys = [Key(source, part, scope) for source in sources for part in PARTS for scope in SCOPES]
    for key in keys:
        columns = [_scores_of(one, rows, key, weights) for one, rows in zip(inputs, pairing.rows, strict=True)]
        for name in columns[0]:
            values = np.stack([column[name] for column in columns], 1)
            if not np.isnan(values[0]).all():
                found[name, key.part, key.scope] = values
    return {score: found[score] for score in sorted(found, key=lambda s: LATE_SCORES.index(s[0]))}


def _scores_of(
    one: Input, rows: ndarray, key: Key, weights: Float[ndarray, "row prompt"]
) -> dict[str, Float[ndarray, "row"]]:
    """Every score that is made of one profile or matrix, in every resample, from the same means."""
    names = [name for name in LATE_SCORES if entry(name).needs[0] == key.metric]
    values = per_prompt(one, rows, key, one.steps, matrix=entry(key.metric).kind == "matrix")
    if values is None:
        return {name: np.full(len(weights), np.nan) for name in names}
    statistics = {name: statistic(entry(name), one.steps, key.scope) for name in names}
    cells = values.shape[1:]
    flat = values.reshape(len(values), -1)
    pieces: dict[str, list[ndarray]] = {name: [] for name in names}
    for at in range(0, len(weights), ROWS_AT_ONCE):
        means = weighted_means(flat, weights[at : at + ROWS_AT_ONCE])
        means = means.reshape(len(means), *cells)
        for name, score in statistics.items():
            pieces[name].append(score(means))
    return {name: np.concatenate(found) for name, found in pieces.items()}


def model_scores(
    inputs: Sequence[Input], scores: dict[Score, Float[ndarray, "row model"]], role: Callable[[int], str]
) -> pd.DataFrame:
    """Scores model by model, with intervals over prompts."""
    rows = []
    for (name, part, scope), values in scores.items():
        for place, one in enumerate(inputs):
            value, low, high = percentile_interval(values[:, place])
            about = {"model": one.name, "role": role(place), "score": name, "part": part, "scope": scope}
            rows.append({**about, "value": value, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def late_table(
    inputs: Sequence[Input], scores: dict[Score, Float[ndarray, "row model"]], arms: Sequence[Arm]
) -> pd.DataFrame:
    """Differences a − b of every score, between models and between arms (the baseline as b)."""
    rows = []
    for score, values in scores.items():
        for a, b in combinations(range(len(inputs)), 2):
            note = _steps_note(score[0], [inputs[a], inputs[b]])
            rows.append(_difference("model", inputs[a].name, inputs[b].name, score, values[:, a], values[:, b], note))
        for one, other in combinations(arms, 2):
            members = [inputs[p] for p in (*one.places, *other.places)]
            a_values, b_values = of_arm(values, one), of_arm(values, other)
            rows.append(
                _difference("role", one.role, other.role, score, a_values, b_values, _steps_note(score[0], members))
            )
    return pd.DataFrame(rows)


def of_arm(values: Float[ndarray, "row model"], arm: Arm) -> Float[ndarray, "row"]:
    """The mean over an arm's members in every resample."""
    return arm_mean(values[:, arm.places], arm.weights)


def _difference(
    level: str, a: str, b: str, score: Score, values_a: ndarray, values_b: ndarray, note: str
) -> dict[str, Any]:
    difference, low, high = percentile_interval(values_a - values_b)
    name, part, scope = score
    return {
        "level": level, "a": a, "b": b, "score": name, "part": part, "scope": scope, "value_a": float(values_a[0]),
        "value_b": float(values_b[0]), "difference": difference, "ci_low": low, "ci_high": high, "note": note,
    }  # fmt: skip


def _steps_note(name: str, members: Sequence[Input]) -> str:
    """Scores in steps are no measure between models of different depth."""
    different = len({m.steps for m in members}) > 1
    in_steps = entry(name).unit == "step"
    return "in steps, of models of different depth: compare the relative score" if different and in_steps else ""
