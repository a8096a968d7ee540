"""A real pretrained model, by the command line, against plain hooks on the Hugging Face model."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import oracle
import pytest
import smollm2
from families import LLAMA

import depthsig
from depthsig.cli.main import main

pytestmark = pytest.mark.slow

TEXTS = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def add(a, b):\n    return a + b".replace("\n", " "),
    "Depth is what a model makes of it.",
    "Once upon a time",
    "1, 2, 3, 4, 5, 6, 7,",
]
FLIPS = {"lens.overlap5": 0.2, "lens.top1": 1.0, "lens.target_rank": 1.0}
"""What one flip of a near tie changes at one position."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> depthsig.Signature:
    folder = tmp_path_factory.mktemp("smollm2")
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(TEXTS) + "\n")
    arguments = ["analyze", str(smollm2.gguf()), "--prompts", str(prompts), "--metrics", "lens,residual"]
    assert main([*arguments, "--agg", "both", "--out", str(folder / "out")]) == 0
    assert (folder / "out" / "report.html").stat().st_size > 100_000
    return depthsig.Signature.load(folder / "out")


@pytest.fixture(scope="module")
def runs() -> list[oracle.Clean]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2.gguf()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return [oracle.Clean(model, LLAMA, tokenizer(text).input_ids) for text in TEXTS]


def test_prompts_and_certificates(result: depthsig.Signature, runs: list[oracle.Clean]) -> None:
    assert result.prompts["n_tokens"].tolist() == [len(run.ids) for run in runs]
    names = {"readout", "neutral", "identity", "causal", "edits", "parts", "padding"}
    assert {c["name"] for c in result.info["certificates"]} == names
    assert all(c["passed"] for c in result.info["certificates"])
    assert len(result.plan) == 30 and result.info["checkpoint"]["kind"] == "gguf"


def test_lens(result: depthsig.Signature, runs: list[oracle.Clean]) -> None:
    cells = [
        [[oracle.lens_values(run, d, t) for d in range(run.steps + 1)] for t in range(1, len(run.ids))] for run in runs
    ]
    for metric in cells[0][0][0]:
        means = []
        for rows in cells:
            values = np.array([[cell.get(metric, math.nan) for cell in row] for row in rows])
            means.append(np.nanmean(values, axis=0))
        found = result.samples(metric, agg="mean").pivot(index="prompt", columns="index", values="value").to_numpy()
        wanted = np.array(means)
        if metric in FLIPS:
            positions = np.array([len(run.ids) - 1 for run in runs])[:, None]
            assert (np.abs(found - wanted) <= FLIPS[metric] / (positions - 1) + 1e-9).all(), metric
            assert (np.abs(found - wanted) > 1e-9).mean() < 0.02
            continue
        log_rank = metric == "lens.target_log_rank"
        oracle.close(result.profile(metric)["value"], wanted.mean(0), 0.05 if log_rank else 3e-6)
    settling = np.mean([np.mean([oracle.settling(run, t) for t in range(1, len(run.ids))]) for run in runs])
    assert result.score("settling_depth") == pytest.approx(settling, abs=0.05)


@pytest.mark.parametrize("part", ["layer", "attn", "mlp"])
def test_contributions(result: depthsig.Signature, runs: list[oracle.Clean], part: str) -> None:
    for metric in ("contribution.norm", "contribution.relative", "contribution.cosine"):
        values = [
            np.array([
                [oracle.step_values(run, part, s, t)[metric] for s in range(run.steps)]
                for t in range(1, len(run.ids))
            ])
            for run in runs
        ]  # fmt: skip
        oracle.close(result.profile(metric, part=part)["value"], np.mean([v.mean(0) for v in values], axis=0))
        worst = np.max([v.max(0) for v in values], axis=0)
        oracle.close(result.profile(metric, part=part, agg="max")["value"], worst)


def test_residual(result: depthsig.Signature, runs: list[oracle.Clean]) -> None:
    norms = [np.array([[np.linalg.norm(h[t]) for h in run.h] for t in range(1, len(run.ids))]) for run in runs]
    oracle.close(result.profile("residual.norm")["value"], np.mean([v.mean(0) for v in norms], axis=0))
    cosines = [
        np.array([[[oracle.cosine(a[t], b[t]) for b in run.h] for a in run.h] for t in range(1, len(run.ids))])
        for run in runs
    ]
    wanted = np.mean([c.mean(0) for c in cosines], axis=0)
    oracle.close(result.matrix("residual.cosine"), wanted)
    angular = result.matrix("residual.angular")
    for d, n in [(0, 1), (3, 5), (0, 30), (29, 1)]:
        each = [(np.arccos(np.clip(c[:, d, d + n], -1, 1)) / np.pi).mean() for c in cosines]
        assert angular.loc[d, n] == pytest.approx(np.mean(each), rel=1e-4)


def test_a_refusal_takes_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    out = tmp_path / "out"
    assert main(["analyze", str(smollm2.gguf()), "--metrics", "nonsense", "--out", str(out)]) == 2
    assert time.perf_counter() - started < 10 and not out.exists()


def test_edited_runs_equal_hooked_forwards() -> None:
    """Prompt by prompt: matmuls of other batch sizes round differently, by 1.7e-5 of the largest logit here."""
    import torch

    from depthsig.engine.edits import Repeat, Skip, Swap

    model = depthsig.load(str(smollm2.gguf()))
    layers = model.module.model.layers
    edits = [Skip(0), Skip(7), Skip(29), Skip(12, part="attn"), Skip(3, part="mlp"), Skip(20, positions=[1, 2, 3])]
    for text in TEXTS:
        for run in model.run([text], edits):
            (edit,), (found,) = run.edit, run.logits
            ids = torch.tensor([model.tokenizer(text).input_ids])
            at = [p for p in edit.positions or range(1, ids.shape[1]) if p < ids.shape[1]]

            def change(module, args, kwargs, output, edit=edit, at=at):
                out = (output[0] if isinstance(output, tuple) else output).clone()
                out[:, at] = args[0][:, at] if edit.part == "layer" else 0.0
                return (out, *output[1:]) if isinstance(output, tuple) else out

            layer = layers[edit.step]
            place = {"layer": layer, "attn": layer.self_attn, "mlp": layer.mlp}[edit.part]
            handle = place.register_forward_hook(change, with_kwargs=True)
            with torch.no_grad():
                expected = model.module(ids, use_cache=False).logits[0]
            handle.remove()
            assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), edit
    for edit, order in ((Swap(3, 9), "0:3,9,4:9,3,10:30"), (Repeat(10, 13), "0:13,10:30")):
        other = model.relabelled(order=order)
        for text in TEXTS[:2]:
            (found,) = model.run([text], [edit])[0].logits
            ids = torch.tensor([model.tokenizer(text).input_ids])
            expected = other.read(other.clean(ids).outputs[-1])[0]
            assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), edit
