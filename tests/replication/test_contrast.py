"""Intervals over prompts and networks: known answers, and how often they claim what is not so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from depthsig.replication.contrast import ArmValues, contrast
from depthsig.replication.criteria import Claim
from depthsig.statistics.convergence import prompt_weights, weighted_means
from depthsig.statistics.resampling import widening


def claim(sd: float = np.nan, df: int = 0, against: str | float = "baseline", *, above: bool = True) -> Claim:
    return Claim("E0.x", (), "", "", "", "", network_sd=sd, network_df=df, against=against, above=above)


def fixed(*values: float) -> np.ndarray:
    """Networks whose numbers do not depend on prompts."""
    return np.tile(np.array(values, dtype=float), (201, 1))


def resampled(per_prompt: np.ndarray, resamples: int = 200) -> np.ndarray:
    """[prompt, network] as [row, network]."""
    return weighted_means(per_prompt, prompt_weights(len(per_prompt), resamples))


def test_networks_widen_by_students_t() -> None:
    found = contrast([ArmValues(fixed(3, 5)), ArmValues(fixed(1), -1)], claim(sd=2.0, df=6), n=20)
    half = t.ppf(0.975, 6) * 2 * np.sqrt(1 / 2 + 1)
    assert found.estimate == 3 and not found.own
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert (found.prompts_low, found.prompts_high) == (3, 3)


def test_with_networks_enough_their_own_spread_counts() -> None:
    a, c = [3.0, 5.0, 7.0], [1.0, 2.0, 3.0]
    found = contrast([ArmValues(fixed(*a)), ArmValues(fixed(*c), -1)], claim(sd=99.0, df=6), n=20)
    sd = np.sqrt((2 * np.var(a, ddof=1) + 2 * np.var(c, ddof=1)) / 4)
    half = t.ppf(0.975, 4) * sd * np.sqrt(2 / 3)
    assert found.own and found.network_sd == pytest.approx(sd) and found.network_df == 4
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_with_few_networks_their_own_spread_counts_only_where_nothing_else_is_known() -> None:
    sides = [ArmValues(fixed(3, 5)), ArmValues(fixed(1, 2), -1)]
    assert not contrast(sides, claim(sd=1.0, df=3), n=20).own
    found = contrast(sides, claim(), n=20)
    assert found.own and found.network_df == 2
    assert found.high - found.estimate == pytest.approx(t.ppf(0.975, 2) * np.sqrt((2 + 0.5) / 2) * np.sqrt(1))


def test_prompts_and_networks_add_in_quadrature() -> None:
    per_prompt = np.random.default_rng(0).normal(1.0, 1.0, (16, 1))
    alone = contrast([ArmValues(resampled(per_prompt))], claim(against=0.0), n=16)
    low, high = np.percentile(resampled(per_prompt)[1:, 0], [2.5, 97.5])
    mean, factor = per_prompt.mean(), widening(16)
    assert (alone.low, alone.high) == pytest.approx((mean - factor * (mean - low), mean + factor * (high - mean)))
    both = contrast([ArmValues(resampled(per_prompt))], claim(sd=0.3, df=5, against=0.0), n=16)
    half = t.ppf(0.975, 5) * 0.3
    assert both.low == pytest.approx(mean - np.hypot(mean - alone.low, half))
    assert both.high == pytest.approx(mean + np.hypot(alone.high - mean, half))


@pytest.mark.parametrize(("above", "verdict"), [(True, "supported"), (False, "contradicted")])
def test_a_number_is_taken_off_and_signs_are_those_of_the_claim(above: bool, verdict: str) -> None:
    found = contrast([ArmValues(fixed(0.9))], claim(0.01, 50, against=0.5), n=20)
    assert found.estimate == pytest.approx(0.4) and found.verdict(above) == verdict
    below = contrast([ArmValues(fixed(0.1))], claim(0.01, 50, against=0.5), n=20)
    assert below.verdict(above) == ("contradicted" if above else "supported")


def test_a_change_is_after_less_before_of_a_less_that_of_c() -> None:
    arms = [ArmValues(fixed(9)), ArmValues(fixed(4), -1), ArmValues(fixed(3), -1), ArmValues(fixed(1))]
    found = contrast(arms, claim(0.1, 50), n=20)
    assert found.estimate == (9 - 4) - (3 - 1)
    assert found.high - found.estimate == pytest.approx(t.ppf(0.975, 50) * 0.1 * 2)


def test_what_is_undefined_decides_nothing() -> None:
    found = contrast([ArmValues(fixed(1, np.nan)), ArmValues(fixed(0), -1)], claim(1.0, 5), n=20)
    assert np.isnan(found.estimate) and found.verdict(True) == "undecided"


@pytest.mark.parametrize("n", [1, 4])
def test_few_prompts_decide_nothing(n: int) -> None:
    """Below the least number nothing is drawn anew: there is the estimate's row alone."""
    found = contrast([ArmValues(np.array([[5.0]])), ArmValues(np.array([[1.0]]), -1)], claim(0.01, 50), n=n)
    assert found.estimate == 4 and np.isnan(found.low) and found.verdict(True) == "undecided"


