"""Findings: verdicts with a known answer, numbers against plain code, and the record that is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import made_signatures as made
import numpy as np
import pandas as pd
import pytest

from depthsig.findings import RULES, findings_of
from depthsig.findings.finding import Estimate, Finding, Verdict, judged
from depthsig.signature import Signature
from depthsig.statistics.resampling import bootstrap_counts, missed

KEYS = ["id", "sentence", "metric", "value", "ci_low", "ci_high", "reference", "verdict"]


def of(signature: Signature, name: str) -> Finding:
    (found,) = [one for one in findings_of(signature) if one["id"] == name]
    return found


def scored(share: tuple[float, float, float], output: tuple[float, float, float]) -> Signature:
    """A signature of these scores (value, low, high) and nothing else."""
    rows = []
    for name, (value, low, high) in (("late_share", share), ("depth_score.output.relative", output)):
        rows.append({
            "score": name, "metric": "-", "part": "layer", "scope": "current", "agg": "mean", "value": value,
            "ci_low": low, "ci_high": high, "n_prompts": 20, "p_value": np.nan, "null": "", "note": "",
        })  # fmt: skip
    empty = made.signature(made.skip_only(np.ones(12)), 12)
    return Signature(empty.info, scores=pd.DataFrame(rows), prompts=empty.prompts)


def test_every_claim_is_told_once_with_all_that_a_record_has() -> None:
    found = findings_of(made.signature(made.skip_only(np.ones(12)), 12))
    assert [one["id"] for one in found] == [rule.id for rule in RULES] and len({rule.id for rule in RULES}) == 13
    for one in found:
        assert list(one) == KEYS and one["verdict"] in get_args(Verdict) and one["sentence"].endswith(".")
        if one["value"] is None:
            assert one["verdict"] == "open" and one["sentence"].startswith("Open: ")
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("share", "verdict"),
    [((0.4, 0.35, 0.45), "holds"), ((0.3, 0.28, 0.32), "does not hold"), ((0.34, 0.3, 0.38), "open"),
     ((0.4, np.nan, np.nan), "open")],
)  # fmt: skip
def test_late_reliance_is_judged_beside_an_even_third(share: tuple[float, float, float], verdict: str) -> None:
    found = of(scored(share, (0.6, 0.55, 0.65)), "late")
    assert found["verdict"] == verdict and found["reference"] == pytest.approx(1 / 3)
    assert found["value"] == share[0] and "33.3 %" in found["sentence"]


def test_scores_of_one_claim_that_disagree_are_said_to() -> None:
    against = of(scored((0.4, 0.35, 0.45), (0.4, 0.35, 0.45)), "late")
    assert "disagree" in against["sentence"] and against["verdict"] == "holds"
    assert "disagree" not in of(scored((0.4, 0.35, 0.45), (0.6, 0.55, 0.65)), "late")["sentence"]
    # One that is open contradicts nobody, and is contradicted by whoever decides.
    assert "disagree" not in of(scored((0.4, 0.35, 0.45), (0.5, 0.45, 0.55)), "late")["sentence"]
    left_open = of(scored((1 / 3, 0.3, 0.36), (0.4, 0.35, 0.45)), "late")
    assert left_open["verdict"] == "open" and "on the output lies no later than even" in left_open["sentence"]


def test_the_most_and_the_least_damaging_step() -> None:
    rng = np.random.default_rng(0)
    loss = np.abs(0.5 + 0.01 * rng.standard_normal((20, 8)))
    loss[:, 3] += 2
    loss[:, 6] = 0.001 * rng.standard_normal(20)
    signature = made.signature({("skip.loss", "layer", "current", "step"): loss}, 8)
    most, least = of(signature, "most_damaging"), of(signature, "least_damaging")
    assert most["verdict"] == "holds" and "step 3 " in most["sentence"]
    assert most["value"] == pytest.approx(loss[:, 3].mean()) and most["reference"] == pytest.approx(
        np.sort(loss.mean(0))[-2]
    )
    assert least["verdict"] == "holds" and "step 6 " in least["sentence"] and "1 of 8 steps" in least["sentence"]
    assert least["value"] == pytest.approx(loss[:, 6].mean()) and least["reference"] == 0.01


def test_two_steps_that_are_alike_leave_it_open_which_matters_most() -> None:
    rng = np.random.default_rng(1)
    loss = np.full((20, 6), 0.1)
    loss[:, 1:3] = 1 + 0.5 * rng.standard_normal((20, 2))
    signature = made.signature({("skip.loss", "layer", "current", "step"): loss}, 6)
    assert of(signature, "most_damaging")["verdict"] == "open"


@pytest.mark.parametrize("cost", [0.0, 0.3])
def test_of_steps_that_cost_exactly_the_same_none_matters_most(cost: float) -> None:
    """Copies and dead layers: the first of them would lead in every resample."""
    loss = np.repeat(cost * np.random.default_rng(1).uniform(1, 2, (12, 1)), 6, axis=1)
    values: Any = {("skip.loss", "layer", "current", "step"): loss}
    assert of(made.signature(values, 6), "most_damaging")["verdict"] == "open"
    loss[:, 4] += 1e-6  # a difference of rounding
    assert of(made.signature(values, 6), "most_damaging")["verdict"] == "open"
    loss[:, 4] += 1e-3
    assert of(made.signature(values, 6), "most_damaging")["verdict"] == "holds"


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "holds"), (0.3, "open"), (np.nan, "open")])
def test_training_makes_nothing_recur_in_a_model_that_does_not(p: float, verdict: str) -> None:
    """Two draws of random weights differ by more than an interval over prompts knows of."""
    rng = np.random.default_rng(4)
    member = ("contribution.relative", "layer", "-", "step")
    profiles = [np.exp(0.01 * rng.standard_normal((8, 12))) for _ in range(2)]
    profiles[0][:, ::3] *= 2
    made_of = [made.signature({member: values}, 12, span=(0, 3, 4, "grown")) for values in profiles]
    row = {"agg": "mean", "ci_low": np.nan, "ci_high": np.nan, "n_prompts": 8, "null": "", "note": "why"}
    scores = pd.DataFrame([
        {**row, "score": "period.strength", "metric": member[0], "part": "layer", "scope": "-", "value": 0.5,
         "p_value": p},
        {**row, "score": "period.combined", "metric": "-", "part": "-", "scope": "-", "value": p, "p_value": p},
    ])  # fmt: skip
    control = replace(made_of[1], scores=scores.assign(p_value=0.5))
    found = of(replace(made_of[0], scores=scores, control=control), "recurrence_trained")
    assert found["verdict"] == verdict
    if p == 0.3:
        assert found["ci_low"] > 0 and "itself is not shown to recur (p = 0.3)" in found["sentence"]


def looped(relative: list[float], steps: list[float] | None) -> Finding:
    """What is said of a loop whose passes move the states so far."""
    shape, values = (8, len(relative), 2), {}
    for name, moved in (("loop.step_relative", relative), ("loop.step_norm", steps)):
        if moved is not None:
            values[name, "-", "-", ""] = np.broadcast_to(np.array(moved)[None, :, None], shape).copy()
    base = made.signature(values, 2 * len(relative), span=(0, 2, len(relative), "loop"))
    spans = base.info["spans"]
    return of(replace(base, info={**base.info, "spans": {**spans, "executed": spans["labelled"]}}), "loop_rests")


def test_a_loop_rests_where_its_steps_themselves_get_smaller() -> None:
    assert looped([0.4, 0.2, 0.1], [4, 2, 1])["verdict"] == "holds"
    assert looped([0.1, 0.2, 0.4], [1, 2, 4])["verdict"] == "does not hold"
    # x ← x + c moves less and less beside states that grow, and never rests.
    assert looped([1, 1 / 2, 1 / 3], [1, 1, 1 - 1e-6])["verdict"] == "open"
    drifting = looped([1, 1 / 2, 1 / 3], [1, 1, 1])
    assert drifting["verdict"] == "open" and "are 1 [1, 1] times as long, so the states grow" in drifting["sentence"]
    assert drifting["value"] == pytest.approx(1 / 3)
    alone = looped([0.4, 0.2, 0.1], None)
    assert alone["verdict"] == "open" and "loop.step_norm was not measured" in alone["sentence"]


def test_a_loop_that_moves_nothing_rests() -> None:
    found = looped([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert found["verdict"] == "holds" and found["value"] == 0 and "None of 3 passes" in found["sentence"]


def test_an_interval_is_the_percentile_bootstrap_of_plain_code() -> None:
    rng = np.random.default_rng(2)
    attn, mlp = rng.uniform(0.5, 1, (9, 5)), rng.uniform(0.1, 0.4, (9, 5))
    values: Any = {("contribution.relative", part, "-", "step"): x for part, x in (("attn", attn), ("mlp", mlp))}
    found = of(made.signature(values, 5), "attention_or_mlp")
    draws = np.random.default_rng(0).integers(0, 9, size=(1000, 9))
    ratios = [np.prod(attn[d].mean(0) / mlp[d].mean(0)) ** (1 / 5) for d in draws]
    low, high = np.percentile(ratios, [2.5, 97.5])
    assert found["value"] == pytest.approx(np.prod(attn.mean(0) / mlp.mean(0)) ** (1 / 5))
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["verdict"] == "holds" and found["reference"] == 1 and "farther in 5 of 5 steps" in found["sentence"]


def test_one_step_does_not_decide_what_attention_and_mlps_do() -> None:
    """Where the embedding is tiny, attention's first update is many times its length."""
    attn, mlp = np.full((9, 6), 0.15), np.full((9, 6), 0.3)
    attn[:, 0] = 36
    attn[:, 5] = 0  # a dead step has no ratio
    values: Any = {("contribution.relative", part, "-", "step"): x for part, x in (("attn", attn), ("mlp", mlp))}
    found = of(made.signature(values, 6), "attention_or_mlp")
    assert attn.mean() > mlp.mean() and found["value"] == pytest.approx((120 * 0.5**4) ** (1 / 5))
    attn[:, 0] = 3
    less = of(made.signature(values, 6), "attention_or_mlp")
    assert attn.mean() > mlp.mean() and less["verdict"] == "does not hold" and "in 1 of 6 steps" in less["sentence"]


