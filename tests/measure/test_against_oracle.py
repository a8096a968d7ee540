"""Every clean-run metric against plain code, on every family; and the certificates with them."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from families import FAMILIES, PROMPTS, build, byte_tokenizer, looped_model, places

import depthsig

KL_LIKE = {"lens.kl": 3e-6, "lens.kl_reverse": 3e-6, "lens.jsd": 3e-6, "lens.target_nll": 3e-6}
# Float32 residual states differ in their last bits between a padded batch and a prompt alone.
STEP = ("contribution.norm", "contribution.relative", "contribution.cosine")


TEXTS = [PROMPTS[i] for i in (0, 1, 3, 4)]
"""Two tokens, several bytes a letter, and others: plain code takes its time for every position, the longest wait."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest):
    name = request.param
    model = build(name)
    tokenizer = byte_tokenizer(left=True)
    signature = depthsig.analyze(
        model, TEXTS, tokenizer=tokenizer, metrics=["lens", "residual", "residual.cka"], agg="both", seed=3
    )
    runs = [oracle.Clean(model, places(name), tokenizer(text).input_ids) for text in TEXTS]
    return name, signature, runs


def _aggregate(per_prompt: list[np.ndarray], agg: str, worst: str = "max") -> np.ndarray:
    """[prompt][position, cell] to [cell]."""
    if agg == "mean":
        means = [np.nanmean(p, axis=0) for p in per_prompt]
        return np.mean([m for m in means if not np.isnan(m).all()], axis=0)
    extreme = np.nanmax if worst == "max" else np.nanmin
    return extreme(np.concatenate(per_prompt), axis=0)


def test_certificates_pass(case) -> None:
    name, signature, _ = case
    found = {c["name"]: c for c in signature.info["certificates"]}
    expected = {"readout", "neutral", "identity", "causal", "edits", "padding"}
    if places(name).attn:
        expected.add("parts")
    assert set(found) == expected
    assert all(c["passed"] for c in found.values()), found


def test_lens(case) -> None:
    _, signature, runs = case
    found = [
        [[oracle.lens_values(run, d, t) for d in range(run.steps + 1)] for t in range(1, len(run.ids))] for run in runs
    ]
    for metric in found[0][0][0]:
        worst = "min" if metric in ("lens.top1", "lens.overlap5") else "max"
        values = [np.array([[cell.get(metric, math.nan) for cell in row] for row in rows]) for rows in found]
        # A prompt of two tokens has no position with a next token: it takes no part.
        values = [v for v in values if not np.isnan(v).all()]
        for agg in ("mean", "max"):
            table = signature.profile(metric, agg=agg)
            oracle.close(table["value"], _aggregate(values, agg, worst), KL_LIKE.get(metric, 1e-6))
            assert (table["n_prompts"] == len(values)).all()


def test_settling_and_effective_depth(case) -> None:
    _, signature, runs = case
    settling = [np.mean([oracle.settling(run, t) for t in range(1, len(run.ids))]) for run in runs]
    assert signature.score("settling_depth") == pytest.approx(np.mean(settling), abs=1e-9)
    kl = signature.profile("lens.kl")["value"].to_numpy()
    depth = max(d for d in range(len(kl)) if kl[d] >= kl.max() / 2) + 1
    assert signature.score("effective_depth.kl") == depth
    overlap = signature.profile("lens.overlap5")["value"].to_numpy()
    low = [d for d in range(len(overlap)) if overlap[d] <= 0.3]
    assert signature.score("effective_depth.overlap") == (max(low) + 1 if low else 0)


@pytest.mark.parametrize("agg", ["mean", "max"])
def test_contributions(case, agg: str) -> None:
    name, signature, runs = case
    parts = ["layer", "attn", "mlp"] if places(name).attn else ["layer"]
    assert set(signature.profiles.query("metric == 'contribution.norm'")["part"]) == set(parts)
    for part in parts:
        for metric in STEP:
            values = [
                np.array([
                    [oracle.step_values(run, part, s, t)[metric] for s in range(run.steps)]
                    for t in range(1, len(run.ids))
                ])
                for run in runs
            ]  # fmt: skip
            oracle.close(signature.profile(metric, part=part, agg=agg)["value"], _aggregate(values, agg), 2e-6)


def test_contribution_cosine_matrix(case) -> None:
    name, signature, runs = case
    for part in ["layer", "attn", "mlp"] if places(name).attn else ["layer"]:
        values = []
        for run in runs:
            us = [[oracle.contributions(run, part, s, t)[0] for s in range(run.steps)] for t in range(1, len(run.ids))]
            values.append(np.array([[[oracle.cosine(a, b) for a in row] for b in row] for row in us]))
        oracle.close(signature.matrix("contribution.cosine_matrix", part=part), _aggregate(values, "mean"), 2e-6)


