"""The bench of planted truth: its models are what they are said to be, and its table keeps what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import depthsig
from data.studies import planted
from data.studies.plain_truth import plain_truth
from data.studies.planted_cases import CASES
from data.studies.planting import (
    in_order,
    linear_loop,
    noisy,
    null_models,
    one_constant,
    periodic,
    permuted,
    rotated,
    small_llama,
    token_wise,
    trained,
)
from depthsig.findings import RULES
from depthsig.prompts.builtin import builtin_prompts

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "data" / "studies"
MOST_FALSE = 0.05
"""Of false claims among models of which a claim is false."""


def logits(model: torch.nn.Module, ids: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(ids), use_cache=False).logits


def ids(rng: np.random.Generator, vocab: int = 64) -> list[list[int]]:
    return rng.integers(0, vocab, (3, 20)).tolist()


@pytest.mark.parametrize("change", [permuted, rotated], ids=["permuted", "rotated"])
@pytest.mark.parametrize("of", ["tied", "untied"])
def test_edits_that_keep_the_function_keep_it_and_change_the_weights(change, of: str) -> None:
    rng = np.random.default_rng(0)
    base = trained() if of == "tied" else small_llama(rng, 5, 32)
    before = {name: p.clone() for name, p in base.named_parameters()}
    new, prompts = change(base, rng), ids(rng)
    expected = logits(base, prompts)
    assert float((logits(new, prompts) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    moved = new.model.layers[1].self_attn.q_proj.weight - base.model.layers[1].self_attn.q_proj.weight
    assert float(moved.detach().abs().mean()) > 0.1 * float(
        before["model.layers.1.self_attn.q_proj.weight"].abs().mean()
    )
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())


def test_weight_noise_hardly_moves_the_loss() -> None:
    rng, base = np.random.default_rng(1), trained()
    text = builtin_prompts("lookup", 4)
    prompts = torch.tensor([list(p.text.encode())[:24] for p in text])
    with torch.no_grad():
        losses = [float(m(prompts, labels=prompts).loss) for m in (base, noisy(base, rng))]
    assert losses[0] != losses[1] and abs(losses[1] - losses[0]) < 0.005


def test_dead_layers_are_the_identity_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    for base in (trained(), token_wise(rng, 6, [1.0] * 6)):
        prompts = ids(rng, 48)
        alone = logits(in_order(base, range(4)), prompts)
        for order in ([0, 1, 2, 3, None, None], [None, None, 0, 1, 2, 3], [None, 0, 1, None, 2, 3]):
            assert torch.equal(logits(in_order(base, order, rng), prompts), alone)


@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_the_loop_goes_to_its_fixed_point_at_its_rate(radius: float) -> None:
    model = linear_loop(np.random.default_rng(3), radius)
    each = radius ** (1 / len(model.model.layers))
    fixed = model.model.layers[0].mlp.down_proj.bias / (1 - each)
    x = model.model.embed_tokens(torch.tensor([[5, 6]]))
    gaps = []
    with torch.no_grad():
        for _ in range(5):
            gaps.append(float((x - fixed)[..., 1:].norm()))
            for layer in model.model.layers:
                x = x + layer.mlp(layer.post_attention_layernorm(x))
    assert np.array(gaps[1:]) / gaps[:-1] == pytest.approx(radius, rel=0.02)


def test_the_exact_truth_of_a_token_wise_model_is_what_depthsig_measures_of_all_its_prompts() -> None:
    """Every pair of 12 tokens after a first one, by two engines."""
    rng = np.random.default_rng(4)
    model = token_wise(rng, 6, [0.5, 1, 2, 1, 3, 1], attention=3)
    prompts = [[0, a, b] for a in range(12) for b in range(12)]
    assert torch.equal(logits(model, [[1, 2, 3, 4]])[0, 3], logits(model, [[9, 9, 9, 4]])[0, 3])
    found = depthsig.analyze(model, prompts, metrics=planted.METRICS, control=False, progress=False)
    truth = plain_truth(model, 12)
    score = found.scores.set_index("score")["value"]
    assert score["late_share"] == pytest.approx(truth.late_share, rel=1e-4)
    assert score["settling_depth"] == pytest.approx(truth.settling, rel=1e-4)
    names = [f"effective_depth.{name}" for name in ("kl", "overlap", "cosine")]
    assert score[names].to_numpy() == pytest.approx(np.array(truth.effective), nan_ok=True)
    assert found.profile("skip.loss")["value"].to_numpy() == pytest.approx(truth.costs, abs=1e-4)
    (ratio,) = [f["value"] for f in found.findings() if f["id"] == "attention_or_mlp"]
    assert ratio == pytest.approx(truth.attention_over_mlp, rel=1e-4)


def test_steps_of_one_constant_are_alike_and_a_period_is_in_the_sizes() -> None:
    truth = plain_truth(one_constant(np.random.default_rng(5), [0.3] * 6), 16)
    assert np.ptp(truth.costs) == 0 and truth.late_share == pytest.approx(1 / 3)
    base = small_llama(np.random.default_rng(6), 6, 32)
    factors = [
        float((new.mlp.down_proj.weight / old.mlp.down_proj.weight)[0, 0].detach())
        for new, old in zip(periodic(base, 3, 0.5).model.layers, base.model.layers, strict=True)
    ]
    assert factors == pytest.approx([1.5, 1, 1, 1.5, 1, 1])


def test_null_models_are_folders_that_are_kept(tmp_path: Path) -> None:
    paths = null_models(2, 7, tmp_path, kinds=("rotated", "fresh"))
    stamps = [(path / "model.safetensors").stat().st_mtime_ns for path in paths]
    again = null_models(3, 7, tmp_path, kinds=("rotated", "fresh"))
    assert again[:2] == paths and [(p / "model.safetensors").stat().st_mtime_ns for p in paths] == stamps
    assert sorted(p.name for p in tmp_path.iterdir()) == ["null-000", "null-001", "null-002"]
    assert json.loads((paths[1] / "config.json").read_text())["depthsig"]["grown"] == "0:24/4"
    new, old = (depthsig.load(str(one)).run(["k 1 2 3"], [None])[0].logits[0] for one in (paths[0], "family-baseline"))
    assert torch.allclose(new, old, atol=1e-4)
    with pytest.raises(ValueError, match=r"unknown kinds of null models: odd; there are permuted, rotated"):
        null_models(1, 0, tmp_path, kinds=("odd",))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some cases of the quick study."""
    out = tmp_path_factory.mktemp("planted")
    words = "exactly alike,known radius,drifts,adds noise,period of 3,how many"
    run(out, words)
    return out


