"""Unit tests of claims: against plain enumeration, known answers, false alarms, and what compare makes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_signatures import Values, late, noisy, periodic, signature, skip_only
from scipy.stats import binom

import depthsig
from depthsig.comparison.curves import Arm
from depthsig.comparison.strict.arm_claim import ArmClaim, closeness, difference
from depthsig.comparison.strict.halves import fixed_halves, halves_test, random_halves
from depthsig.comparison.strict.negatives import permute_labels, permuted_labels
from depthsig.comparison.strict.placebos import cheap_baseline, placebo
from depthsig.comparison.strict.unit_tests import all_told
from depthsig.errors import InputError
from depthsig.signature import Comparison, Signature
from depthsig.statistics.convergence import percentile_interval, prompt_weights, seed_weights, weighted_means

SPAN = (0, 4, 6, "loop")


def arms(*sizes: int, rows: int = 1) -> tuple[Arm, ...]:
    """Arms of these sizes, network by network."""
    ends = np.cumsum(sizes)
    return tuple(
        Arm(f"r{i}", tuple(range(end - size, end)), seed_weights(size, rows - 1, i))
        for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
    )


def claim_of(values: np.ndarray, *sizes: int, resamples: int = 0, **more: Any) -> ArmClaim:
    """A claim about means of ``values`` [prompt, model]."""
    weights = prompt_weights(len(values), resamples, 0)
    return ArmClaim(arms(*sizes, rows=resamples + 1), lambda w: weighted_means(values, w), weights, **more)


# ---------------------------------------------------------------- permuted labels


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (3, 3), (2, 4)], ids=str)
@pytest.mark.parametrize("above", [True, False])
def test_the_label_p_is_that_of_plain_enumeration(sizes: tuple[int, int], above: bool) -> None:
    values = np.random.default_rng(sum(sizes)).standard_normal(sum(sizes))
    found = permute_labels(claim_of(values[None], *sizes, above=above), values[None])
    a, sign = sizes[0], 1 if above else -1
    true = sign * (values[:a].mean() - values[a:].mean())
    # Every order of the networks, each labelling many times over: the shares are the same.
    orders = [np.array(order) for order in permutations(range(sum(sizes)))]
    every = [sign * (values[o[:a]].mean() - values[o[a:]].mean()) for o in orders]
    assert found.p == pytest.approx(np.mean([one >= true - 1e-12 for one in every]))
    assert found.labellings == math.comb(sum(sizes), a) and found.smallest == 1 / found.labellings


def test_the_label_p_of_distances_is_that_of_plain_enumeration() -> None:
    rng = np.random.default_rng(1)
    points = np.r_[rng.normal(0, 1, (2, 3)), rng.normal(0.5, 1, (2, 3)), rng.normal(1, 1, (1, 3))]
    distance = np.abs(points[:, None] - points[None]).mean(-1)
    claim = ArmClaim(
        arms(2, 2, 1), lambda w: distance[None], prompt_weights(1, 0), closeness, above=False, symmetric=True
    )
    found = permute_labels(claim, distance[None])

    def plain(o: tuple[int, ...]) -> float:
        def mean(one: tuple[int, ...], other: tuple[int, ...]) -> float:
            return float(np.mean([distance[i, j] for i in one for j in other]))

        a, b, c = o[:2], o[2:4], o[4:]
        return mean(a, b) - min(mean(a, c), mean(b, c))

    every = np.array([plain(o) for o in permutations(range(5))])
    assert found.p == pytest.approx(np.mean(every <= every[0] + 1e-12))
    # A and B may change places, so that two of thirty labellings are always as good.
    assert found.labellings == 30 and found.smallest == pytest.approx(2 / 30)


def test_few_networks_can_fail_the_label_test_and_not_pass_it() -> None:
    apart, mixed = np.array([[4.0, 5.0, 1.0, 2.0]]), np.array([[4.0, 1.0, 2.0, 3.0]])
    few = permuted_labels(claim_of(apart, 2, 2), apart)
    assert few.passed == "not tested" and few.value == pytest.approx(1 / 6) and "too few networks" in few.note
    assert permuted_labels(claim_of(mixed, 2, 2), mixed).passed == "no"
    assert permuted_labels(claim_of(apart[:, 1:3], 1, 1), apart[:, 1:3]).passed == "not tested"
    three = np.array([[4.0, 5.0, 6.0, 1.0, 2.0, 3.0]])
    found = permuted_labels(claim_of(three, 3, 3), three)
    assert found.passed == "yes" and found.value == pytest.approx(0.05)
    assert permuted_labels(claim_of(three, 3, 3, above=False), three).passed == "no"
    undefined = three.copy()
    undefined[0, 2] = np.nan
    assert permuted_labels(claim_of(undefined, 3, 3), undefined).passed == "not tested"


def test_many_networks_are_dealt_out_at_random_and_the_true_labelling_counts() -> None:
    values = np.r_[np.ones(12), np.zeros(12)][None] + np.random.default_rng(0).normal(0, 0.1, 24)
    found = permute_labels(claim_of(values, 12, 12), values, most=300)
    assert found.labellings == 300 and found.p == found.smallest == 1 / 300
    nothing = np.random.default_rng(3).standard_normal((1, 10))
    exact, drawn = (permute_labels(claim_of(nothing, 5, 5), nothing, most=most).p for most in (252, 250))
    assert exact * 252 == pytest.approx(round(exact * 252)) and abs(drawn - exact) < 0.1


# ---------------------------------------------------------------- halves


def test_halves_are_disjoint_and_even_in_length() -> None:
    lengths = np.array([5, 90, 6, 80, 7, 70, 8])
    drawn = random_halves(lengths, 50, 0)
    assert drawn.shape == (50, 7) and set(drawn.sum(1)) == {3, 4} and len({tuple(r) for r in drawn.tolist()}) > 8
    for pair in ((0, 2), (4, 6), (5, 3)):  # neighbours in length
        assert (drawn[:, list(pair)].sum(1) == 1).all()
    named = fixed_halves(lengths)
    assert named["the first prompts and the last"].tolist() == [True] * 3 + [False] * 4
    assert named["the short prompts and the long"].tolist() == [True, False, True, False, True, False, False]
    assert len(fixed_halves(np.full(6, 9))) == 1


def _effect(effects: np.ndarray, seed: int = 0) -> ArmClaim:
    """Two networks an arm, the first arm higher by an effect prompt by prompt."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (len(effects), 4))
    return claim_of(noise + np.c_[effects, effects, 0 * effects, 0 * effects], 2, 2, resamples=300)


