"""A signature's life: the same for any batch size and seed, saved, loaded, and reported without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer

import depthsig
from depthsig.errors import DepthsigWarning, InputError
from depthsig.report import save

TABLES = ("profiles", "matrices", "scores", "prompts", "samples_table", "tokens_table")
ASKED: dict[str, Any] = {"metrics": ["lens", "residual", "residual.cka", "skip", "weights"], "agg": "both"}
HOSTILE = '<script>alert(1)</script> & $x_1^2$ \\frac "quoted"'


@pytest.fixture(scope="module")
def signature() -> depthsig.Signature:
    prompts = [*PROMPTS, HOSTILE]
    return depthsig.analyze(build("llama"), prompts, tokenizer=byte_tokenizer(), grown="0:4/2", **ASKED)


def test_saved_and_loaded_it_is_the_same(signature: depthsig.Signature, tmp_path: Path) -> None:
    signature.save(tmp_path / "a", figures=False)
    loaded = depthsig.Signature.load(tmp_path / "a")
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(loaded, table), getattr(signature, table))
    assert loaded.info == json.loads(json.dumps(signature.info))
    names = {"signature.json", "profiles.csv", "matrices.csv", "scores.csv", "prompts.csv", "samples.parquet"}
    assert {p.name for p in (tmp_path / "a").iterdir()} >= names | {"tokens.parquet"}


def test_a_seed_settles_everything(signature: depthsig.Signature) -> None:
    again = depthsig.analyze(build("llama"), [*PROMPTS, HOSTILE], tokenizer=byte_tokenizer(), grown="0:4/2", **ASKED)
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(again, table), getattr(signature, table))
    other = depthsig.analyze(
        build("llama"), [*PROMPTS, HOSTILE], tokenizer=byte_tokenizer(), grown="0:4/2", seed=1, **ASKED
    )
    assert np.array_equal(other.profiles["value"], signature.profiles["value"], equal_nan=True)
    assert not np.array_equal(other.profiles["ci_low"], signature.profiles["ci_low"], equal_nan=True)


@pytest.mark.parametrize("size", [1, 3])
def test_any_batch_size_gives_the_same(signature: depthsig.Signature, size: int) -> None:
    other = depthsig.analyze(
        build("llama"), [*PROMPTS, HOSTILE], tokenizer=byte_tokenizer(), grown="0:4/2", batch_size=size, **ASKED
    )
    for table in ("profiles", "matrices"):
        a, b = getattr(signature, table), getattr(other, table)
        assert a.drop(columns=["value", "ci_low", "ci_high"]).equals(b.drop(columns=["value", "ci_low", "ci_high"]))
        exact = a["metric"].isin(["lens.overlap5", "lens.top1", "lens.target_rank", "skip.top1"])
        oracle.close(b["value"][~exact], a["value"][~exact], 3e-6)


def test_intervals_are_percentiles_of_resampled_means(signature: depthsig.Signature) -> None:
    samples = signature.samples("lens.kl", agg="mean").pivot(index="prompt", columns="index", values="value")
    rows = np.random.default_rng(0).integers(0, len(samples), size=(1000, len(samples)))
    low, high = np.percentile(samples.to_numpy()[rows].mean(1), [2.5, 97.5], axis=0)
    profile = signature.profile("lens.kl", agg="mean")
    assert profile["ci_low"].to_numpy() == pytest.approx(low) and profile["ci_high"].to_numpy() == pytest.approx(high)
    worst = signature.profile("lens.kl", agg="max")
    assert worst["ci_low"].isna().all() and (worst["value"] >= profile["value"] - 1e-12).all()


def test_weights_cosine_is_plain(signature: depthsig.Signature) -> None:
    layers = build("llama").model.layers
    flat = [layer.self_attn.q_proj.weight.detach().double().flatten().numpy() for layer in layers]
    expected = [[oracle.cosine(a, b) for b in flat] for a in flat]
    oracle.close(signature.matrix("weights.cosine", part="q"), np.array(expected), 1e-6)


def test_the_report_needs_no_torch_and_escapes_everything(signature: depthsig.Signature, tmp_path: Path) -> None:
    fewer = {name: getattr(signature, name).query("agg == 'mean'") for name in ("profiles", "matrices")}
    fewer["tokens_table"] = signature.tokens_table[signature.tokens_table["prompt"] >= len(PROMPTS) - 1]
    save(replace(signature, **fewer), tmp_path / "a")
    before = {p.name for p in (tmp_path / "a" / "figures").iterdir()}
    shutil.rmtree(tmp_path / "a" / "figures")
    (tmp_path / "a" / "report.html").unlink()
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from depthsig.report import build\n"
        f"build({str(tmp_path / 'a')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert {p.name for p in (tmp_path / "a" / "figures").iterdir()} == before
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64,") >= 20
    for heading in ("Certificates", "Logit lens", "Layer skip", "Scores", "Definitions"):
        assert heading in page


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    half = depthsig.analyze(build("llama", dtype=dtype), PROMPTS, tokenizer=byte_tokenizer(), metrics="residual,skip")
    full = depthsig.analyze(build("llama"), PROMPTS, tokenizer=byte_tokenizer(), metrics="residual,skip")
    assert half.info["dtype"] == str(dtype).removeprefix("torch.")
    for metric in ("contribution.relative", "residual.norm"):
        oracle_values = full.profile(metric)["value"].to_numpy()
        assert half.profile(metric)["value"].to_numpy() == pytest.approx(oracle_values, rel=0.03)
    assert half.matrix("skip.effect").stack().to_numpy() == pytest.approx(
        full.matrix("skip.effect").stack().to_numpy(), rel=0.1, abs=0.02, nan_ok=True
    )


def test_prompts_that_are_too_short_are_listed_and_left_out() -> None:
    with pytest.warns(DepthsigWarning, match="fewer than two tokens"):
        found = depthsig.analyze(build("llama"), ["a", *PROMPTS], tokenizer=byte_tokenizer(), metrics=["lens.kl"])
    assert found.prompts["n_tokens"].tolist()[0] == 1
    assert set(found.profiles["n_prompts"]) == {len(PROMPTS)}
    with pytest.raises(InputError, match="two tokens"):
        depthsig.analyze(build("llama"), ["a", "b"], tokenizer=byte_tokenizer(), metrics=["lens.kl"])


def test_a_bridge_is_a_model(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    module = build("llama")
    module.save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    bridge = TransformerBridge.boot_transformers(str(tmp_path / "m"), device="cpu")
    a = depthsig.analyze(bridge, PROMPTS, tokenizer=byte_tokenizer(), metrics=["lens.kl", "skip.kl"])
    b = depthsig.analyze(module, PROMPTS, tokenizer=byte_tokenizer(), metrics=["lens.kl", "skip.kl"])
    oracle.close(a.profiles["value"], b.profiles["value"], 3e-6)


def test_a_damaged_folder_is_named(signature: depthsig.Signature, tmp_path: Path) -> None:
    signature.save(tmp_path / "a", figures=False)
    (tmp_path / "a" / "profiles.csv").write_text("metric,value\nx,1\n")
    with pytest.raises(InputError, match=r"profiles\.csv"):
        depthsig.Signature.load(tmp_path / "a")
    (tmp_path / "a" / "signature.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        depthsig.Signature.load(tmp_path / "a")
    with pytest.raises(InputError, match="no folder"):
        depthsig.Signature.load(tmp_path / "b")


@pytest.mark.parametrize("file", ["profiles.csv", "matrices.csv", "scores.csv", "prompts.csv"])
def test_a_table_that_was_cut_is_damaged(file: str, signature: depthsig.Signature, tmp_path: Path) -> None:
    signature.save(tmp_path / "a", figures=False)
    path = tmp_path / "a" / file
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=f"{file}.*damaged"):
        depthsig.Signature.load(tmp_path / "a")


def test_a_profile_without_all_its_rows_is_damaged_in_old_folders_too(
    signature: depthsig.Signature, tmp_path: Path
) -> None:
    signature.save(tmp_path / "a", figures=False)
    record, path = tmp_path / "a" / "signature.json", tmp_path / "a" / "profiles.csv"
    info = json.loads(record.read_text())
    del info["rows"]
    record.write_text(json.dumps(info))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"profiles\.csv.*has \d rows of \d \(4 steps\)"):
        depthsig.Signature.load(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [
        {"plan": None}, {"plan": []}, {"plan": [{"step": 0}]}, {"spans": {"labelled": [{"start": "a"}]}},
        {"spans": []}, {"options": None}, {"checkpoint": "x"},
        {"spans": {"executed": [{"start": 0, "end": 9, "size": 3, "count": 3, "kind": "loop", "source": "trace"}]}},
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(change: dict[str, Any], signature: depthsig.Signature, tmp_path: Path) -> None:
    signature.save(tmp_path / "a", figures=False)
    record = tmp_path / "a" / "signature.json"
    info = json.loads(record.read_text()) | change
    record.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    with pytest.raises(InputError, match=r"signature\.json.*damaged"):
        depthsig.Signature.load(tmp_path / "a")


def test_only_a_result_of_its_own_kind_is_replaced(signature: depthsig.Signature, tmp_path: Path) -> None:
    from depthsig.signature.folders.writing import ensure_writable

    signature.save(tmp_path / "a", figures=False)
    signature.save(tmp_path / "a", figures=False)
    for kind in ("compare.json", "repeat.json", "lens.json"):
        with pytest.raises(InputError, match=r"another kind \(signature\.json\)"):
            ensure_writable(tmp_path / "a", kind)
