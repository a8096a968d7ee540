"""The periodicity statistics against plain code of their own, known answers, and refusals."""

from __future__ import annotations

import time

import numpy as np
import plain_periodicity as plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import unchecked

from depthsig.errors import InputError
from depthsig.metrics import block_periodicity, find_matrix_period, find_period, holm, matrix_periodicity
from depthsig.statistics import period_search, periodicity_design, periodicity_matrix

DESIGNS = [(16, 0, 4, 4), (20, 2, 3, 5), (12, 0, 3, 4), (14, 2, 2, 6), (15, 3, 3, 3), (26, 0, 6, 4), (9, 0, 3, 3)]


def _profile(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(size) + np.exp(3 * np.linspace(0, 1, size)) + 8 * (np.arange(size) == 0)


@pytest.mark.parametrize(("size", "start", "block", "count"), DESIGNS)
def test_the_statistic_is_the_plain_one(size: int, start: int, block: int, count: int) -> None:
    n = block * count
    edges = (start == 0, start + n == size)
    chosen = plain.choose(n, block, *edges)
    design = periodicity_design.profile_design(n, block, *edges)
    if chosen is None:
        assert design is None
        return
    assert design is not None
    for seed in range(5):
        profile = _profile(seed, size)
        y = profile[start : start + n]
        assert design.average_p(y[None])[0] == pytest.approx(plain.average_p(y, *chosen), rel=2e-4)
        found = block_periodicity(profile, start, block, count)
        assert found.strength == pytest.approx(plain.strength(profile, start, block, count), abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_is_the_plain_one_up_to_simulation_error(seed: int) -> None:
    size, start, block, count = DESIGNS[seed]
    profile = _profile(seed, size) + np.resize([0.0, 1.2, -0.7, 0.3], size)
    draws = 300
    expected, found = (
        plain.block_p(profile, start, block, count, draws),
        block_periodicity(profile, start, block, count),
    )
    assert found.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / draws) + 3 / draws)


def test_windows_of_a_search_have_the_same_statistic() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((50, 24)).cumsum(1)
    design = periodicity_design.profile_design(24, 4, True, False)
    assert design is not None
    fast = period_search.window_p(design, y - y.mean(1, keepdims=True))
    assert fast == pytest.approx(design.average_p(y), rel=1e-8)


@pytest.mark.parametrize(("block", "count"), [(3, 3), (3, 4), (2, 6)])
def test_a_matrix_against_plain_code(block: int, count: int) -> None:
    n = block * count
    for seed in range(3):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(n, 12)) + 0.5 * np.tile(rng.normal(size=(block, 12)), (count, 1))
        matrix = np.corrcoef(vectors)
        cells = periodicity_matrix.span_cells(matrix, 0, n)
        exact = plain.exhaustive_relabelling_p(matrix, block, count)
        assert periodicity_matrix.relabelling_p(cells, n, block) == pytest.approx(exact, abs=1e-12)
        p = exact
        if n - block - 5 >= 2:
            lag, draws = periodicity_matrix.lag_p(cells, n, block), 200
            expected = plain.lag_p(matrix, block, count, draws)
            assert lag == pytest.approx(expected, abs=4 * np.sqrt(0.25 / draws))
            p = max(exact, lag)
        assert matrix_periodicity(matrix, 0, block, count).p == pytest.approx(p)


def test_random_relabellings_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(12, 12)) + 0.4 * np.tile(rng.normal(size=(4, 12)), (3, 1))
    cells = periodicity_matrix.span_cells(np.corrcoef(vectors), 0, 12)
    exact = periodicity_matrix.relabelling_p(cells, 12, 4)
    periodicity_matrix._labels.cache_clear()
    periodicity_matrix._kept_weights.cache_clear()
    monkeypatch.setattr(periodicity_matrix, "MAX_EXHAUSTIVE", 10)
    monkeypatch.setattr(periodicity_matrix, "KEPT_CELLS", 10)
    assert periodicity_matrix.relabelling_p(cells, 12, 4) == pytest.approx(exact, abs=0.04)
    periodicity_matrix._labels.cache_clear()
    periodicity_matrix._kept_weights.cache_clear()


