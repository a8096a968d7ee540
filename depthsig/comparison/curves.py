"""Profiles of several models on relative depth, and how far apart they are.

Which profiles take part is fixed in advance, by a rule and not by a look at them: every registered
profile over depth or steps, of every part and scope, at ``agg=mean``, that all the signatures have
and that is defined in all of them. Two kinds never do: those of edits that move several steps at once
(even as many as the block has, which differs between models), and profiles that are zero throughout
somewhere, which have no shape. Profiles count alike in the mean, signed ones
(cosines) too, which are scaled by their mean absolute value as all others are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from depthsig.comparison.inputs import Input, Pairing, per_prompt
from depthsig.errors import InputError
from depthsig.metrics.entries.runs import RUNS
from depthsig.statistics.convergence import (
    POINTS,
    arm_distance,
    l1_distance,
    on_relative_depth,
    percentile_interval,
    percentile_intervals,
    unit_mean,
    weighted_means,
)
from depthsig.tables.samples import Key, ordered

MEAN = Key("mean")
"""The mean over all profiles that took part, in the place of one profile."""


@dataclass(frozen=True, eq=False)
class Arm:
    """The members of a role with their shares in every resample."""

    role: str
    places: tuple[int, ...]
    weights: Float[ndarray, "row member"]

    def at_estimate(self) -> Arm:
        """The arm with its estimate's row alone."""
        return Arm(self.role, self.places, self.weights[:1])


def comparable(inputs: Sequence[Input]) -> tuple[list[Key], dict[str, str]]:
    """The profiles that all signatures have, and why others were left out."""
    have = [_measured(i) for i in inputs]
    shared, left = [], {}
    entries = {name: one for i in reversed(inputs) for name, one in i.entries.items()}
    for key in ordered(set().union(*have), entries):
        lacking = [i.name for i, keys in zip(inputs, have, strict=True) if key not in keys]
        if RUNS[entries[key.metric].on].several:
            left[str(key)] = "an edit of several steps at once has no place of its own"
        elif lacking:
            left[str(key)] = f"not measured in {', '.join(lacking)}"
        else:
            shared.append(key)
    return shared, left


def _measured(one: Input) -> set[Key]:
    entries = one.entries
    return {key for key in one.samples if key.metric in entries and entries[key.metric].kind == "profile"}


def resampled(
    one: Input, rows: ndarray, key: Key, weights: Float[ndarray, "row prompt"]
) -> Float[ndarray, "row point"]:
    """A model's mean profile in every resample, on relative depth at unit mean absolute value."""
    axis = one.entries[key.metric].axis
    size = one.steps + (axis == "depth")
    values = per_prompt(one, rows, key, size, matrix=False)
    if values is None:
        return np.full((len(weights), POINTS), np.nan)
    return unit_mean(on_relative_depth(weighted_means(values, weights), axis))


@dataclass(frozen=True, eq=False)
class Distances:
    """Profiles and distances of all models, in the estimate and in every resample.

    Attributes:
        compared: the profiles that took part; ``left`` those that did not, with the reason.
        profiles: rows of the table of profiles.
        mean: distances between models, averaged over profiles, [row, model, model].
        distances: rows of the table of distances, between models and between arms.
        by_profile: the estimates alone, [profile, model, model].
    """

    compared: list[Key]
    left: dict[str, str]
    profiles: pd.DataFrame
    mean: Float[ndarray, "row model model"]
    distances: pd.DataFrame
    by_profile: Float[ndarray, "profile model model"]


def measure_distances(
    inputs: Sequence[Input], pairing: Pairing, weights: Float[ndarray, "row prompt"], arms: Sequence[Arm],
    role: Callable[[int], str], tick: Callable[[float], None],
) -> Distances:  # fmt: skip
    """Read every shared profile on relative depth, in every resample, and measure the distances.

    Raises:
        InputError: if no profile is shared by all.
    """
    keys, left = comparable(inputs)
    size = len(inputs)
    total = np.zeros((len(weights), size, size))
    compared, profiles, estimates = [], [], []
    rows: list[dict[str, Any]] = []
    for key in keys:
        curves = [resampled(i, r, key, weights) for i, r in zip(inputs, pairing.rows, strict=True)]
        empty = [i.name for i, c in zip(inputs, curves, strict=True) if np.isnan(c[0]).any()]
        if empty:
            left[str(key)] = f"zero throughout or undefined in {', '.join(empty)}"
            tick(1)
            continue
        distance = np.zeros_like(total)
        for a, b in combinations(range(size), 2):
            distance[:, a, b] = distance[:, b, a] = l1_distance(curves[a], curves[b])
        total += distance
        compared.append(key)
        estimates.append(distance[0])
        rows += _distance_rows(inputs, arms, key, distance)
        profiles += [_curve(i, role(p), key, c) for p, (i, c) in enumerate(zip(inputs, curves, strict=True))]
        tick(1)
    if not compared:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
        raise InputError(f"no profile is there in all signatures ({reasons or 'none was measured'})")
    mean = total / len(compared)
    rows = [*_distance_rows(inputs, arms, MEAN, mean), *rows]
    return Distances(
        compared, left, pd.concat(profiles, ignore_index=True), mean, pd.DataFrame(rows), np.stack(estimates)
    )


def _curve(one: Input, role: str, key: Key, curve: Float[ndarray, "row point"]) -> pd.DataFrame:
    value, low, high = percentile_intervals(curve)
    return pd.DataFrame({
        "model": one.name, "role": role, "metric": key.metric, "part": key.part, "scope": key.scope,
        "axis": one.entries[key.metric].axis, "depth": np.linspace(0, 1, len(value)), "value": value,
        "ci_low": low, "ci_high": high,
    })  # fmt: skip


def _distance_rows(
    inputs: Sequence[Input], arms: Sequence[Arm], key: Key, distance: Float[ndarray, "row model model"]
) -> Iterator[dict[str, Any]]:
    about = {"metric": key.metric, "part": key.part, "scope": key.scope}
    axis = "" if key == MEAN else inputs[0].entries[key.metric].axis
    for a, b in combinations(range(len(inputs)), 2):
        yield _row("model", inputs[a].name, inputs[b].name, about, axis, distance[:, a, b])
    for one, other in combinations(arms, 2):
        yield _row("role", one.role, other.role, about, axis, between(distance, one, other))


def _row(level: str, a: str, b: str, about: dict[str, str], axis: str, values: Float[ndarray, "row"]) -> dict[str, Any]:
    value, low, high = percentile_interval(values)
    return {"level": level, "a": a, "b": b, **about, "axis": axis, "distance": value, "ci_low": low, "ci_high": high}


def between(distance: Float[ndarray, "row model model"], one: Arm, other: Arm) -> Float[ndarray, "row"]:
    """The mean distance between the members of two arms, in every resample of seeds and prompts."""
    block = distance[:, one.places][:, :, other.places]
    return arm_distance(block, one.weights, other.weights)
