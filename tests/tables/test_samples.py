"""Positions to cuts to prompts: the aggregation rule, however the tokens come in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthsig.tables.samples import Key, Samples, aggregate

KL, OVERLAP = Key("lens.kl"), Key("lens.overlap5")


def test_positions_then_cuts_by_hand() -> None:
    samples = Samples(2)
    samples.add(KL, np.array([[1.0], [2.0], [6.0]]), np.array([0, 0, 0]), cut=8)
    samples.add(KL, np.array([[5.0]]), np.array([0]), cut=16)
    found = samples.values[KL]
    assert found["mean"][:, 0].tolist()[0] == 4.0  # (mean of 1, 2, 6 and 5) / 2, not the mean of all four
    assert found["max"][0, 0] == 6.0
    assert np.isnan(found["mean"][1]).all() and np.isnan(found["max"][1]).all()


def test_the_worst_overlap_is_the_least() -> None:
    samples = Samples(1)
    samples.add(OVERLAP, np.array([[0.4], [1.0]]), np.array([0, 0]))
    assert samples.values[OVERLAP]["max"][0, 0] == 0.4


def test_undefined_positions_do_not_count() -> None:
    samples = Samples(1)
    samples.add(KL, np.array([[np.nan, 1.0], [3.0, np.nan]]), np.array([0, 0]))
    samples.add(KL, np.array([[5.0, np.nan]]), np.array([0]))
    assert samples.values[KL]["mean"][0].tolist() == [4.0, 1.0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 10**6))
def test_pieces_change_nothing(lengths: list[int], piece: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(len(lengths)), lengths)
    values = rng.normal(size=(len(prompts), 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    samples = Samples(len(lengths))
    for start in range(0, len(prompts), piece):
        samples.add(KL, values[start : start + piece], prompts[start : start + piece])
        assert KL in samples.values  # reading in between must not freeze anything
    for prompt in range(len(lengths)):
        own = values[prompts == prompt]
        for cell in range(3):
            defined = own[~np.isnan(own[:, cell]), cell]
            for agg, plain in (("mean", np.mean), ("max", np.max)):
                wanted = plain(defined) if len(defined) else np.nan
                assert samples.values[KL][agg][prompt, cell] == pytest.approx(wanted, nan_ok=True)


def test_aggregate_over_prompts() -> None:
    values = np.array([[1.0, np.nan], [4.0, np.nan], [np.nan, np.nan]])
    assert aggregate(values, "mean", "max")[0] == 2.5 and np.isnan(aggregate(values, "mean", "max")[1])
    assert aggregate(values, "max", "max")[0] == 4.0 and aggregate(values, "max", "min")[0] == 1.0