@pytest.mark.parametrize(
    ("effects", "passed", "says"),
    [
        (np.full(20, 0.5), "yes", "100% of 200"),
        (np.r_[np.full(10, 0.5), np.zeros(10)], "no", "rests on one half of the first prompts and the last"),
        (np.r_[np.full(10, 0.6), np.full(10, -0.3)], "no", "contradicts it"),
        (np.tile([0.6, 0.0], 10), "no", "rests on one half of the short prompts and the long"),
        (np.r_[3.0, np.zeros(19)], "no", "the sign holds in"),
    ],
    ids=["everywhere", "first half", "other half against", "short ones", "one prompt"],
)
def test_a_difference_must_not_rest_on_one_half(effects: np.ndarray, passed: str, says: str) -> None:
    claim = _effect(effects)
    rows = claim.quantity(claim.weights)
    assert rows[0] > 0
    found = halves_test(claim, np.tile([10, 20], 10), 0)
    assert found.passed == passed and says in found.note
    # The same the other way round, claimed to lie below.
    upside_down = replace(claim, measure=lambda w: -claim.measure(w), above=False)
    assert halves_test(upside_down, np.tile([10, 20], 10), 0).note == found.note


def test_too_few_prompts_cannot_be_halved() -> None:
    assert halves_test(_effect(np.full(9, 0.5)), np.arange(9)).passed == "not tested"


def test_the_share_of_halves_is_that_of_plain_code() -> None:
    effects = np.random.default_rng(2).normal(0.05, 0.5, 12)
    claim, lengths = _effect(effects), np.full(12, 7)
    values = claim.measure(np.eye(12))  # prompt by prompt
    signs = []
    for half in random_halves(lengths, 100, 0):
        for side in (half, ~half):
            mean = values[side].mean(0)
            signs.append(mean[:2].mean() > mean[2:].mean())
    assert halves_test(claim, lengths, 0).value == pytest.approx(np.mean(signs))


# ---------------------------------------------------------------- baselines


def test_a_baseline_counts_in_its_own_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 400))
    strong, weak = (np.r_[z, z + own] for z, own in zip((12.0, 2.0), noise, strict=True))
    found = cheap_baseline(0.01 * strong, 100 * weak, "b")
    expected = strong / strong[1:].std() - weak / weak[1:].std()
    assert found.passed == "yes"
    assert (found.value, found.low, found.high) == pytest.approx(percentile_interval(expected))
    assert cheap_baseline(weak, strong, "b").passed == "no"
    assert cheap_baseline(weak, -strong, "b").passed == "no"  # the other way, but as surely
    assert cheap_baseline(strong, strong, "b").passed == "no"
    assert cheap_baseline(np.ones(5), strong[:5], "b").passed == "not tested"
    assert placebo(strong, "").passed == "yes" and placebo(-strong, "").passed == "no"
    assert placebo(np.ones(1), "x").passed == "not tested"


