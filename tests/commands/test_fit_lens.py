"""Fitting a tuned lens, in Python and on the command line."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from lenses import WIDTH, affine_model, random_prompts, true_maps

import depthsig
from depthsig.checkpoint.translators import TunedLens, read_lens
from depthsig.cli.main import main
from depthsig.errors import DepthsigWarning, InputError


def test_fitting_finds_the_map_that_is_known() -> None:
    model = affine_model()
    fitted = depthsig.fit_lens(model, random_prompts(80), steps=150)
    table = fitted.depths.set_index("depth")
    assert (table.loc[[2, 3], "plain"] > 0.1).all()
    assert (table.loc[[2, 3], "tuned"] < 1e-3).all()
    assert table.loc[0, "tuned"] > 0.01  # no affine map knows what attention will bring
    truth, state = true_maps(model), torch.randn(50, WIDTH)
    for depth in (2, 3):
        found, wanted = (lens.translate(state, depth) - state for lens in (fitted.lens, truth))
        assert float((found - wanted).norm() / wanted.norm()) < 0.2
    # Prompts that the fit never saw.
    signature = depthsig.analyze(model, random_prompts(90)[80:], metrics=["tuned.kl_reverse"], lens=fitted.lens)
    assert signature.profile("tuned.kl_reverse")["value"][2:].max() < 1e-3


def test_fit_is_deterministic_and_leaves_the_model_alone() -> None:
    model = build("gemma2")
    model.train()
    model.model.layers[1].requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    asked = {k: p.requires_grad for k, p in model.named_parameters()}
    torch.manual_seed(7)
    first = depthsig.fit_lens(model, random_prompts(12), steps=12, seed=3)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    again = depthsig.fit_lens(model, random_prompts(12), steps=12, seed=3)
    assert again.lens.content_hash == first.lens.content_hash and again.depths.equals(first.depths)
    assert depthsig.fit_lens(model, random_prompts(12), steps=12, seed=4).lens.content_hash != first.lens.content_hash
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {k: p.requires_grad for k, p in model.named_parameters()} == asked
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_numbers_of_the_fit_are_those_of_the_metrics() -> None:
    """The held-out KL in the record is tuned.kl_reverse over the held-out tokens, and never above the plain one."""
    model, prompts = build("gpt2"), random_prompts(20)
    fitted = depthsig.fit_lens(model, prompts, steps=16)
    held = set(fitted.record["prompts"]["held_out"])
    assert len(held) == 4 and len(fitted.record["prompts"]["train"]) == 16
    signature = depthsig.analyze(
        model, prompts, metrics=["lens.kl_reverse", "tuned.kl_reverse"],
        lens=TunedLens(fitted.lens.weights, fitted.lens.biases),
    )  # fmt: skip
    rows = signature.prompts[signature.prompts["tokens_sha256"].isin(held)]["prompt"]
    samples = signature.samples_table
    for metric, column in (("lens.kl_reverse", "plain"), ("tuned.kl_reverse", "tuned")):
        mine = samples[(samples["metric"] == metric) & (samples["agg"] == "mean") & samples["prompt"].isin(rows)]
        values = mine.groupby("index")["value"].mean().to_numpy()[:-1]
        np.testing.assert_allclose(fitted.depths[column], values, rtol=1e-4, atol=1e-6)
    assert (fitted.depths["tuned"] <= fitted.depths["plain"]).all()
    assert fitted.depths["tuned"].mean() < 0.9 * fitted.depths["plain"].mean()


def test_few_tokens_are_warned_of_and_never_do_harm() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = depthsig.fit_lens(build("llama"), [[5, 6, 7], [8, 9, 10, 11], [5, 6, 7], [12, 13, 14, 15]], steps=40)
    assert any("width 32 were fitted to 5 tokens only" in str(w.message) for w in said)
    assert any("no map did better" in str(w.message) for w in said)
    assert (fitted.depths["tuned"] <= fitted.depths["plain"]).all()
    kept = fitted.depths[fitted.depths["kept"] == "identity"]["depth"]
    assert len(kept) and all(not fitted.lens.weights[d].any() and not fitted.lens.biases[d].any() for d in kept)
    assert sum(fitted.record["tokens"][k] for k in ("train", "held_out")) == 8  # what stands twice counts once


def test_half_precision_and_short_prompts() -> None:
    model, tokenizer = build("llama", dtype=torch.bfloat16), byte_tokenizer(left=True, pad=True)
    with pytest.warns(DepthsigWarning, match="fewer than two tokens"):
        fitted = depthsig.fit_lens(model, [*PROMPTS, "a", "once more, with feeling"], tokenizer=tokenizer, steps=10)
    assert fitted.lens.weights[0].dtype == torch.float32
    assert (fitted.depths["tuned"] <= fitted.depths["plain"]).all() and fitted.depths["tuned"].notna().all()
    texts = ["something else entirely", "and one more text to read"]
    signature = depthsig.analyze(model, texts, tokenizer=tokenizer, metrics=["tuned"], lens=fitted.lens)
    assert np.isfinite(signature.profile("tuned.kl")["value"]).all()


def test_a_looped_model_has_a_translator_a_step() -> None:
    model = looped_model()
    fitted = depthsig.fit_lens(model, random_prompts(20), steps=8)
    assert fitted.depths["layer"].tolist() == [0, 1, 2, 1, 2, 1, 2, 3] and len(fitted.lens) == 8
    signature = depthsig.analyze(
        model, random_prompts(26)[20:], metrics=["lens.kl_reverse", "tuned.kl_reverse"], lens=fitted.lens
    )
    plain, tuned = (signature.profile(f"{lens}.kl_reverse")["value"] for lens in ("lens", "tuned"))
    assert (tuned <= plain * 1.05).all() and tuned.mean() < 0.95 * plain.mean()


def test_little_memory_means_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build("llama"), random_prompts(60)
    turns = []
    from depthsig.commands.lenses import tuned_fit as module

    plain = module.capture
    monkeypatch.setattr(module, "capture", lambda m, p, *rest: turns.append(len(p)) or plain(m, p, *rest))
    few = depthsig.fit_lens(model, prompts, steps=16, memory="1MB")
    assert len(turns) > 3 and sum(turns[1:]) == 48  # the first is held out
    assert few.depths["tuned"].mean() < few.depths["plain"].mean()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"steps": -1}, "--steps"), ({"lr": 0.0}, "--lr"), ({"lr": math.nan}, "--lr"), ({"n": 1}, "-n"),
        ({"weight_decay": -1.0}, "--weight-decay"), ({"memory": "lots"}, "--memory"), ({"batch_size": 0}, "--batch"),
    ],
)  # fmt: skip
def test_bad_options_of_the_fit(options: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        depthsig.fit_lens("no-such-model", **options)


def test_one_prompt_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two different ones"):
        depthsig.fit_lens(build("llama"), [[4, 5, 6], [4, 5, 6]], out=tmp_path / "lens")
    assert list(tmp_path.iterdir()) == []


def test_builtin_prompts_of_analyses_are_left_out() -> None:
    from depthsig.commands.fit_lens import fitting_prompts
    from depthsig.prompts import load_prompts

    for name, count in (("gsm8k", 180), ("lookup", 1000)):
        found, _ = fitting_prompts(name, None, 0)
        assert len(found) == count and not {p.full for p in found} & {p.full for p in load_prompts(name)}
    assert len(fitting_prompts("lookup", 30, 0)[0]) == 30
    with pytest.warns(DepthsigWarning, match="180 prompts to fit on"):
        fitting_prompts("gsm8k", 500, 0)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ["fit-lens", "family-looped", "--steps", "8", "-n", "60", "--no-progress"]
    assert main([*fit, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == "depthsig-results/family-looped-lens"
    depths = told["lens"]["depths"]
    assert len(depths) == 24 and all(d["tuned"] < d["plain"] for d in depths)
    assert main(fit) == 0  # a lens of ours may be replaced
    assert "held-out KL" in capsys.readouterr().out
    options = [
        "--metrics",
        "lens.top1,lens.kl_reverse,tuned.top1,tuned.kl_reverse",
        "-n",
        "6",
        "--no-progress",
        "--no-control",
    ]
    assert main(["analyze", "family-looped", "--lens", told["out"], *options]) == 0
    result = Path("depthsig-results/family-looped")
    signature = depthsig.Signature.load(result)
    assert signature.info["lens"]["content_hash"] == read_lens(told["out"]).content_hash
    assert signature.info["options"]["lens"] == [told["out"]]
    plain, tuned = (signature.profile(f"{lens}.kl_reverse")["value"] for lens in ("lens", "tuned"))
    assert len(tuned) == 25 and (tuned[:-1] < plain[:-1]).all() and tuned.iloc[-1] == 0
    page = (result / "report.html").read_text()
    assert "Early exit" in page and "Tuned lens" in page and f"--lens {told['out']}" in page
    assert (result / "figures" / "early_exit.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["analyze", "family-midas", "--lens", told["out"], *options, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "another unembedding" in said and "another order of layers" in said
    assert main(["analyze", "family-looped", "--iterations", "2", "--lens", told["out"], *options]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["fit-lens", "family-looped", "--out", str(tmp_path)]) == 2
    assert "no depthsig result" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
