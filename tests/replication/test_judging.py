"""Verdicts: who takes part, on which prompts, what is said of it, and that nothing is compared in silence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_evidence import claim, evidence, made, network, profile
from made_signatures import late, noisy, periodic

from depthsig.replication.criteria import Claim
from depthsig.replication.gathered import Gathered
from depthsig.replication.judging import judge
from depthsig.replication.members import TrainedNetwork
from depthsig.signature import Signature

SHARE = ("late_share", "layer", "current")


def deep(share: float, seed: int = 0, name: str = "model", **options: Any) -> Signature:
    values = {("skip.output_l2", "layer", "current", "step"): noisy(late(12, share), seed=seed)}
    return made(values, 12, name, options=options)


def verdict(one: Claim, what: Gathered) -> dict[str, Any]:
    (row,) = judge(what, [one]).claims.to_dict("records")
    return row


def late_claim(**other: Any) -> Claim:
    return claim("score", *SHARE, **{"network_sd": 0.02, "network_df": 6, **other})


def test_a_larger_share_is_supported_and_a_smaller_contradicted() -> None:
    nets = [network("l", "looped", deep(0.6, 1, "l")), network("b", "baseline", deep(0.3, 2, "b"))]
    found = judge(
        evidence(*nets),
        [
            late_claim(),
            late_claim(id="E0.b", above=False),
            late_claim(id="E0.c", roles=("baseline",), against="looped"),
        ],
    )
    assert found.claims["verdict"].tolist() == ["supported", "contradicted", "contradicted"]
    row = found.claims.iloc[0]
    own = found.networks[found.networks["claim"] == "E0.made"].set_index("network")["value"]
    assert row["estimate"] == pytest.approx(own["l"] - own["b"]) and row["ci_low"] < row["estimate"] < row["ci_high"]
    assert "networks: 1 of looped, 1 of baseline" in row["note"] and "of the reference family, 6 df" in row["note"]
    assert set(found.curves["network"]) == {"l", "b"} and len(found.curves[found.curves["network"] == "l"]) % 12 == 0


def test_without_knowledge_of_networks_nothing_is_decided() -> None:
    nets = [network("l", "looped", deep(0.6, 1, "l")), network("b", "baseline", deep(0.3, 2, "b"))]
    row = verdict(late_claim(network_sd=math.nan, network_df=0), evidence(*nets))
    assert row["verdict"] == "undecided" and row["ci_low"] > 0 and "these networks alone" in row["note"]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (claim("held_equal"), "what its networks cost was not recorded"),
        (late_claim(roles=("midas",)), "no network has the role midas"),
        (late_claim(against="lidas"), "no network has the role lidas"),
        (claim("last_third", "skip.loss", "layer", "current"), "skip.loss (layer, current) was not measured"),
        (claim("lacking", "tuned.overlap5", "-", "-"), "it needs a tuned lens"),
        (claim("period"), "no span is declared or observed in l"),
        (claim("repeat_change", "2"), "needs a checkpoint"),
        (claim("pruning", "loss"), "needs a checkpoint"),
        (late_claim(change=True), "no network has the role looped-after"),
    ],
    ids=lambda value: value.quantity if isinstance(value, Claim) else "",
)
def test_what_cannot_be_measured_says_why(one: Claim, said: str) -> None:
    nets = [network("l", "looped", deep(0.6, 1, "l")), network("b", "baseline", deep(0.3, 2, "b"))]
    row = verdict(one, evidence(*nets))
    assert row["verdict"] == "not measurable" and said in row["note"] and np.isnan(row["estimate"])


def test_one_prompt_and_few_prompts_decide_nothing() -> None:
    for n in (1, 4):
        values = [{("skip.output_l2", "layer", "current", "step"): noisy(late(12, s), n=n)} for s in (0.7, 0.2)]
        nets = [network(r, r, made(v, 12, r)) for r, v in zip(("looped", "baseline"), values, strict=True)]
        row = verdict(late_claim(), evidence(*nets))
        assert row["verdict"] == "undecided" and np.isnan(row["ci_low"]) and np.isfinite(row["estimate"])
        assert "too few" in row["note"]


def test_a_network_without_the_number_makes_it_not_measurable() -> None:
    zeros = made(profile(np.zeros(12), "skip.output_l2"), 12, "z")
    nets = [network("z", "looped", zeros), network("b", "baseline", deep(0.3, 2, "b"))]
    row = verdict(claim("last_third", "skip.output_l2", "layer", "current"), evidence(*nets))
    assert row["verdict"] == "not measurable" and "undefined in a network" in row["note"]


def test_a_change_is_judged_by_four_arms() -> None:
    shares = {"looped-before": 0.4, "looped-after": 0.7, "baseline-before": 0.4, "baseline-after": 0.3}
    nets = [network(role, role, deep(share, n, role)) for n, (role, share) in enumerate(shares.items())]
    one = late_claim(change=True, network_sd=0.01, network_df=30)
    found = judge(evidence(*nets), [one])
    row, own = found.claims.iloc[0], found.networks.set_index("network")["value"]
    expected = own["looped-after"] - own["looped-before"] - (own["baseline-after"] - own["baseline-before"])
    assert row["estimate"] == pytest.approx(expected) and row["verdict"] == "supported"
    other = judge(evidence(*nets), [replace(one, roles=("baseline",), against="looped")]).claims.iloc[0]
    assert other["estimate"] == pytest.approx(-expected) and other["verdict"] == "contradicted"


def _sets(**prompts: float) -> list[Signature]:
    return [deep(share, prompts=name) for name, share in prompts.items()]


def test_the_prompts_that_are_asked_for_are_taken_where_every_role_has_them() -> None:
    nets = [
        network("l1", "looped", *_sets(other=0.9, made=0.6)), network("l2", "looped", *_sets(other=0.9)),
        network("b", "baseline", *_sets(made=0.3, other=0.2)),
    ]  # fmt: skip
    row = verdict(late_claim(), evidence(*nets))
    assert "networks: 1 of looped" in row["note"] and "not measured so: l2" in row["note"]
    assert "on other" not in row["note"]


def test_other_prompts_are_taken_where_a_role_has_nothing_on_those_asked_for_and_it_is_said() -> None:
    nets = [
        network("l", "looped", *_sets(made=0.6, other=0.9)), network("b", "baseline", *_sets(other=0.2)),
    ]  # fmt: skip
    row = verdict(late_claim(), evidence(*nets))
    assert row["verdict"] == "supported" and "on other" in row["note"] and "not measured so" not in row["note"]


def test_sets_without_a_role_in_common_compare_nothing() -> None:
    nets = [network("l", "looped", *_sets(made=0.6)), network("b", "baseline", *_sets(other=0.2))]
    row = verdict(late_claim(), evidence(*nets))
    assert row["verdict"] == "not measurable" and "nothing of it was measured in the role" in row["note"]


def test_the_same_prompts_cut_at_other_lengths_are_refused() -> None:
    values = {("skip.output_l2", "layer", "current", "step"): noisy(late(12, 0.6))}
    long = made(values, 12, "l", options={"max_tokens": 256})
    short = made(values, 12, "b", tokens="cut", options={"max_tokens": 64})
    row = verdict(late_claim(), evidence(network("l", "looped", long), network("b", "baseline", short)))
    assert row["verdict"] == "not measurable" and "l after 256, b after 64" in row["note"]
    # Where no prompt is longer than either, the tokens are the same, and so is what is measured.
    short = made(values, 12, "b", options={"max_tokens": 64})
    row = verdict(late_claim(), evidence(network("l", "looped", long), network("b", "baseline", short)))
    assert row["estimate"] == 0


def test_other_tokenizers_and_fewer_prompts_are_said() -> None:
    values = {("skip.output_l2", "layer", "current", "step"): noisy(late(12, 0.6), n=20)}
    fewer = {("skip.output_l2", "layer", "current", "step"): noisy(late(12, 0.3), n=8)}
    nets = [
        network("l", "looped", made(values, 12, "l")),
        network("b", "baseline", made(fewer, 12, "b", tokens="other")),
    ]
    note = verdict(late_claim(), evidence(*nets))["note"]
    assert "only the 8 prompts that all have" in note and "tokens differ on 8 of 8 prompts" in note


def test_signatures_measured_otherwise_are_refused() -> None:
    nets = [network("l", "looped", deep(0.6, ablation="mean")), network("b", "baseline", deep(0.3))]
    row = verdict(late_claim(), evidence(*nets))
    assert row["verdict"] == "not measurable" and "differ in --ablation" in row["note"]


def _recurring(looped: float, baseline: float) -> Gathered:
    loop = made(periodic(12, looped, 1), 12, "l", span=(0, 4, 3, "loop"))
    return evidence(network("l", "looped", loop), network("b", "baseline", made(periodic(12, baseline, 2), 12, "b")))


def test_support_needs_a_period_that_is_one() -> None:
    one = claim("period", also="recurs", network_sd=0.01, network_df=6)
    assert verdict(one, _recurring(1.0, 0.0))["verdict"] == "supported"
    weak = verdict(one, _recurring(0.12, 0.0))
    assert weak["verdict"] != "supported" and "no period of the block at 0.05" in weak["note"]
    assert verdict(one, _recurring(0.0, 1.0))["verdict"] == "contradicted"


def _loss(value: float, name: str, vocabulary: int | None = 100) -> Signature:
    values = {
        ("skip.output_l2", "layer", "current", "step"): noisy(late(12, 0.6)),
        ("lens.target_nll", "", "", "depth"): np.tile(np.linspace(9, value, 13), (12, 1)),
    }
    found = made(values, 12, name)
    found.info["checkpoint"]["vocabulary"] = vocabulary
    return found


def test_networks_that_have_learned_nothing_take_no_part() -> None:
    guess = math.log(100)
    nets = [
        network("good", "looped", _loss(0.8 * guess, "good")), network("bad", "looped", _loss(0.95 * guess, "bad")),
        network("b", "baseline", _loss(1.0, "b")),
    ]  # fmt: skip
    row = verdict(late_claim(), evidence(*nets))
    assert (
        "networks: 1 of looped" in row["note"]
        and "bad has learned nothing (loss 4.37, 4.61 for a guess)" in row["note"]
    )
    row = verdict(late_claim(), evidence(*nets[1:]))
    assert row["verdict"] == "not measurable" and row["note"].startswith("bad has learned nothing")
    unknown = [network("bad", "looped", _loss(0.95 * guess, "bad", None)), nets[2]]
    assert verdict(late_claim(), evidence(*unknown))["verdict"] != "not measurable"


def test_judging_again_says_the_same() -> None:
    def once() -> Any:
        nets = [network("l", "looped", deep(0.6, 1, "l")), network("b", "baseline", deep(0.3, 2, "b"))]
        return judge(evidence(*nets), [late_claim()])

    one, other = once(), once()
    for name in ("claims", "networks", "curves"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


# --- runs ---------------------------------------------------------------------------------------------------------


def runs(run: str, **networks: dict[int, list[float]]) -> pd.DataFrame:
    """Losses by network and condition, items in tasks of four; exact where the loss is below 1."""
    rows = [
        {"run": run, "network": name, "task": f"task {item // 4}", "item": item % 4, "condition": condition,
         "loss": loss, "exact": float(loss < 1)}
        for name, by_condition in networks.items() for condition, losses in by_condition.items()
        for item, loss in enumerate(losses)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _nets(**tokens: str) -> list[TrainedNetwork]:
    return [
        TrainedNetwork(name, role, 12, tokens=cut)
        for (name, cut), role in zip(tokens.items(), ("looped", "baseline"), strict=True)
    ]


def test_runs_are_means_over_tasks_of_means_over_items() -> None:
    a = {1: [2.0] * 8, 2: [1.0, 1, 1, 1, 0, 0, 0, 0], 3: [3.0] * 8, 4: [5.0] * 8}
    c = {t: [2.0] * 8 for t in (1, 2, 3, 4)}
    what = evidence(*_nets(l="x", b="x"), runs=runs("repeat", l=a, b=c))
    known = {"network_sd": 0.01, "network_df": 9}
    row = verdict(claim("repeat_change", "2", above=False, **known), what)
    assert (
        row["estimate"] == pytest.approx(-1.5) and row["verdict"] == "supported" and "2 tasks, 8 items" in row["note"]
    )
    assert verdict(claim("repeat_best", against=0, **known), what)["estimate"] == pytest.approx(2 - 0.5)
    assert verdict(claim("repeat_slope", **known), what)["estimate"] == pytest.approx((5 - 0.5) / 2)
    row = verdict(claim("repeat_change", "7", **known), what)
    assert row["verdict"] == "not measurable" and "was not run at 7; there is 1, 2, 3, 4" in row["note"]


def test_tasks_weigh_the_same_and_unanswered_items_take_no_part() -> None:
    frame = runs("repeat", l={1: [0.0] * 8, 2: [4.0] * 8}, b={1: [0.0] * 8, 2: [0.0] * 8})
    lost = (frame["task"] == "task 0") & (frame["item"] > 0) & (frame["network"] == "b")
    frame.loc[(frame["task"] == "task 0") & (frame["condition"] == 2) & (frame["network"] == "l"), "loss"] = 2.0
    what = evidence(*_nets(l="x", b="x"), runs=frame[~lost])
    row = verdict(claim("repeat_change", "2"), what)
    assert row["estimate"] == pytest.approx(3.0) and "2 tasks, 5 items" in row["note"]
    frame.loc[frame["network"] == "b", "loss"] = np.nan
    assert (
        verdict(claim("repeat_change", "2"), evidence(*_nets(l="x", b="x"), runs=frame))["verdict"] == "not measurable"
    )


def test_other_tokenizers_are_said_of_runs_too() -> None:
    frame = runs("repeat", l={1: [1.0] * 8, 2: [2.0] * 8}, b={1: [1.0] * 8, 2: [2.0] * 8})
    assert (
        "tokenizers differ" in verdict(claim("repeat_change", "2"), evidence(*_nets(l="x", b="y"), runs=frame))["note"]
    )
    same = verdict(claim("repeat_change", "2"), evidence(*_nets(l="x", b="x"), runs=frame))
    assert "tokenizers differ" not in same["note"]


def test_pruning_is_the_mean_rise_and_shots_a_slope() -> None:
    frame = runs(
        "pruning.loss",
        l={0: [1.0] * 8, 1: [2.0] * 8, 2: [4.0] * 8},
        b={0: [3.0] * 8, 1: [3.0] * 8, 2: [3.0] * 8, 3: [9.0] * 8},
    )
    row = verdict(claim("pruning", "loss"), evidence(*_nets(l="x", b="x"), runs=frame))
    assert row["estimate"] == pytest.approx(2.0) and "starting loss l 1.00, b 3.00" in row["note"]
    half, all_ = [0.0] * 4 + [2.0] * 4, [0.0] * 8
    frame = runs("shots", l={0: [2.0] * 8, 1: half, 3: all_}, b={0: [2.0] * 8, 1: [2.0] * 8, 3: [2.0] * 8})
    row = verdict(claim("shots_slope"), evidence(*_nets(l="x", b="x"), runs=frame))
    assert row["estimate"] == pytest.approx(np.polyfit([0, 1, 2], [0, 0.5, 1], 1)[0])
    one = runs("shots", l={0: all_}, b={0: all_})
    assert verdict(claim("shots_slope"), evidence(*_nets(l="x", b="x"), runs=one))["verdict"] == "not measurable"


def test_conditions_that_nobody_shares_compare_nothing() -> None:
    frame = runs("repeat", l={1: [1.0] * 8}, b={2: [1.0] * 8})
    row = verdict(claim("repeat_change", "2"), evidence(*_nets(l="x", b="x"), runs=frame))
    assert row["verdict"] == "not measurable"


def test_a_network_that_could_not_be_run_says_why() -> None:
    nets = _nets(l="x", b="x")
    nets[0] = replace(nets[0], reasons={"repeat": "l: steps 4:8 cannot be run again"})
    row = verdict(claim("repeat_change", "2"), evidence(*nets, runs=runs("repeat", b={1: [1.0] * 8, 2: [1.0] * 8})))
    assert row["verdict"] == "not measurable" and "steps 4:8 cannot be run again" in row["note"]


def test_an_arm_of_which_nothing_was_measured_is_not_told_from_the_other_by_its_blocks() -> None:
    """The seed of a baseline that ships as tables holds no exchanged blocks, of whatever length."""
    costs = ("order.skip_block.kl", "-", "-", "order.swap_next.kl", "-", "-")
    values = {(name, "", "", ""): np.tile(np.arange(1.0, 12.0), (6, 1)) for name in costs[::3]}
    nets = [network("t", "grown", deep(0.5, 1, "t")), network("b", "baseline", made(values, 12, "b"))]
    for a, c in (("grown", "baseline"), ("baseline", "grown")):
        row = verdict(claim("log_ratio", *costs, roles=(a,), against=c), evidence(*nets))
        assert row["verdict"] == "not measurable" and "nothing of it was measured in the role grown" in row["note"]