def truncated(share: float, steps: int = 24, gap: float = 1.2) -> made.Values:
    """Losses of prefixes of which an affine readout recovers this share of the gap, a temperature a tenth."""
    rng = np.random.default_rng(3)
    full = 2 + 0.1 * rng.standard_normal((9, 1))
    gaps = gap * np.r_[np.ones(steps - 1), 0] * (1 + 0.05 * rng.standard_normal((9, steps)))
    losses = {"prefix": full + gaps, "affine": full + (1 - share) * gaps, "temperature": full + 0.9 * gaps}
    return {(f"truncation.{name}", "-", "-", "step"): values for name, values in losses.items()}


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.75, "holds"), (0.06, "does not hold")], ids=["a readout's", "the steps'"]
)
def test_an_early_exit_is_judged_beside_half_of_its_gap(share: float, verdict: str) -> None:
    found = of(made.signature(truncated(share), 24), "early_exit")
    assert found["verdict"] == verdict and found["value"] == pytest.approx(share) and found["reference"] == 0.5
    assert "after 22 of 24 steps" in found["sentence"] and "one temperature 10.0 %" in found["sentence"]
    assert found["metric"] == "truncation.recoverable"


def test_what_an_early_exit_is_not_told_of_is_open() -> None:
    curve: Any = {("lens.target_nll", "-", "-", "depth"): np.ones((9, 25))}
    without = of(made.signature(curve, 24), "early_exit")
    assert without["verdict"] == "open" and "add truncation to --metrics" in without["sentence"]
    nothing = of(made.signature(made.skip_only(np.ones(12)), 12), "early_exit")
    assert nothing["verdict"] == "open" and "no early-exit curve was measured" in nothing["sentence"]
    flat = of(made.signature(truncated(0.9, gap=0.001), 24), "early_exit")
    assert flat["verdict"] == "open" and "too little to have shares" in flat["sentence"]