# ---------------------------------------------------------------- in compare


@cache
def _late(share: float, seed: int, *, norms: float = 1 / 3, spread: float = 0.1, n: int = 20, kind: str = "zero",
          texts: str = "p", name: str | None = None, control: float | None = None) -> Signature:  # fmt: skip
    """A network whose last third has a share of what skipping does, and of the norms of contributions."""
    rng = np.random.default_rng(seed)
    # Each network differs a little from the others of its arm.
    profile = late(12, share) * np.exp(0.01 * rng.standard_normal(12))
    values: Values = {
        ("skip.output_l2", "layer", "current", "step"): noisy(profile, n, seed),
        ("contribution.relative", "layer", "", "step"): noisy(late(12, norms), n, seed + 100, spread),
    }
    made = signature(
        values, 12, name=name or f"net{seed}", texts=[f"{texts} {i}" for i in range(n)], options={"ablation": kind}
    )
    return made if control is None else replace(made, control=_late(control, seed, n=n))


def _arms(high: float, low: float = 1 / 3, **more: Any) -> dict[str, list[Signature]]:
    return {
        "looped": [_late(high, i, **more) for i in range(3)],
        "baseline": [_late(low, 10 + i, **more) for i in range(3)],
    }


def _strict(roles: dict[str, list[Signature]], **more: Any) -> Comparison:
    everyone = [one for members in roles.values() for one in members]
    return depthsig.compare(everyone, roles=roles, strict=True, progress=False, **{"resamples": 200, **more})


def _passed(found: Comparison, claim: str = "late") -> dict[str, str]:
    rows = found.unit_tests[found.unit_tests["claim"] == claim]
    return dict(zip(rows["test"], rows["passed"], strict=True))


LATE_TESTS = ["halves", "reworded", "permuted labels", "re-initialised", "random ablation", "cheap baseline"]


def test_a_planted_difference_stands() -> None:
    roles = _arms(0.6, control=1 / 3)
    other = {"reworded": _arms(0.6, texts="q"), "random_ablation": _arms(0.4, kind="random")}
    found = _strict(roles, **other)
    assert _passed(found) == dict.fromkeys(LATE_TESTS, "yes") and set(found.unit_tests["strict"]) == {"stands"}
    (said,) = [s for s in found.sentences() if s.startswith("late")]
    assert said.startswith("late (looped): supported. ") and "strict: stands; passes halves, reworded" in said
    # Without what can be given beside it, the same claim is untested, and says what would test it.
    bare = _strict(_arms(0.6))
    expected = dict.fromkeys(LATE_TESTS, "yes") | dict.fromkeys(
        ["reworded", "re-initialised", "random ablation"], "not tested"
    )
    assert _passed(bare) == expected and set(bare.unit_tests["strict"]) == {"untested"}
    notes = bare.unit_tests.set_index("test")["note"]
    assert "--reworded looped=DIR,baseline=DIR" in notes["reworded"] and "--control" in notes["re-initialised"]
    assert "--ablation random" in notes["random ablation"]


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({"roles": {"control": 0.6}}, "re-initialised"),
        ({"roles": {"norms": 0.6, "spread": 0.001}, "spread": 0.001}, "cheap baseline"),
        ({"reworded": (1 / 3, "q")}, "reworded"),
        ({"random": 0.65}, "random ablation"),
    ],
    ids=["control", "cheap", "reworded", "random"],
)
def test_a_difference_that_something_else_makes_falls(changed: dict[str, Any], fails: str) -> None:
    own = changed.get("roles", {})
    roles = {
        "looped": [_late(0.6, i, **own) for i in range(3)],
        "baseline": _arms(0.6, control=1 / 3, spread=changed.get("spread", 0.1))["baseline"],
    }
    other: dict[str, Any] = {}
    if "reworded" in changed:
        share, texts = changed["reworded"]
        other["reworded"] = _arms(share, texts=texts)
    if "random" in changed:
        other["random_ablation"] = _arms(changed["random"], kind="random")
    found = _strict(roles, **other)
    failed = [test for test, passed in _passed(found).items() if passed == "no"]
    assert failed == [fails] and set(found.unit_tests["strict"]) == {"falls"}
    (said,) = [s for s in found.sentences() if s.startswith("late")]
    assert said.startswith(f"late (looped): supported, but fails: {fails} (")