def test_residual(case) -> None:
    _, signature, runs = case
    norms = [np.array([[np.linalg.norm(h[t]) for h in run.h] for t in range(1, len(run.ids))]) for run in runs]
    oracle.close(signature.profile("residual.norm")["value"], _aggregate(norms, "mean"))
    io = [
        np.array([
            [oracle.cosine(run.h[s][t], run.out[s][t]) for s in range(run.steps)] for t in range(1, len(run.ids))
        ])
        for run in runs
    ]  # fmt: skip
    oracle.close(signature.profile("residual.io_cosine")["value"], _aggregate(io, "mean"))
    oracle.close(signature.profile("residual.io_cosine", agg="max")["value"], _aggregate(io, "max"))
    influence = [1 - values for values in io]
    oracle.close(signature.profile("residual.block_influence")["value"], _aggregate(influence, "mean"), 1e-7)


def test_residual_matrices(case) -> None:
    _, signature, runs = case
    cosines = [
        np.array([[[oracle.cosine(a[t], b[t]) for b in run.h] for a in run.h] for t in range(1, len(run.ids))])
        for run in runs
    ]
    oracle.close(signature.matrix("residual.cosine"), _aggregate(cosines, "mean"), 1e-7)
    found = signature.matrix("residual.angular")
    steps = runs[0].steps
    assert len(signature.matrices.query("metric == 'residual.angular' and agg == 'mean'")) == steps * (steps + 1) / 2
    for d in range(steps):
        for n in range(1, steps - d + 1):
            values = [np.arccos(np.clip(c[:, d, d + n], -1, 1)) / np.pi for c in cosines]
            assert found.loc[d, n] == pytest.approx(np.mean([v.mean() for v in values]), rel=1e-4, abs=1e-6)


def test_effective_depths_are_of_the_profile_that_their_row_names(case) -> None:
    _, signature, _ = case
    for agg in ("mean", "max"):
        kl = signature.profile("lens.kl", agg=agg)["value"].to_numpy()
        overlap = signature.profile("lens.overlap5", agg=agg)["value"].to_numpy()
        parts = [p for p in ("layer", "attn", "mlp") if p in set(signature.profiles["part"])]
        cosines = np.mean([signature.profile("contribution.cosine", part=p, agg=agg)["value"] for p in parts], axis=0)
        for name, stays in (("kl", kl < kl.max() / 2), ("overlap", overlap > 0.3), ("cosine", cosines >= 0)):
            failing = np.flatnonzero(~stays)
            first = float(failing[-1] + 1) if len(failing) else 0.0
            scores = signature.scores
            rows = scores[(scores["score"] == f"effective_depth.{name}") & (scores["agg"] == agg)]
            assert len(rows) == 1
            found = float(rows["value"].iloc[0])
            assert (math.isnan(found) and first == len(stays)) or found == first, (name, agg)
            assert agg == "mean" or rows["ci_low"].isna().all()


def test_cka(case) -> None:
    _, signature, runs = case
    pooled = [np.concatenate([run.h[d][1:] for run in runs]) for d in range(runs[0].steps + 1)]
    found = signature.matrix("residual.cka")
    assert set(signature.matrices.query("metric == 'residual.cka'")["n_prompts"]) == {sum(len(r.ids) > 1 for r in runs)}
    assert "residual.cka" not in set(signature.samples_table["metric"])  # no prompt has a value of its own
    for d, e in [(0, 1), (0, len(pooled) - 1), (1, 2)]:
        assert found.loc[d, e] == pytest.approx(oracle.cka(pooled[d], pooled[e]), abs=2e-5)
    assert np.diag(found) == pytest.approx(np.ones(len(pooled)))


def test_looped_model_is_measured_pass_by_pass() -> None:
    model, tokenizer = looped_model(), byte_tokenizer()
    signature = depthsig.analyze(model, PROMPTS, tokenizer=tokenizer, metrics=["lens.kl", "residual.norm"])
    assert signature.plan["layer"].tolist() == [0, 1, 2, 1, 2, 1, 2, 3]
    assert signature.plan["iteration"].tolist() == [0, 0, 0, 1, 1, 2, 2, 0]
    assert signature.plan["phase"].fillna(-1).tolist() == [-1, 0, 1, 0, 1, 0, 1, -1]
    assert signature.info["spans"]["executed"][0] | {} == {
        "start": 1, "end": 7, "size": 2, "count": 3, "kind": "loop", "executed": True, "source": "trace"
    }  # fmt: skip
    where = places("llama")
    states: list[list[np.ndarray]] = []
    for text in PROMPTS:
        seen: list[torch.Tensor] = []
        unique = {id(m): m for m in model.model.layers}.values()
        handles = [m.register_forward_pre_hook(lambda _m, a, s=seen: s.append(a[0][0])) for m in unique]
        handles.append(model.model.norm.register_forward_pre_hook(lambda _m, a, s=seen: s.append(a[0][0])))
        with torch.no_grad():
            model(torch.tensor([tokenizer(text).input_ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        states.append([h.double().numpy() for h in seen])
    norms = [np.array([[np.linalg.norm(h[t]) for h in run] for t in range(1, len(run[0]))]) for run in states]
    assert len(states[0]) == 9 and where.norm
    oracle.close(signature.profile("residual.norm")["value"], _aggregate(norms, "mean"))
