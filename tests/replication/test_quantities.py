"""Quantities: known answers, plain code, and the package's own tables."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from made_evidence import claim, evidence, made, network, profile, with_control
from made_signatures import Values, late, periodic

import depthsig.replication.judging  # noqa: F401, the quantities
from depthsig.comparison.curves import Arm
from depthsig.comparison.recurrence import Periods
from depthsig.prompts.shipped import data_path
from depthsig.replication.criteria import Claim
from depthsig.replication.depth_quantities import BY_QUANTITY, Found
from depthsig.replication.gathered import Gathered
from depthsig.replication.members import TrainedNetwork
from depthsig.signature import Signature
from depthsig.statistics.periodicity import block_periodicity, wrong_strengths
from depthsig.statistics.resampling import bootstrap_indices


def measure(one: Claim, what: Gathered, c: tuple[int, ...] = ()) -> Found:
    a = tuple(p for p in range(len(what.networks)) if p not in c)
    return BY_QUANTITY[one.quantity](what, one, a, c)


def of_profile(one: Claim, values: Values, steps: int) -> float:
    found = measure(one, evidence(network("x", "looped", made(values, steps))))
    assert not found.reason and found.places == (0,) and found.n == 6
    first = float(found.values[0, 0])
    assert np.array_equal(found.values, np.full_like(found.values, first), equal_nan=True)  # prompts are all alike
    return first


SHARES = [
    ("last_third", "current", [1, 1, 1, 1, 1, 1], 1 / 3), ("first_third", "current", [1, 1, 1, 1, 1, 1], 1 / 3),
    ("last_third", "current", [0, 0, 0, 0, 2, 6], 1.0), ("first_third", "current", [3, 0, 0, 0, 0, 1], 0.75),
    ("last_third", "current", [1, 1, 1, 1], 1 / 3),  # of the third step of four, two thirds lie before
    ("last_third", "current", [0, 0, 3, 0], 1 / 3), ("first_third", "current", [0, 3, 0, 0], 1 / 3),
    ("last_third", "current", [-5, -5, -5, -5, 1, 1], 1.0),
    ("last_third", "future", [1, 1, 1, np.nan], 1 / 3), ("first_third", "future", [2, 1, 1, np.nan], 0.5),
    ("last_third", "current", [7], 1 / 3), ("last_third", "current", [0, 0, 0], np.nan),
]  # fmt: skip


@pytest.mark.parametrize(
    ("quantity", "scope", "values", "expected"), SHARES, ids=[f"{s[0]}-{n}" for n, s in enumerate(SHARES)]
)
def test_shares_of_thirds(quantity: str, scope: str, values: list[float], expected: float) -> None:
    one = claim(quantity, "skip.output_l2", "layer", scope)
    found = of_profile(one, profile(values, "skip.output_l2", scope=scope), len(values))
    assert found == pytest.approx(expected, nan_ok=True)


def test_lacking_is_the_area_above_the_curve() -> None:
    one = claim("lacking", "lens.overlap5", "-", "-")
    lens = {"metric": "lens.overlap5", "part": "", "scope": "", "axis": "depth"}
    assert of_profile(one, profile([0, 0, 1], **lens), 2) == pytest.approx(0.75)
    assert of_profile(one, profile([0, 0.25, 0.5, 0.75, 1], **lens), 4) == pytest.approx(0.5)
    assert of_profile(one, profile([1, 1], **lens), 1) == 0


def test_what_is_left_at_a_third_is_read_between_depths() -> None:
    one = claim("left_at_third", "lens.target_nll", "-", "-")
    lens = {"metric": "lens.target_nll", "part": "", "scope": "", "axis": "depth"}
    assert of_profile(one, profile([9, 6, 4, 1], **lens), 3) == pytest.approx(5)
    assert of_profile(one, profile([9, 6, 1], **lens), 2) == pytest.approx(9 - 2 / 3 * 3 - 1)
    assert of_profile(one, profile([9, 3], **lens), 1) == pytest.approx(7 - 3)


def test_settling_is_a_share_of_the_steps() -> None:
    values = {
        ("settling_depth", "", "", ""): np.full((6, 1), 9.0),
        ("lens.jsd", "", "", "depth"): np.zeros((6, 13)),
    }
    signature = made({("lens.jsd", "", "", "depth"): values["lens.jsd", "", "", "depth"]}, 12)
    table = signature.samples_table
    own = table.drop_duplicates("prompt").assign(metric="settling_depth", axis="-", index=pd.NA, value=9.0)
    signature = replace(signature, samples_table=pd.concat([table, own], ignore_index=True))
    found = measure(claim("relative_score", "settling_depth", "-", "-"), evidence(network("x", "looped", signature)))
    assert found.values[0, 0] == pytest.approx(0.75) and len(found.curves) == 1


def _orders(blocks: float, steps: float, size: int = 3) -> Values:
    matrix = np.full((6, size, size), np.e**blocks)
    matrix[:, np.arange(size), np.arange(size)] = 99.0  # the diagonal takes no part
    line = profile([*[np.e**steps] * (4 * size - 1), np.nan], "order.swap_next.kl", "", "")
    return {("order.swap_blocks.kl", "", "", ""): matrix, **line}


RATIO = ("order.swap_blocks.kl", "-", "-", "order.swap_next.kl", "-", "-")


def test_a_ratio_of_means_is_off_the_diagonal() -> None:
    one = claim("log_ratio", *RATIO)
    found = measure(one, evidence(network("x", "grown", made(_orders(1.0, 3.0), 12, span=(0, 4, 3, "grown")))))
    assert found.values[0, 0] == pytest.approx(-2.0)
    assert of_profile(claim("log_mean", "order.swap_next.kl", "-", "-"), _orders(1.0, 3.0), 12) == pytest.approx(3.0)


def test_blocks_of_another_length_are_another_edit() -> None:
    one = claim("log_ratio", *RATIO, roles=("grown",))
    nets = [
        network("g4", "grown", made(_orders(1.0, 3.0), 12, "g4", span=(0, 4, 3, "grown"))),
        network("g2", "grown", made(_orders(1.0, 3.0, 6), 24, "g2", span=(0, 2, 6, "grown"))),
        network("b", "baseline", made(_orders(2.0, 3.0), 12, "b")),
    ]
    found = measure(one, evidence(*nets), c=(2,))
    assert found.places == (0, 2) and "g2" in " ".join(found.notes)
    assert found.values[0].tolist() == pytest.approx([-2, -1])
    alone = measure(one, evidence(nets[1], nets[2]), c=(1,))
    assert "g2 2, b 4" in alone.reason


def test_an_exchange_that_changes_nothing_has_no_logarithm() -> None:
    found = measure(claim("log_ratio", *RATIO), evidence(network("x", "grown", made(_orders(-np.inf, 3.0), 12))))
    assert "changes nothing at all in x" in found.reason


def _weights(count: int, block: int, same: float, other: float, extra: int = 0) -> Values:
    """Weights alike as told at the same and at other phases, wherever the blocks."""
    n = count * block + extra
    phase = (np.arange(n) - extra) % block
    matrix = np.where(phase[:, None] == phase[None], same, other).astype(float)
    return {("weights.cosine", "all", "", ""): np.repeat(matrix[None], 1, 0)}


def _net(name: str, role: str, values: Values, steps: int, span: tuple[int, int, int, str] | None) -> TrainedNetwork:
    return network(name, role, made(values, steps, name, span=span))


def test_symmetry_of_planted_weights() -> None:
    one = claim("symmetry", "weights.cosine", "all", "-", prompts="", roles=("midas",))
    nets = [
        _net("four", "midas", _weights(6, 4, 0.9, 0.2), 24, (0, 4, 6, "grown")),
        _net("eight", "midas", _weights(3, 8, 0.8, 0.3), 24, (0, 8, 3, "grown")),
        _net("inside", "midas", _weights(5, 4, 0.7, 0.1, 4), 24, (4, 4, 5, "grown")),
        _net("plain", "baseline", _weights(6, 4, 0.5, 0.5), 24, None),
    ]
    found = measure(one, evidence(*nets), c=(3,))
    assert found.n == 0 and found.places == (0, 1, 2) and found.c_places == (3,)
    assert found.values[0].tolist() == pytest.approx([0.7, 0.5, 0.6])
    assert found.of_c is not None and found.of_c[0].tolist() == pytest.approx([0])


def test_symmetry_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((12, 12))
    matrix = matrix + matrix.T
    values = {("weights.cosine", "all", "", ""): matrix[None]}
    nets = [_net("a", "midas", values, 12, (0, 3, 4, "grown")), _net("c", "baseline", values, 12, None)]
    found = measure(claim("symmetry", "weights.cosine", "all", "-", prompts=""), evidence(*nets), c=(1,))
    by_phase = {k: [] for k in range(3)}
    for i in range(12):
        for j in range(12):
            if i // 3 != j // 3:
                by_phase[(j - i) % 3].append(matrix[i, j])
    expected = np.mean(by_phase[0]) - np.mean([np.mean(by_phase[1]), np.mean(by_phase[2])])
    assert found.values[0, 0] == pytest.approx(expected) and found.of_c is not None
    assert found.of_c[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("span", "said"),
    [(None, "no span of layers"), ((0, 1, 12, "grown"), "several layers"), ((0, 12, 1, "grown"), "two")],
)
def test_symmetry_needs_blocks(span: tuple[int, int, int, str] | None, said: str) -> None:
    nets = [_net("a", "midas", _weights(3, 4, 1, 0), 12, span), _net("c", "baseline", _weights(3, 4, 1, 0), 12, None)]
    found = measure(claim("symmetry", "weights.cosine", "all", "-", prompts=""), evidence(*nets), c=(1,))
    assert said in found.reason and "in a" in found.reason


def test_symmetry_beside_a_shallower_model_is_none() -> None:
    nets = [
        _net("a", "midas", _weights(4, 4, 1, 0), 16, (0, 4, 4, "grown")),
        _net("c", "baseline", _weights(3, 4, 1, 0), 12, None),
    ]
    found = measure(claim("symmetry", "weights.cosine", "all", "-", prompts=""), evidence(*nets), c=(1,))
    assert "c has fewer layers" in found.reason


def _recurring(**strengths: float) -> list[TrainedNetwork]:
    kinds = {"looped": (0, 4, 3, "loop"), "grown": (0, 4, 3, "grown"), "baseline": None}
    return [
        network(name, name.rstrip("123"), made(periodic(12, s, n), 12, name, span=kinds[name.rstrip("123")]))
        for n, (name, s) in enumerate(strengths.items())
    ]


def test_periods_are_those_of_the_comparison() -> None:
    nets = _recurring(looped1=1.0, looped2=0.5, baseline1=0.0, baseline2=0.1)
    what = evidence(*nets)
    found = measure(claim("period"), what, c=(2, 3))
    group = what.group("made", [], (0, 1, 2, 3))
    assert group is not None
    half = np.full((len(group.weights), 2), 0.5)
    theirs = Periods(group.inputs, group.pairing, group.weights).against(Arm("a", (0, 1), half), Arm("c", (2, 3), half))
    assert found.of_c is not None and len(theirs.members) == 8
    assert found.values.mean(1) == pytest.approx(theirs.mean("a"))
    assert found.of_c.mean(1) == pytest.approx(theirs.mean("c"))
    assert tuple(found.recurs.values()) == theirs.combined_a and found.recurs[0] < 0.05
    assert found.values[0, 0] > found.values[0, 1] > found.of_c[0].max()


def test_the_period_of_one_profile() -> None:
    nets = _recurring(looped1=1.0, baseline1=0.0)
    what = evidence(*nets)
    found = measure(claim("period_of", "contribution.relative", "attn", "-"), what, c=(1,))
    group = what.group("made", [], (0, 1))
    assert group is not None and nets[0].span is not None and found.of_c is not None
    member = ("contribution.relative", "attn", "-")
    reading = [Periods(group.inputs, group.pairing, group.weights).read(n, nets[0].span) for n in (0, 1)]
    assert found.values[:, 0] == pytest.approx(reading[0].strengths[member])
    assert found.of_c[:, 0] == pytest.approx(reading[1].strengths[member])


def test_a_network_that_lacks_the_profiles_lends_nobody_its_name() -> None:
    """C's values stand beside the names of the networks that they are of."""
    nets = _recurring(looped1=1.0, baseline1=0.0, baseline2=0.0)
    nets.insert(1, network("other", "baseline", made(profile(np.ones(12), "skip.loss"), 12, "other")))
    found = measure(claim("period"), evidence(*nets), c=(1, 2, 3))
    assert found.c_places == (2, 3) and found.of_c is not None and found.of_c.shape[1] == 2
    assert "not measured so: other" in found.notes