def test_claims_that_are_not_supported_are_not_tested() -> None:
    roles = _arms(1 / 3, 0.6)
    found = _strict(roles)
    assert found.unit_tests.empty and set(found.claims["verdict"]) == {"contradicted", "undecided"}


def test_a_control_beside_a_trained_baseline_can_only_fail() -> None:
    for share, passed in ((0.6, "no"), (1 / 3, "not tested")):
        roles = _arms(0.6)
        roles["looped"] = [replace(one, control=_late(share, i)) for i, one in enumerate(roles["looped"])]
        found = _strict(roles)
        assert _passed(found)["re-initialised"] == passed
        note = found.unit_tests.set_index("test")["note"]["re-initialised"]
        assert "baseline as it was trained: it has no control" in note


def test_the_same_prompts_are_no_rewording() -> None:
    found = _strict(_arms(0.6), reworded=_arms(0.6))
    row = found.unit_tests.set_index("test").loc["reworded"]
    assert row["passed"] == "not tested" and "20 of its prompts are those of the claim" in row["note"]
    strangers = _arms(0.6, texts="q")
    strangers["looped"] = [_late(0.6, 50 + i, texts="q") for i in range(3)]
    row = _strict(_arms(0.6), reworded=strangers).unit_tests.set_index("test").loc["reworded"]
    assert row["passed"] == "yes" and "of other networks: net50, net51, net52" in row["note"]


def test_random_ablation_is_paired_network_by_network() -> None:
    """The same answer in whatever order its signatures come; others than the claim's networks say nothing."""
    shares = [0.55, 0.45, 0.4]
    random = _arms(0.4, kind="random")
    random["looped"] = [_late(s, i, kind="random") for i, s in enumerate(shares)]
    turned = {role: members[::-1] for role, members in random.items()}
    rows = [
        _strict(_arms(0.6), random_ablation=r).unit_tests.set_index("test").loc["random ablation"]
        for r in (random, turned)
    ]
    assert rows[0][["value", "ci_low", "ci_high"]].tolist() == rows[1][["value", "ci_low", "ci_high"]].tolist()
    share = [np.mean([_last_third(one) for one in random[role]]) for role in random]
    own = [np.mean([_last_third(one) for one in members]) for members in _arms(0.6).values()]
    assert rows[0]["value"] == pytest.approx((own[0] - own[1]) - (share[0] - share[1]), rel=1e-9)
    random["looped"][0] = _late(0.4, 70, kind="random")
    row = _strict(_arms(0.6), random_ablation=random).unit_tests.set_index("test").loc["random ablation"]
    assert row["passed"] == "not tested" and "net0" in row["note"]


def _last_third(one: Signature) -> float:
    rows = one.samples_table[one.samples_table["metric"] == "skip.output_l2"]
    profile = rows.groupby("index")["value"].mean().to_numpy(float)
    return float(profile[8:].sum() / profile.sum())


def test_recurrence_is_tested_beside_wrong_blocks() -> None:
    roles = {
        "looped": [signature(periodic(24, 1.0, i), 24, name=f"a{i}", span=SPAN) for i in range(3)],
        "baseline": [signature(periodic(24, 0.0, 10 + i), 24, name=f"c{i}") for i in range(3)],
    }
    # The controls recur as well: running the same weights again makes the pattern.
    for i, one in enumerate(roles["looped"]):
        control = signature(periodic(24, 1.0, 30 + i), 24, name="fresh", span=SPAN)
        roles["looped"][i] = replace(one, control=control)
    found = _strict(roles, resamples=60)
    assert _passed(found, "recurrence") == {
        "halves": "yes", "reworded": "not tested", "permuted labels": "yes", "re-initialised": "no", "placebo": "yes",
    }  # fmt: skip
    rows = found.unit_tests.query("claim == 'recurrence'").set_index("test")
    assert "wrong blocks (3, 5, 6, 7)" in rows.loc["placebo", "note"] and set(rows["strict"]) == {"falls"}