def test_without_prompts_networks_alone_decide() -> None:
    known = contrast([ArmValues(fixed(5)), ArmValues(fixed(1), -1)], claim(0.5, 6), n=0)
    assert known.verdict(True) == "supported" and np.isnan(known.prompts_low) and "prompts" not in known.note()
    unknown = contrast([ArmValues(fixed(5)), ArmValues(fixed(1), -1)], claim(), n=0)
    assert np.isnan(unknown.low) and unknown.verdict(True) == "undecided" and "interval" not in unknown.note()


def test_arms_are_not_told_apart_by_prompts_alone() -> None:
    per_prompt = np.random.default_rng(0).normal(0.0, 0.1, (16, 1))
    sides = [ArmValues(resampled(per_prompt + 5)), ArmValues(resampled(per_prompt), -1)]
    found = contrast(sides, claim(), n=16)
    assert found.low > 0 and found.verdict(True) == "undecided" and "these networks alone" in found.note()
    assert contrast(sides[:1], claim(against=0.0), n=16).verdict(True) == "supported"  # of this network


TRIALS = 3000
AT_MOST = 0.025 + 3 * np.sqrt(0.025 * 0.975 / TRIALS)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (4, 2), (3, 3)], ids=lambda s: f"{s[0]} and {s[1]}")
@pytest.mark.parametrize("told", ["the truth", "an estimate", "nothing"])
def test_networks_of_one_distribution_are_told_apart_no_more_often_than_said(sizes: tuple[int, int], told: str) -> None:
    rng = np.random.default_rng(7)
    supported = contradicted = 0
    for _ in range(TRIALS):
        a, c = rng.standard_normal(sizes[0]), rng.standard_normal(sizes[1])
        sd = {"the truth": 1.0, "an estimate": np.sqrt(rng.chisquare(6) / 6), "nothing": np.nan}[told]
        rows = [np.tile(a, (2, 1)), np.tile(c, (2, 1))]
        found = contrast([ArmValues(rows[0]), ArmValues(rows[1], -1)], claim(sd, 0 if told == "nothing" else 6), n=20)
        verdict = found.verdict(True)
        supported += verdict == "supported"
        contradicted += verdict == "contradicted"
    assert supported / TRIALS <= AT_MOST and contradicted / TRIALS <= AT_MOST
    if told == "an estimate" or (told == "nothing" and sizes[0] > 1) or sizes in ((4, 2), (3, 3)):
        assert supported / TRIALS > 0.015  # neither are they told apart for fear


@pytest.mark.parametrize("n", [5, 8, 20])
def test_intervals_over_prompts_miss_as_often_as_said(n: int) -> None:
    rng, trials, missed = np.random.default_rng(3), 1000, 0
    for _ in range(trials):
        found = contrast([ArmValues(resampled(rng.standard_normal((n, 1))))], claim(against=0.0), n=n)
        missed += found.verdict(True) == "supported"
    assert 0.01 < missed / trials < 0.025 + 3 * np.sqrt(0.025 * 0.975 / trials)
    assert widening(5, 5) == np.inf