def test_the_span_is_the_networks_though_a_folder_has_no_labels() -> None:
    labelled, plain = _recurring(looped1=1.0, baseline1=0.0)
    bare = network("looped1", "looped", made(periodic(12, 1.0, 0), 12, "looped1"), span=labelled.span)
    found, same = (measure(claim("period"), evidence(one, plain), c=(1,)) for one in (bare, labelled))
    assert not found.reason and found.values == pytest.approx(same.values)


def test_the_period_beside_the_control() -> None:
    own, control = made(periodic(12, 1.0, 0), 12, span=(0, 4, 3, "loop")), made(periodic(12, 0.0, 5), 12)
    span = (0, 4, 3, "loop")
    what = evidence(network("x", "looped", with_control(own, control)))
    found = measure(claim("period_beside_control"), what)
    nets = [network("x", "looped", own), network("c", "baseline", control)]
    beside = measure(claim("period"), evidence(*nets), c=(1,))
    assert beside.of_c is not None and span[1] == 4
    assert found.values[:, 0] == pytest.approx(beside.values[:, 0] - beside.of_c[:, 0])
    without = measure(claim("period_beside_control"), evidence(network("x", "looped", own)))
    assert without.reason == "no re-initialised control was measured"


def test_the_networks_own_block_is_found_where_it_is_planted() -> None:
    one = claim("period_own_block", roles=("grown/4", "grown/3"))
    four = network("four", "grown", made(periodic(24, 1.0, 0), 24, "four", span=(0, 4, 6, "grown")))
    wrong = network("three", "grown", made(periodic(24, 1.0, 1), 24, "three", span=(0, 3, 8, "grown")))
    what = evidence(four, wrong)
    right = BY_QUANTITY["period_own_block"](what, one, (0,), ())
    false = BY_QUANTITY["period_own_block"](what, one, (1,), ())
    assert right.values[0, 0] > 0.5 > 0 > false.values[0, 0]
    assert right.recurs[0] < 0.05 and false.recurs[1] > 0.05
    alone = BY_QUANTITY["period_own_block"](evidence(four), one, (0,), ())
    assert "needs networks with different blocks; there are blocks of 4 only" in alone.reason
    # A baseline's labels make no second block.
    labelled = network("b", "baseline", made(periodic(24, 0.0, 1), 24, "b", span=(0, 3, 8, "grown")))
    assert "of 4 only" in BY_QUANTITY["period_own_block"](evidence(four, labelled), one, (0,), ()).reason