def test_a_map_of_few_tokens_is_told_with_the_verdict() -> None:
    signature = made.signature(truncated(0.3), 24)
    signature.info["calibration"] = {"tokens": 230, "width": 576}
    assert "fitted to 230 tokens only" in of(signature, "early_exit")["sentence"]
    signature.info["calibration"] = {"tokens": 5760, "width": 576}
    assert "only" not in of(signature, "early_exit")["sentence"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_certificate_without_a_number_is_nobodys_worst(value: float | None) -> None:
    base = made.signature(made.skip_only(np.ones(12)), 12)
    bare = {"name": "readout", "passed": True, "value": value, "tolerance": value}
    number = {"name": "forward", "passed": True, "value": 1.0, "tolerance": 4.0}
    for certificates in ([bare, number], [number, bare]):
        found = of(Signature({**base.info, "certificates": certificates}, prompts=base.prompts), "exact")
        assert found["value"] == 0.25 and "the worst, forward, reaches 25.0 %" in found["sentence"]
    alone = of(Signature({**base.info, "certificates": [bare]}, prompts=base.prompts), "exact")
    assert alone["value"] is None and "nan" not in alone["sentence"] and alone["verdict"] == "holds"


def test_too_few_prompts_leave_claims_open() -> None:
    loss = np.ones((3, 6)) * np.arange(6)
    signature = made.signature({("skip.loss", "layer", "current", "step"): loss}, 6)
    assert of(signature, "most_damaging")["verdict"] == "open"
    assert of(signature, "prompts")["verdict"] == "does not hold"


def test_a_verdict_is_of_the_whole_interval_and_of_one_side() -> None:
    assert judged(Estimate(2, 1, 3), 0) == "holds" and judged(Estimate(2, 1, 3), 0, above=False) == "does not hold"
    assert judged(Estimate(0, -1, 1), 0) == "open" and judged(Estimate(2), 0) == "open"


def test_how_often_the_set_is_wrong_is_said() -> None:
    found = findings_of(scored((0.4, 0.35, 0.45), (0.6, 0.55, 0.65)))
    assert found.rates == [missed(12)] and f"about {missed(12):.0%} of cases (5% with many prompts)" in found.rate
    lines = str(found).splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 120 and lines[-1].startswith("1 of 13 verdicts")
    assert "<script" not in found._repr_html_()


def test_a_row_says_what_its_numbers_are() -> None:
    found = findings_of(scored((0.4, 0.35, 0.45), (0.4, 0.35, 0.45)))
    late = found.shown[0]
    assert late.cells[2:] == ("40.0 %", "[35.0 %, 45.0 %]", "33.3 % (even)") and late.caveat.startswith(
        "scores disagree"
    )
    assert str(found).splitlines()[2].startswith("holds    late layers") and "scores disagree" in str(found)
    unjudged = found.shown[[rule.id for rule in RULES].index("loop_rests")]
    assert unjudged.value == unjudged.against == "" and unjudged.caveat == "no loop runs"


def test_they_are_kept_beside_the_tables(tmp_path: Path) -> None:
    signature = scored((0.4, 0.35, 0.45), (0.6, 0.55, 0.65))
    signature.save(tmp_path / "out", figures=False)
    kept = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert kept == findings_of(signature) and kept[0]["id"] == "late"


METRICS = {
    ("skip.loss", "layer", "current", "step"): 1, ("skip.output_l2", "layer", "current", "step"): 1,
    ("contribution.relative", "attn", "-", "step"): 1, ("contribution.relative", "mlp", "-", "step"): 1,
    ("contribution.cosine", "attn", "-", "step"): 1, ("contribution.cosine", "mlp", "-", "step"): 1,
    ("contribution.cosine_matrix", "layer", "-", ""): 2, ("loop.step_relative", "-", "-", ""): 2,
    ("loop.fixed_point_gap", "-", "-", ""): 2,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_measured_something_is_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, n = int(rng.choice([1, 2, 3, 8, 12])), int(rng.choice([1, 4, 5, 9]))
    values: Any = {}
    for key, axes in METRICS.items():
        if rng.random() < 0.7:
            array = rng.standard_normal((n, *[steps] * axes)) * 10.0 ** rng.integers(-3, 3)
            hole = rng.random()
            array[rng.random(array.shape) < hole**4] = rng.choice([np.nan, 0.0, np.inf, -np.inf])
            values[key] = array
    values = values or {("skip.loss", "layer", "current", "step"): np.full((n, steps), np.nan)}
    span = (0, 2, steps // 2, "loop") if steps > 3 else None
    signature = made.signature(values, steps, span=span)
    if rng.random() < 0.5:
        signature.info["spans"]["executed"] = signature.info["spans"]["labelled"]
    for one in findings_of(signature):
        assert one["verdict"] in get_args(Verdict)
        assert all(one[name] is None or np.isfinite(one[name]) for name in ("value", "ci_low", "ci_high"))
        json.dumps(one, allow_nan=False)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_how_often_an_interval_misses_is_what_simulation_gives(n: int) -> None:
    values = np.random.default_rng(n).standard_normal((4000, n))
    means = values @ bootstrap_counts(n, 1000, 0).T / n
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    assert np.mean((low > 0) | (high < 0)) == pytest.approx(missed(n), abs=0.015)
