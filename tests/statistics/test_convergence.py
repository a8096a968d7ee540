"""Profiles on relative depth, their distances and intervals, against plain code and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_convergence import plain_distance, plain_relative

from depthsig.errors import InputError
from depthsig.statistics.convergence import (
    arm_distance,
    average_linkage,
    on_relative_depth,
    percentile_interval,
    profile_distance,
    prompt_weights,
    seed_weights,
    unit_mean,
    verdict,
    weighted_means,
)
from depthsig.statistics.resampling import bootstrap_indices


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from(["depth", "step"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_distances_against_plain_code(size_a: int, size_b: int, axis: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(size_a), rng.standard_normal(size_b)
    assert profile_distance(a, b, axis) == pytest.approx(plain_distance(a, b, axis), rel=1e-9)
    assert profile_distance(a, 7 * a, axis) == pytest.approx(0, abs=1e-12)
    assert 0 <= profile_distance(a, b, axis) <= 2 + 1e-12
    assert profile_distance(a, -a, axis) == pytest.approx(2)


def test_undefined_entries_take_no_part_and_zero_profiles_have_no_shape() -> None:
    a = np.array([1.0, 2.0, 4.0, np.nan])
    assert np.allclose(unit_mean(on_relative_depth(a, "step")), plain_relative(a, "step"))
    assert np.isnan(profile_distance(np.zeros(4), np.ones(4), "step"))
    assert np.isnan(on_relative_depth(np.full((2, 3), np.nan), "depth")).all()
    one_lacks = np.array([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    assert np.isnan(unit_mean(on_relative_depth(one_lacks, "depth"))[1]).all()
    with pytest.raises(InputError, match="no axis"):
        profile_distance(a, a, "layer")
    with pytest.raises(InputError, match="no relative depth"):
        on_relative_depth(np.ones(1), "depth")


def test_weighted_means_are_means_of_the_drawn_prompts() -> None:
    values = np.random.default_rng(1).standard_normal((7, 3, 2))
    values[2, 0, 0] = np.nan
    weights, drawn = prompt_weights(7, 20, 5), bootstrap_indices(7, 20, 5)
    found = weighted_means(values, weights)
    assert np.allclose(found[0], np.nanmean(values, 0))
    assert np.allclose(found[1:], [np.nanmean(values[rows], 0) for rows in drawn])


def test_intervals_and_verdicts() -> None:
    rows = np.r_[3.0, np.arange(1000.0)]
    assert percentile_interval(rows) == (3.0, *np.percentile(np.arange(1000.0), [2.5, 97.5]))
    value, low, high = percentile_interval(np.array([1.0]))
    assert value == 1.0 and np.isnan(low) and np.isnan(high)
    cases = {(0.1, 0.2): "supported", (-0.2, -0.1): "contradicted", (-0.1, 0.1): "undecided", (0.0, 0.0): "undecided"}
    for (low, high), says in cases.items():
        assert verdict(low, high) == says
        assert verdict(-high, -low, above=False) == says
    assert verdict(np.nan, np.nan) == verdict(np.nan, np.nan, above=False) == "undecided"


def test_arms_average_over_drawn_seeds() -> None:
    distance = np.random.default_rng(0).random((6, 5, 5))
    one, other = seed_weights(2, 5, 1), seed_weights(3, 5, 2)
    drawn_one = [[0, 1], *bootstrap_indices(2, 5, 1)]
    drawn_other = [[0, 1, 2], *bootstrap_indices(3, 5, 2)]
    expected = [
        np.mean([distance[r, i, 2 + j] for i in drawn_one[r] for j in drawn_other[r]]) for r in range(6)
    ]  # fmt: skip
    assert np.allclose(arm_distance(distance[:, :2][:, :, 2:], one, other), expected)


def test_the_tree_joins_the_closest_first() -> None:
    tree = average_linkage(np.array([[0, 5, 1.0], [5, 0, 6], [1, 6, 0]]))
    assert set(tree[0, :2]) == {0, 2} and tree[0, 2] == 1 and tree[1, 2] == 5.5