def test_wrong_lengths_are_those_of_the_test_of_periods() -> None:
    rng = np.random.default_rng(2)
    profiles = np.exp(rng.standard_normal((3, 24)))
    found = wrong_strengths(profiles, 0, 4, 6, log=True)
    for row, values in enumerate(profiles):
        wrong = block_periodicity(values, 0, 4, 6, log=True).wrong_blocks
        assert {size: strengths[row] for size, strengths in found.items()} == pytest.approx(wrong)
    assert wrong_strengths(profiles, 0, 12, 2) == {}


@cache
def shipped(name: str) -> Signature:
    return Signature.load(data_path("signatures") / name)


def test_numbers_of_shipped_signatures_are_those_of_their_tables() -> None:
    """And intervals those of plain numpy."""
    one, other = shipped("midas-seed1-gsm8k"), shipped("baseline-seed1-gsm8k")
    what = evidence(network("m", "midas", one), network("b", "baseline", other), resamples=40)
    for name in ("depth_score.output.relative", "depth_score.effect.relative", "late_share"):
        found = measure(claim("score", name, "layer", "current", prompts="gsm8k"), what, c=(1,))
        for column, signature in enumerate((one, other)):
            table = signature.scores
            row = table[(table["score"] == name) & (table["scope"] == "current") & (table["agg"] == "mean")]
            assert found.values[0, column] == pytest.approx(float(row["value"].iloc[0]), rel=1e-5)
    samples = one.samples_table
    for scope in ("current", "future"):
        found = measure(claim("last_third", "skip.output_l2", "layer", scope, prompts="gsm8k"), what, c=(1,))
        rows = samples[
            (samples["metric"] == "skip.output_l2") & (samples["scope"] == scope) & (samples["agg"] == "mean")
        ]
        wide = rows.pivot_table(index="prompt", columns="index", values="value").to_numpy()
        draws = np.vstack([np.arange(20)[None], bootstrap_indices(20, 40, 0)])
        means = np.array([wide[draw].mean(0) for draw in draws])[:, : 24 if scope == "current" else 23]
        n = means.shape[1]
        share = [max(0.0, min(1.0, s + 1 - 2 * n / 3)) for s in range(n)]
        expected = [sum(w * v for w, v in zip(share, m, strict=True)) / m.sum() for m in means]
        assert found.values[:, 0] == pytest.approx(expected, rel=1e-9)
    lens = measure(claim("lacking", "lens.overlap5", "-", "-", prompts="gsm8k"), what, c=(1,))
    curve = one.profile("lens.overlap5")["value"].to_numpy()
    assert lens.values[0, 0] == pytest.approx(np.trapezoid(1 - curve, dx=1 / 24), rel=1e-6)


def test_a_known_share_of_the_last_third() -> None:
    one = claim("score", "late_share", "layer", "current")
    found = of_profile(one, {("skip.output_l2", "layer", "current", "step"): np.tile(late(12, 0.7), (6, 1))}, 12)
    # the share of four steps among twelve that weigh 0.15 / 4 each before
    assert found == pytest.approx(4 * 0.7 / (8 * 0.15 + 4 * 0.7))