def test_convergence_is_tested_beside_shuffled_roles() -> None:
    bump, ramp = np.r_[1.0, 5, 1, 1, 1, 1, 1, 1, 1], np.arange(1.0, 10)
    values = {"looped": bump, "grown": 3 * bump, "baseline": ramp}
    roles = {
        role: [signature(skip_only(v, 10 * r + i, 20), 9, name=f"{role}{i}") for i in range(3)]
        for r, (role, v) in enumerate(values.items())
    }
    found = _strict(roles)
    passed = _passed(found, "convergence")
    assert passed == {
        "halves": "yes", "reworded": "not tested", "permuted labels": "yes", "re-initialised": "not tested",
        "placebo": "yes",
    }  # fmt: skip
    row = found.unit_tests.query("claim == 'convergence'").set_index("test").loc["permuted labels"]
    # Of 1680 labellings, 20 leave the ramps together: networks of bumps may mix, and some of these do as well.
    assert 2 / 1680 <= row["value"] <= 20 / 1680 and row["value"] * 1680 == pytest.approx(round(row["value"] * 1680))
    one_each = {role: members[:1] for role, members in roles.items()}
    assert _passed(_strict(one_each), "convergence")["placebo"] == "not tested"


def test_nothing_stands_more_often_than_it_may() -> None:
    """400 claims about arms that are alike: networks differ, prompts differ, and roles mean nothing."""
    rng, n, stands, supported = np.random.default_rng(0), 20, 0, 0
    for number in range(400):
        networks = rng.normal(0, 0.1, 6) + rng.normal(0, 0.1, (n, 6))
        claim = claim_of(networks, 3, 3, resamples=200)
        rows = claim.quantity(claim.weights)
        if percentile_interval(rows)[1] <= 0:
            continue
        supported += 1
        outcomes = [
            halves_test(claim, np.arange(n), number), permuted_labels(claim, claim.measure(claim.weights)),
        ]  # fmt: skip
        stands += all_told(outcomes) == "stands"
    assert supported > 0.05 * 400  # three networks an arm give too narrow an interval: this is why labels are permuted
    assert stands <= binom.ppf(0.99, 400, 0.05)


# ---------------------------------------------------------------- what is asked for, and what is kept


def test_without_strict_nothing_is_added(tmp_path: Any) -> None:
    roles = _arms(0.6)
    everyone = [one for members in roles.values() for one in members]
    plain = depthsig.compare(everyone, roles=roles, resamples=50, out=tmp_path / "c", progress=False)
    assert plain.unit_tests.empty and not (tmp_path / "c" / "unit_tests.csv").exists()
    assert not {"strict", "reworded", "random_ablation"} & set(plain.info["options"])
    assert "strict" not in " ".join(plain.sentences())
    strict = _strict(roles)
    strict.save(tmp_path / "s")
    again = Comparison.load(tmp_path / "s")
    pd.testing.assert_frame_equal(again.unit_tests, strict.unit_tests)
    assert again.sentences() == strict.sentences() and again.info["options"]["strict"] is True
    pd.testing.assert_frame_equal(strict.claims, depthsig.compare(everyone, roles=roles, resamples=200).claims)
    table = (tmp_path / "s" / "unit_tests.csv").read_text()
    (tmp_path / "s" / "unit_tests.csv").write_text(table.replace(",yes,", ",perhaps,"))
    with pytest.raises(InputError, match=r"unit_tests\.csv.*perhaps"):
        Comparison.load(tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reworded": "looped=x,baseline=y"}, "--reworded goes with --strict"),
        ({"random_ablation": {"looped": "x"}}, "--random-ablation goes with --strict"),
        ({"strict": True, "reworded": "x"}, r"--reworded.*cannot be read"),
        ({"strict": True, "reworded": {"teacher": "x"}}, "--reworded"),
        ({"strict": True, "reworded": 3}, "reworded is 3"),
    ],
    ids=["reworded alone", "random alone", "no role", "strange role", "a number"],
)
def test_what_cannot_be_tested_is_refused(options: dict[str, Any], says: str) -> None:
    roles = _arms(0.6)
    with pytest.raises(InputError, match=says) as refused:
        depthsig.compare([one for members in roles.values() for one in members], roles=roles, **options)
    assert "--roles" not in str(refused.value)


def test_signatures_of_another_ablation_are_no_random_ones() -> None:
    with pytest.raises(InputError, match="measured with --ablation zero; analyze it with --ablation random"):
        _strict(_arms(0.6), random_ablation=_arms(0.6))


def test_arms_share_no_network() -> None:
    weights = prompt_weights(5, 0)
    for bad in ((Arm("a", (0,), np.ones((1, 1))),), (Arm("a", (0,), np.ones((1, 1))), Arm("c", (0,), np.ones((1, 1))))):
        with pytest.raises(InputError, match="share no network"):
            ArmClaim(bad, lambda w: w, weights, difference)
