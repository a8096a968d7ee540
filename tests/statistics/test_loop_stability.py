"""Ranges of safe iteration counts, and regimes, with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from depthsig.statistics.loop_stability import Interval, mean_of, regime_of, safe_counts

COUNTS = [1, 2, 3, 4, 5, 6]
CURVE = np.array([2.0, 1.2, 1.0, 1.02, 1.04, 1.5])


def prompts(n: int, noise: float, seed: int = 0, curve: np.ndarray = CURVE) -> np.ndarray:
    return curve + noise * np.random.default_rng(seed).standard_normal((n, len(curve)))


def test_the_range_is_read_and_holds_on_other_prompts() -> None:
    found = safe_counts(prompts(40, 0.001), prompts(40, 0.001, 1), COUNTS, 0.05)
    assert (found.best, found.low, found.high) == (3, 3, 5) and found.holds is True
    assert found.low_ends == (3, 3) and found.high_ends == (5, 5) and (found.held_low, found.held_high) == (3, 5)
    assert (
        found.excess.value == pytest.approx(0.04, abs=0.005) and found.excess.low <= 0.04 <= found.excess.high + 0.005
    )


def test_a_range_that_other_prompts_contradict() -> None:
    other = prompts(20, 0.001, 1, np.array([2.0, 1.2, 1.0, 1.3, 1.4, 1.5]))
    found = safe_counts(prompts(20, 0.001), other, COUNTS, 0.05)
    assert found.holds is False and found.excess.value == pytest.approx(0.4, abs=0.01)
    assert (found.held_low, found.held_high) == (3, 3)


def test_the_ends_are_as_unsure_as_the_prompts() -> None:
    found = safe_counts(prompts(12, 0.2), prompts(12, 0.2, 1), COUNTS, 0.05)
    assert found.high_ends is not None and found.high_ends[0] < found.high_ends[1]


def test_only_neighbours_of_the_best_belong_to_it() -> None:
    """A count that comes back into the band after one outside of it is not in the range."""
    curve = np.array([[1.0, 1.5, 1.01, 1.2]])
    found = safe_counts(curve, curve[:0], [1, 2, 3, 4], 0.05)
    assert (found.low, found.high, found.low_ends, found.holds) == (1, 1, None, None) and np.isnan(found.excess.value)


def test_a_count_that_diverges_is_never_safe() -> None:
    losses = prompts(10, 0.001)
    losses[3, 4] = np.nan
    held = prompts(10, 0.001, 1)
    assert safe_counts(losses, held, COUNTS, 0.05).high == 4
    held[2, 2] = np.nan  # within the range: held-out prompts say that it does not hold
    checked = safe_counts(losses, held, COUNTS, 0.05)
    assert checked.holds is False and checked.excess.value == np.inf


@pytest.mark.parametrize(
    ("radius", "shrinks", "turns", "regime"),
    [
        ((0.8, 0.7, 0.9), (0.5, 0.4, 0.6), (0.9, 0.8, 1.0), "settling"),
        ((0.9, 0.8, 1.1), (0.5, 0.4, 0.6), (0.2, 0.1, 0.3), "marginal"),
        ((0.8, 0.7, 0.9), (0.9, 0.8, 1.0), (0.2, 0.1, 0.3), "marginal"),
        ((1.2, 1.1, 1.3), (1.0, 1.0, 1.0), (0.9, 0.8, 1.0), "drifting"),
        ((1.2, 1.1, 1.3), (1.0, 1.0, 1.0), (0.6, 0.4, 0.8), "marginal"),
        ((0.8, np.nan, np.nan), (0.5, np.nan, np.nan), (0.0, np.nan, np.nan), "settling"),
        ((np.nan,) * 3, (np.nan,) * 3, (np.nan,) * 3, "marginal"),
    ],
)
def test_regimes_take_the_whole_interval(radius: tuple, shrinks: tuple, turns: tuple, regime: str) -> None:
    assert regime_of(Interval(*radius), Interval(*shrinks), Interval(*turns)) == regime


def test_means_leave_out_what_is_undefined() -> None:
    assert mean_of(np.array([1.0, np.nan, 3.0])).value == 2.0


def test_where_no_count_has_a_loss_of_every_prompt_none_is_safe() -> None:
    losses = np.array([[np.nan, 1.0], [1.0, np.nan]])
    assert safe_counts(losses, losses[:0], [1, 2], 0.05) is None
    found = safe_counts(np.array([[1.0, 1.01]]), losses, [1, 2], 0.05)
    assert found is not None and (found.low, found.high, found.holds) == (1, 2, False)
    assert found.excess.value == np.inf and found.held_low is None and found.held_high is None