def test_known_answers() -> None:
    rng = np.random.default_rng(1)
    trend, noise = np.linspace(0, 20, 24) ** 1.5, rng.standard_normal(24)
    pattern = np.tile([0.0, 4.0, 4.0, 1.0], 6)
    found = block_periodicity(trend + pattern + noise, 0, 4, 6)
    assert found.testable and found.p <= 0.002 and found.strength > 0.5 and found.beats_wrong_blocks
    assert set(found.wrong_blocks) == {3, 5, 6, 7, 9, 10, 11} and set(found.nested) == {2}
    assert found.suffices is None and found.nested[2] <= 0.05
    shorter = block_periodicity(trend + np.tile([0.0, 4.0], 12) + noise, 0, 4, 6)
    assert shorter.p <= 0.05 and shorter.suffices == 2
    plain_noise = block_periodicity(trend + noise, 0, 4, 6)
    assert plain_noise.p > 0.05 and plain_noise.strength < 0.4
    perfect = block_periodicity(pattern, 0, 4, 6)
    assert perfect.p == 0.0005 and perfect.strength == pytest.approx(1)


def test_log_is_fixed_beforehand_and_helps_on_a_steep_level() -> None:
    rng = np.random.default_rng(2)
    level = np.exp(np.linspace(0, 4, 16))
    steep = level * np.exp(np.tile([0.0, 0.5, -0.2, 0.1], 4) + 0.08 * rng.standard_normal(16))
    logged = block_periodicity(steep, 0, 4, 4, log=True)
    assert logged.p < 0.01
    assert logged.p == block_periodicity(np.log(steep), 0, 4, 4).p


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(1e-6, 1e6),
    coefficients=st.lists(st.floats(-20, 20), min_size=4, max_size=4),
    outlier=st.floats(-100, 100),
)
def test_trends_scales_and_outliers_at_the_ends_change_nothing(seed, scale, coefficients, outlier) -> None:
    y = np.random.default_rng(seed).standard_normal(16) + np.tile([0, 0.8, 0, -0.8], 4)
    u = np.linspace(-1, 1, 16)
    other = scale * (y + np.polynomial.polynomial.polyval(u, coefficients))
    other[0] += scale * outlier
    one, two = block_periodicity(y, 0, 4, 4), block_periodicity(other, 0, 4, 4)
    assert two.p == pytest.approx(one.p, abs=0.0011) and two.strength == pytest.approx(one.strength, abs=1e-6)


def test_outliers_inside_the_model_do_not_count_as_edges() -> None:
    y = np.random.default_rng(3).standard_normal(20)
    y[2] += 50
    at_start = block_periodicity(y[2:], 0, 4, 4)
    inside = block_periodicity(y, 2, 4, 4)
    assert at_start.p != inside.p


@pytest.mark.parametrize(
    ("profile", "where", "says"),
    [
        (np.arange(12.0), (0, 4, 2), "2 blocks"),
        (np.arange(12.0), (0, 1, 12), "one step"),
        (np.arange(12.0), (6, 3, 3), "outside"),
        (np.arange(12.0), (-1, 3, 3), "outside"),
        (np.r_[np.arange(11.0), np.nan], (0, 3, 4), "undefined"),
        (np.r_[np.arange(11.0), np.inf], (0, 3, 4), "undefined"),
        (np.ones(12), (0, 3, 4), "nothing is left"),
        (np.arange(12.0) ** 3, (0, 3, 4), "nothing is left"),
        (np.arange(6.0), (0, 2, 3), "degrees of freedom"),
    ],
)
def test_not_testable(profile: np.ndarray, where: tuple[int, int, int], says: str) -> None:
    found = block_periodicity(profile, *where)
    assert not found.testable and says in found.reason and np.isnan([found.p, found.strength]).all()


def test_not_testable_in_logarithms_and_in_matrices() -> None:
    assert "logarithm" in block_periodicity(np.arange(12.0), 0, 3, 4, log=True).reason
    assert "nothing is left" in block_periodicity(np.ones(12), 0, 3, 4, log=True).reason
    rng = np.random.default_rng(0)
    matrix = np.corrcoef(rng.normal(size=(16, 8)))
    assert "2 blocks" in matrix_periodicity(matrix, 0, 4, 2).reason
    assert "8 steps" in matrix_periodicity(matrix, 0, 2, 4).reason
    assert "16 ways" in matrix_periodicity(matrix, 0, 2, 5).reason
    assert "nothing is left" in matrix_periodicity(np.ones((16, 16)), 0, 4, 4).reason
    holes = matrix.copy()
    holes[2, 5] = np.nan
    assert "1 of the span's cells" in matrix_periodicity(holes, 0, 4, 4).reason
    assert matrix_periodicity(np.triu(matrix) + np.tril(np.full((16, 16), np.nan), -1), 0, 4, 4).testable
    with unchecked(), pytest.raises(InputError, match="square"):
        matrix_periodicity(matrix[:3], 0, 4, 4)
    with unchecked(), pytest.raises(InputError, match="one axis"):
        block_periodicity(matrix, 0, 4, 4)


