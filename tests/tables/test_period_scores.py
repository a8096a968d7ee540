"""Scores period.*, their control, and what the page says of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import PROMPTS, build, byte_tokenizer

import depthsig
from depthsig.checkpoint.anatomy.patterns import layer_patterns
from depthsig.commands.analysis.control import reinitialised
from depthsig.errors import DepthsigWarning
from depthsig.metrics import block_periodicity, holm, matrix_periodicity
from depthsig.metrics.rules import FAMILY
from depthsig.report import save
from depthsig.signature import Signature
from depthsig.signature.provenance import again
from depthsig.signature.tested import choose_span
from depthsig.tables.periods import beside_control, other_causes, period_scores

METRICS = ["residual", "skip.output_l2", "skip.effect"]


def _looped(**options) -> Signature:
    texts = [*PROMPTS, "one more prompt here", "and another, longer than the others were", "a sixth", "the seventh one"]
    return depthsig.analyze(build("llama"), texts, tokenizer=byte_tokenizer(), order="0,1:4x4,3", **options)


@pytest.fixture(scope="module")
def looped() -> Signature:
    torch.manual_seed(0)
    return _looped(metrics=[*METRICS, "period"])


def test_scores_are_the_tests_of_the_saved_tables(looped: Signature) -> None:
    scores = looped.scores[looped.scores["score"].str.startswith("period.")]
    span = choose_span(looped.info)
    assert (span.start, span.block, span.count, span.kind) == (1, 3, 4, "loop")
    profile = looped.profile("contribution.norm", part="attn")["value"].to_numpy()
    expected = block_periodicity(profile, 1, 3, 4, log=True)
    assert looped.score("period.p", metric="contribution.norm", part="attn") == expected.p
    assert looped.score("period.strength", metric="contribution.norm", part="attn") == expected.strength
    cosine = looped.profile("contribution.cosine", part="mlp")["value"].to_numpy()
    assert looped.score("period.p", metric="contribution.cosine", part="mlp") == block_periodicity(cosine, 1, 3, 4).p
    matrix = looped.matrix("contribution.cosine_matrix", part="layer").to_numpy()
    assert looped.score("period.p", metric="contribution.cosine_matrix", part="layer") == pytest.approx(
        matrix_periodicity(matrix, 1, 3, 4).p
    )
    assert set(scores["score"]) == {"period.strength", "period.p", "period.nested", "period.combined"}
    assert {"skip.effect", "skip.output_l2"} <= set(scores["metric"])
    assert (scores["null"] != "").all()


def test_the_combined_score_is_holm_over_the_fixed_family(looped: Signature) -> None:
    p = [looped.score("period.p", metric=m, part=part, scope=scope) for m, part, scope in FAMILY]
    row = looped.scores[looped.scores["score"] == "period.combined"].iloc[0]
    assert row["value"] == pytest.approx(holm(np.array(p)).min()) and row["p_value"] == row["value"]
    assert "Holm over 8 of 8" in row["note"] and "loop 1:13, 4 x 3" in row["note"]


def test_intervals_are_over_prompts(looped: Signature) -> None:
    rows = looped.scores[looped.scores["score"] == "period.strength"]
    measured = rows[rows["metric"].isin(["contribution.norm", "contribution.cosine_matrix", "skip.output_l2"])]
    measured = measured[(measured["scope"] != "future")]
    assert len(measured) and (measured["ci_low"] <= measured["ci_high"]).all()
    assert (measured["n_prompts"] == len(looped.prompts)).all()


def test_from_a_saved_folder_without_its_model(looped: Signature, tmp_path) -> None:
    save(looped, tmp_path / "r")
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from depthsig.signature import Signature; from depthsig.tables.periods import period_scores\n"
        f"s = Signature.load({str(tmp_path / 'r')!r}); a = period_scores(s)\n"
        "b = s.scores[s.scores.score.str.startswith('period')]\n"
        "assert list(a.score) == list(b.score)\n"
        "assert abs(a.value.to_numpy() - b.value.to_numpy())[b.value.notna().to_numpy()].max() < 1e-12\n"
        "assert s.control is not None and s.control.control is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    page = (tmp_path / "r" / "report.html").read_text()
    assert 'id="period"' in page and "Control: strength" in page
    assert list((tmp_path / "r" / "figures").glob("period.contribution.relative.layer.*"))


def test_the_control_is_the_same_measurement_of_fresh_weights(looped: Signature) -> None:
    control = looped.control
    assert control is not None and control.info["plan"] == looped.info["plan"]
    assert control.prompts.equals(looped.prompts)
    norms = [s.profile("contribution.norm", part="layer")["value"] for s in (control, looped)]
    assert not np.allclose(*norms)
    row = looped.scores[looped.scores["score"] == "period.combined"].iloc[0]
    assert f"re-initialised control: {control.score('period.combined'):.3g}" in row["note"]
    assert set(control.profiles["metric"]) < set(looped.profiles["metric"])


@pytest.mark.slow
def test_a_control_by_itself_measures_what_periods_are_tested_on_and_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    asked = {"metrics": ["lens", *METRICS, "order", "period"], "scopes": "current,future", "parts": "layer,attn"}
    little, whole = _looped(**asked), _looped(**asked, control=True)
    assert little.control is not None and whole.control is not None
    assert little.scores.equals(whole.scores)  # what stands beside a control, and the notes with its numbers
    tested = little.scores["note"].str.contains("re-initialised control")
    assert set(little.scores[tested]["metric"]) > {"skip.effect", "contribution.norm", "contribution.cosine_matrix"}
    scores = [s.control.scores.query("score.str.startswith('period')").reset_index(drop=True) for s in (little, whole)]
    pd.testing.assert_frame_equal(*scores)
    left_out = set(whole.control.profiles["metric"]) - set(little.control.profiles["metric"])
    assert {"lens.kl", "residual.norm", "order.reverse.kl"} <= left_out
    assert all(whole.entries[name].cells != ("step",) or whole.entries[name].run.several for name in left_out)
    assert set(whole.control.profiles["metric"]) == set(whole.profiles["metric"])
    assert (little.info["options"]["control"], whole.info["options"]["control"]) == (None, True)


def test_a_grown_control_has_the_weights_that_are_tested() -> None:
    texts = [*PROMPTS, "one more prompt here", "and another", "a sixth"]
    found = depthsig.analyze(build("llama"), texts, tokenizer=byte_tokenizer(), metrics=["period"], grown="0:4/2")
    assert found.control is not None and set(found.control.matrices["metric"]) == set(found.matrices["metric"])
    assert "weights.cosine" in set(found.control.matrices["metric"])


def test_reinitialised_weights_are_seeded_and_leave_everything_else_alone() -> None:
    module = build("llama")
    model = depthsig.load(module, byte_tokenizer(), order="0,1:3x3,3")
    before = [p.clone() for p in module.parameters()]
    state = torch.get_rng_state()
    one, two, other = reinitialised(model), reinitialised(model), reinitialised(model, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert one.plan == model.plan and one.dtype == model.dtype
    flat = [torch.cat([p.flatten() for p in m.module.parameters()]) for m in (one, two, other)]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


def test_a_model_without_config_has_no_control_and_says_so() -> None:
    model = depthsig.load(build("llama"), byte_tokenizer(), order="0,1:3x3,3")
    bare = replace(model, checkpoint=replace(model.checkpoint, config=None))
    signature = depthsig.analyze(bare, PROMPTS, metrics=["residual", "period.combined"])
    assert signature.control is None
    note = signature.scores[signature.scores["score"] == "period.combined"].iloc[0]["note"]
    assert "no re-initialised control: the model has no config" in note
    with pytest.warns(DepthsigWarning, match="no re-initialised control"):
        depthsig.analyze(bare, PROMPTS, metrics=["residual", "period.combined"], control=True)


def test_passes_are_compared_by_default_where_a_loop_runs() -> None:
    asked = {"tokenizer": byte_tokenizer(), "control": False, "max_tokens": 12}
    looped = depthsig.analyze(build("llama"), PROMPTS[:2], order="0,1:4x2,3", **asked)
    assert {"loop.step_norm", "loop.output_kl"} <= set(looped.matrices["metric"])
    labelled = depthsig.analyze(build("llama"), PROMPTS[:2], loop="1:3", **asked)  # runs once
    assert not any(name.startswith("loop.") for name in labelled.matrices["metric"])
    chosen = depthsig.analyze(build("llama"), PROMPTS[:2], order="0,1:4x2,3", metrics=["lens.kl"], **asked)
    assert not any(name.startswith("loop.") for name in chosen.matrices["metric"])


def test_periods_are_on_by_default_where_there_is_a_span() -> None:
    module, tokenizer = build("llama"), byte_tokenizer()
    plain = depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, cuts=1)
    assert not plain.scores["score"].str.startswith("period").any() and plain.control is None
    spanned = depthsig.analyze(module, PROMPTS, tokenizer=tokenizer, cuts=1, grown="0:4/2", control=False)
    assert spanned.control is None
    given = {**spanned.info["given"], "source": "some/model"}
    given["prompts"] = {**given["prompts"], "objects": False}
    command = again({**spanned.info, "given": given}).command
    assert command.startswith("depthsig analyze some/model") and "--no-control" in command
    assert "--grown 0:4/2" in command and "period" in command and "--cuts 1" in command
    rows = spanned.scores[spanned.scores["score"].str.startswith("period")]
    assert "weights.cosine" in set(rows["metric"])
    assert rows["value"].isna().all() and rows["p_value"].isna().all()
    assert rows["note"].str.contains("not testable").all() and rows["note"].str.contains("2 blocks").all()


def test_periods_asked_for_without_any_span() -> None:
    with pytest.warns(DepthsigWarning, match="no period can be tested"):
        signature = depthsig.analyze(build("llama"), PROMPTS, tokenizer=byte_tokenizer(), metrics=["period"])
    row = signature.scores.iloc[0]
    assert row["score"] == "period.combined" and np.isnan(row["value"]) and "not testable" in row["note"]


def test_family_members_that_were_not_measured_are_named(looped: Signature) -> None:
    keep = ~looped.profiles["metric"].str.startswith("skip.")
    fewer = replace(looped, profiles=looped.profiles[keep])
    row = period_scores(fewer).set_index("score").loc["period.combined"]
    assert "Holm over 7 of 8" in row["note"] and "not measured: skip.output_l2 (layer, current)" in row["note"]


def test_the_span_is_chosen_by_geometry_and_declaration() -> None:
    def span(start, size, count, source, kind="loop"):
        end = start + size * count
        return {"start": start, "end": end, "size": size, "count": count, "kind": kind, "source": source}

    plan = [{"layer": i} for i in range(60)]

    def chosen(*spans):
        found = choose_span({"plan": plan, "spans": {"executed": list(spans), "labelled": []}})
        return found and (found.start, found.block, found.count)

    assert chosen() is None
    assert chosen(span(0, 4, 2, "trace"), span(10, 2, 3, "trace")) == (10, 2, 3)
    assert chosen(span(0, 4, 5, "trace"), span(30, 2, 3, "declared", "grown")) == (30, 2, 3)
    assert chosen(span(0, 3, 3, "trace"), span(30, 2, 8, "trace")) == (30, 2, 8)


def test_other_causes_are_named_from_the_config() -> None:
    kinds = ["sliding_attention", "full_attention"] * 6
    config = SimpleNamespace(layer_types=kinds, num_hidden_layers=12, moe_layer_freq=3, eos_token_id=list(range(12)))
    patterns = layer_patterns(config, 12)
    assert [p["name"] for p in patterns] == ["layer_types", "moe_layer_freq"]
    assert patterns[1]["values"] == ["", "", "experts"] * 4
    span = {"start": 0, "end": 12, "size": 4, "count": 3, "kind": "grown", "source": "declared"}
    info = {
        "plan": [{"layer": i} for i in range(12)], "spans": {"executed": [], "labelled": [span]},
        "checkpoint": {"layer_patterns": patterns},
    }  # fmt: skip
    says = other_causes(info, choose_span(info))
    assert "layer_types (sliding_attention, full_attention) recurs with the block itself" in says[0]
    assert "moe_layer_freq (otherwise, experts) varies inside the span" in says[1]
    assert layer_patterns(None, 12) == []
    gemma = hf.Gemma3TextConfig(num_hidden_layers=12, sliding_window_pattern=6)
    assert next(p["name"] for p in layer_patterns(gemma, 12)) == "layer_types"


def test_the_control_stands_in_the_notes() -> None:
    row = {"score": "period.combined", "metric": "", "part": "", "scope": "", "agg": "mean", "value": 0.01, "note": "x"}
    scores, control = pd.DataFrame([row]), pd.DataFrame([{**row, "value": 0.5}])
    assert beside_control(scores, control).loc[0, "note"] == "x; re-initialised control: 0.5"
    assert beside_control(scores, None, "why").loc[0, "note"] == "x; no re-initialised control: why"
    assert scores.loc[0, "note"] == "x"
