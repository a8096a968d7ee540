"""What is measured: what the claims need of a network, and nothing that a folder holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_evidence import claim, made, profile, with_control
from made_signatures import Values, periodic

from depthsig.errors import InputError
from depthsig.metrics.rules import EARLY_EXIT_LOSS, FAMILY
from depthsig.replication.criteria import criteria
from depthsig.replication.members import TrainedNetwork, alike, arm, check_roles, split_roles
from depthsig.replication.needs import Wanted, concerning, measured, prompts_of, wanted, wanted_runs
from depthsig.signature import Signature
from depthsig.signature.tested import TestedSpan
from depthsig.tables.samples import Key

CLAIMS = criteria().of_paper("2602.16490")
LOSS = {
    (EARLY_EXIT_LOSS, "", "", "depth"): profile([9, 1], EARLY_EXIT_LOSS)[EARLY_EXIT_LOSS, "layer", "current", "step"]
}


def holding(*metrics: str, prompts: str = "lookup", **more: Values) -> Signature:
    values = dict(LOSS)
    for name in metrics:
        values |= profile([1, 1], name, "", "")
    return made(values, 1, options={"prompts": prompts})


def test_one_claim_needs_its_own_metrics_and_the_loss() -> None:
    (one,) = wanted(criteria().of_paper("2602.16490", ("E5",)))
    assert one.prompts == "lookup" and not one.control
    assert one.metrics == [
        EARLY_EXIT_LOSS,
        *(f"order.{k}.kl" for k in ("reverse", "skip_block", "swap_blocks", "swap_next")),
    ]
    (one,) = wanted(criteria().of_paper("2602.16490", ("E2",)))
    assert (one.prompts, one.parts, one.scopes) == ("gsm8k", ["layer", "attn", "mlp"], ["current", "future"])
    assert one.metrics == [EARLY_EXIT_LOSS, "skip.loss", "skip.output_l2"]


def test_a_score_needs_what_it_is_made_of() -> None:
    (one,) = wanted(criteria().of_paper("2602.16490", ("E1",)))
    assert {k.metric for k in one.keys} == {EARLY_EXIT_LOSS, "skip.effect", "skip.output_l2"}
    (one,) = wanted([claim("relative_score", "settling_depth", "-", "-", prompts="gsm8k")])
    assert {k.metric for k in one.keys} == {EARLY_EXIT_LOSS, "settling_depth", "lens.jsd"}


def test_runs_need_the_loss_of_one_analysis_so_that_what_learned_nothing_is_seen() -> None:
    only = criteria().of_paper("2602.16490", ("E8", "E16"))
    assert wanted_runs(only) == ["repeat", "pruning"]
    assert [(w.prompts, w.metrics) for w in wanted(only)] == [("lookup", [EARLY_EXIT_LOSS])]
    more = wanted(criteria().of_paper("2602.16490", ("E2", "E8")))
    assert [w.prompts for w in more] == ["gsm8k"]
    (any_will_do,) = wanted(criteria().of_paper("2602.16490", ("E13",)))  # every analysis records costs
    assert any_will_do.metrics == [EARLY_EXIT_LOSS]


def test_a_tuned_lens_is_the_users() -> None:
    assert not any(name.startswith("tuned") for one in wanted(CLAIMS) for name in one.metrics)


def test_a_control_is_of_use_to_spans_alone() -> None:
    only = criteria().of_paper("2602.16490", ("E4",))
    assert wanted(only)[0].control and not wanted(only, spans=False)[0].control
    assert {Key(*m) for m in FAMILY} <= set(wanted(only)[0].keys)


def _wanted(*claims: object) -> Wanted:
    (one,) = wanted(claims)  # type: ignore[arg-type]
    return one


RATIO = claim("log_ratio", "order.skip_block.kl", "-", "-", "order.swap_next.kl", "-", "-", prompts="lookup")


def test_what_a_folder_holds_is_not_measured() -> None:
    one = _wanted(RATIO)
    assert one.lacking([holding("order.skip_block.kl", "order.swap_next.kl")]) is None
    assert one.lacking([]) == one
    assert one.lacking([holding("order.skip_block.kl", "order.swap_next.kl", prompts="gsm8k")]) == one


def test_what_belongs_together_is_measured_together() -> None:
    """Halves of a ratio in two signatures are of other prompts, or of prompts that were cut otherwise."""
    halves = [holding("order.skip_block.kl"), holding("order.swap_next.kl")]
    lacking = _wanted(RATIO).lacking(halves)
    assert lacking is not None and lacking.metrics == ["order.skip_block.kl", "order.swap_next.kl"]
    other = claim("log_mean", "order.swap_next.kl", "-", "-", prompts="lookup")
    (both,) = wanted([RATIO, other])
    lacking = both.lacking([halves[1]])
    assert lacking is not None and len(lacking.needs) == 1


def test_a_control_is_measured_beside_what_it_controls() -> None:
    plain = made({**periodic(12, 0.0, 0), **LOSS}, 12, options={"prompts": "lookup"})
    one = _wanted(claim("period_beside_control", prompts="lookup"))
    lacking = one.lacking([plain])
    assert lacking is not None and lacking.control and {Key(*m) for m in FAMILY} == set(lacking.keys)
    assert one.lacking([with_control(plain, plain)]) is None
    assert _wanted(claim("period", prompts="lookup")).lacking([plain]) is None


def test_the_worst_case_alone_is_no_mean() -> None:
    signature = holding("order.swap_next.kl")
    worst = replace(signature, samples_table=signature.samples_table.assign(agg="max"))
    assert measured(worst) == frozenset() and Key("order.swap_next.kl") in measured(signature)
    assert prompts_of(signature) == "lookup"


def net(role: str, block: int = 0, looped: int = 0) -> TrainedNetwork:
    return TrainedNetwork(role, role, 24, TestedSpan(0, block, 24 // block, "grown", 0) if block else None, looped)


@pytest.mark.parametrize(
    ("network", "others", "experiments"),
    [
        (net("looped", looped=24), ["baseline"], "E1 E2 E3 E4 E6 E8 E10 E13 E15 E16"),
        (net("midas", 4), ["baseline"], "E1 E2 E3 E4 E5 E7 E8 E10 E13 E14 E15 E16"),
        (net("midas"), [], "E4 E8"),
        (net("midas-after"), ["baseline-after"], "E9"),
        (net("midas-after"), ["midas-before", "baseline-after"], "E9"),
        (net("midas-after"), ["midas-before", "baseline-after", "baseline-before"], "E9 E11 E12"),
        (net("baseline"), [], ""),
        (net("baseline"), ["lidas"], "E1 E2 E3 E4 E5 E7 E8 E10 E13 E15 E16"),
    ],
    ids=lambda value: value.role if isinstance(value, TrainedNetwork) else None,
)
def test_a_network_is_measured_for_claims_that_can_be_judged(
    network: TrainedNetwork, others: list[str], experiments: str
) -> None:
    found = concerning(CLAIMS, network, {network.role, *others})
    assert list(dict.fromkeys(c.experiment for c in found)) == experiments.split()


# --- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("looped=a,baseline=b", {"looped": "a", "baseline": "b"}),
        ("grown=a+b, baseline-before=c", {"grown": "a+b", "baseline-before": "c"}),
        ("looped=a,b=c,midas=d", {"looped": "a,b=c", "midas": "d"}),
        (
            "looped=x[order=0:4,4:8x4,8:12],grown=y[grown=0:24/4]",
            {"looped": "x[order=0:4,4:8x4,8:12]", "grown": "y[grown=0:24/4]"},
        ),
    ],
    ids=["two", "after a blank", "commas and equals signs", "brackets"],
)
def test_roles_as_text(text: str, expected: dict[str, str]) -> None:
    assert split_roles(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "loop=a",
        "looped=",
        "looped=a,looped=b",
        "looped=,baseline=b",
        "=a",
        "looped",
        ",",
        "\x1b[31m",
        "x" * 9999,
    ],
)
def test_roles_that_cannot_be_read_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as error:
        split_roles(text)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("names", [[], ["loop"], ["looped", "basline"], [7], ["looped-during"]], ids=str)
def test_unknown_roles_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="there are looped, midas, lidas, grown, baseline"):
        check_roles(names)


def test_arms_by_block_and_loop() -> None:
    nets = [
        net("midas", 4),
        net("lidas", 8),
        net("grown"),
        net("looped", 4, 24),
        net("looped", 4, 16),
        net("grown-after", 4),
    ]
    assert arm(nets, "grown") == (0, 1, 2) and arm(nets, "grown/4") == (0,) and arm(nets, "grown/2") == ()
    assert arm(nets, "looped") == (3, 4) and arm(nets, "looped/all") == (3,) and arm(nets, "looped/middle") == (4,)
    assert arm(nets, "grown-after") == (5,) and arm(nets, "midas-after") == () and arm(nets, "midas") == (0,)
    deep = replace(nets[0], steps=12)
    assert alike([nets[0], deep]) == ["networks of the role midas are of different depth: 12, 24 steps"]
    assert alike(nets) == []


def test_an_arm_is_of_the_most_common_block() -> None:
    nets = [net("midas", 4), net("midas", 2), net("midas", 4), net("lidas", 2), net("looped"), net("looped", 2, 24)]
    assert arm(nets, "midas") == (0, 2) and arm(nets, "grown") == (0, 2, 3) and arm(nets, "lidas") == (3,)
    assert arm(nets, "grown/2") == (1, 3) and arm(nets, "grown/4") == (0, 2)
    assert arm(nets, "looped") == (4, 5)  # one without a block is of no other length
    assert arm(nets[:2], "midas") == (0, 1)  # neither is more common
    (said,) = alike(nets)
    assert "role midas have blocks of 2, 4 steps: those of 4" in said and alike(nets[:2]) == []