def test_likeness_of_equal_phases_is_found_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(4)
    shared = np.tile(rng.normal(size=(4, 40)), (4, 1))
    matrix = np.corrcoef(rng.normal(size=(16, 40)) + shared)
    found = matrix_periodicity(matrix, 0, 4, 4)
    assert found.p < 0.01 and found.strength > 0.3 and found.beats_wrong_blocks
    assert found.nested[2] < 0.05
    opposite = matrix_periodicity(-matrix, 0, 4, 4)
    assert opposite.p > 0.9 and opposite.strength < 0
    shorter = np.corrcoef(rng.normal(size=(16, 40)) + np.tile(rng.normal(size=(2, 40)), (8, 1)))
    assert matrix_periodicity(shorter, 0, 4, 4).suffices == 2


def test_blind_search_finds_a_span_and_nothing_in_smooth_profiles() -> None:
    rng = np.random.default_rng(7)
    y = rng.standard_normal(24) * 0.5
    y[5:20] += np.tile([0, 3, 1], 5)
    found = find_period(y, draws=99)
    assert found.p == 0.01 and found.block == 3 and abs(found.start - 5) <= 1
    assert find_period(rng.standard_normal(24) + np.linspace(0, 9, 24), draws=99).p > 0.05
    assert not find_period(np.linspace(0, 1, 24)).testable
    assert not find_period(np.ones(7)).testable
    assert "undefined" in find_period(np.r_[np.nan, y]).reason
    assert "logarithm" in find_period(y, log=True).reason


def test_the_search_statistic_is_the_best_calibrated_candidate() -> None:
    y = np.random.default_rng(8).standard_normal(12)
    best = -np.inf
    for block in range(2, 9):
        for count in range(3, 9):
            for start in range(12 - block * count + 1):
                n = block * count
                edges = (start == 0, start + n == 12)
                chosen = plain.choose(n, block, *edges)
                if chosen is None or n - np.linalg.matrix_rank(chosen[1]) < 4:
                    continue
                null = periodicity_design.profile_null(n, block, *edges)
                c = max(0.0, max(np.log10(0.02 / np.quantile(row, 0.02)) for row in null))
                best = max(best, -np.log10(plain.average_p(y[start : start + n], *chosen)) - c)
    assert period_search.search(y[None])[0][0] == pytest.approx(best, abs=1e-3)


def test_localising_minimises_the_residuals_of_the_whole_profile() -> None:
    rng = np.random.default_rng(9)
    y = rng.standard_normal(20)
    y[4:16] += np.tile([0, 2, -1], 4)
    precision = np.linalg.inv(plain.covariance(20, 0.3))
    nuisance = plain.profile_columns(20, True, True, 4)
    rss = {}
    for count in range(3, 9):
        for start in range(20 - 3 * count + 1):
            dummies = np.zeros((20, 3))
            dummies[start : start + 3 * count] = plain.phases(3 * count, 3) - 1 / 3
            rss[start, count] = plain.gls_rss(y, np.hstack([nuisance, dummies]), precision)[0]
    start, count = period_search.localise(y[None], 3)
    assert (int(start[0]), int(count[0])) == min(rss, key=rss.get)


def test_blind_search_in_a_matrix() -> None:
    rng = np.random.default_rng(10)
    vectors = rng.normal(size=(20, 40))
    vectors[3:15] += np.tile(1.5 * rng.normal(size=(4, 40)), (3, 1))
    found = find_matrix_period(np.corrcoef(vectors), draws=99)
    assert found.p <= 0.05 and (found.start, found.block, found.count) == (3, 4, 3)
    assert find_matrix_period(np.corrcoef(rng.normal(size=(20, 40))), draws=99).p > 0.05
    assert not find_matrix_period(np.eye(5)).testable
    assert "nothing is left" in find_matrix_period(np.ones((12, 12))).reason


def test_holm_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(6) ** 2
        expected = [
            min(1.0, max((len(p) - k) * q for k, q in enumerate(sorted(p)) if q <= one)) for one in p
        ]  # fmt: skip
        assert holm(p) == pytest.approx(expected)


def test_a_declared_test_is_fast_with_a_cold_cache() -> None:
    for cached in (periodicity_design.profile_design, periodicity_design.profile_null, periodicity_design.f_tail):
        cached.cache_clear()
    profile = np.random.default_rng(0).standard_normal(24)
    started = time.process_time()
    block_periodicity(profile, 0, 6, 4)
    assert time.process_time() - started < 1.0