def run(out: Path, words: str) -> str:
    command = [sys.executable, "-m", "data.studies.planted", "--quick", "--out", str(out), "--only", words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_handful_of_models_get_the_planted_verdict(quick: Path) -> None:
    found = pd.read_csv(quick / "planted_models.csv")
    assert (found.groupby(planted.MODEL)["of"].first() == found.groupby(planted.MODEL).size()).all()
    claimed = found["said"] == "holds"
    assert not claimed[~found["truth"]].any()
    sure = found["truth"] & ~found["verdict"].isin(["least_damaging"])
    assert claimed[sure].all() and sure.sum() > 8


def test_a_study_that_was_cut_off_goes_on(quick: Path, tmp_path: Path) -> None:
    whole = (quick / "planted_models.csv").read_text().splitlines(keepends=True)
    torn = "".join(whole[:-2]) + whole[-2][:9]  # the last model lacks a row, and another is half there
    (tmp_path / "planted_models.csv").write_text(torn)
    run(tmp_path, "period of 3")
    columns = [c for c in planted.COLUMNS if c != "seconds"]
    tables = [pd.read_csv(folder / "planted_models.csv")[columns] for folder in (quick, tmp_path)]
    pd.testing.assert_frame_equal(*[t.sort_values([*planted.MODEL, "verdict"], ignore_index=True) for t in tables])


def test_an_unknown_case_is_an_error() -> None:
    command = [sys.executable, "-m", "data.studies.planted", "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "no case is called 'nonsense'" in done.stderr


def test_names_of_cases_are_told_apart() -> None:
    assert len({(case.name, case.strength) for case in CASES}) == len(CASES)


def test_the_shipped_table_counts_the_shipped_models_and_keeps_its_promises() -> None:
    models, summary = pd.read_csv(STUDIES / "planted_models.csv"), pd.read_csv(STUDIES / "planted.csv")
    again = planted.counted(models)
    pd.testing.assert_frame_equal(again, summary, check_dtype=False)
    made = models[~models["case"].str.contains("roles|pairs|two of")]
    numbers = made.groupby(planted.MODEL)["null"].first()
    assert len(numbers) >= 200 and numbers.sum() >= 100
    of_all = summary[(summary["case"] == "all") & ~summary["verdict"].str.contains("lens:|Lens:")]
    wrong = of_all[~of_all["truth"]].set_index("verdict")
    assert wrong["rate"].max() <= MOST_FALSE, wrong["rate"]
    assert wrong.loc["blocks", "models"] >= 100 and wrong.loc["recurrence", "models"] >= 100
    found = of_all[of_all["truth"]].set_index("verdict")["rate"]  # a verdict that is never given is never wrong
    assert found.min() > 0.3 and found[["late", "recurrence", "blocks", "find_blocks", "compare: late"]].min() > 0.7
    # An early exit's verdict needs calibration; a drift is planted for it in tests/measure/test_truncation.py.
    rules = {rule.id for rule in RULES} - {"early_exit"}
    assert rules <= set(of_all["verdict"])


def test_the_page_shows_the_shipped_table() -> None:
    page = (ROOT / "docs" / "planted.md").read_text(encoding="utf-8")
    assert planted.table(pd.read_csv(STUDIES / "planted.csv")) in page
