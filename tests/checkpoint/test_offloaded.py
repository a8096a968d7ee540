"""Weights that accelerate keeps in a CPU's memory or on a disk: the same numbers, and the same refusals."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import PROMPTS, build, byte_tokenizer, looped_model
from torch import nn

import depthsig
from depthsig.checkpoint.anatomy.offloaded import device_of, is_offloaded, stored
from depthsig.checkpoint.fingerprint import fingerprint
from depthsig.errors import InputError

accelerate = pytest.importorskip("accelerate", reason="extra accelerate")
TOKENIZER = byte_tokenizer()
CPU = torch.device("cpu")
METRICS = [
    "lens",
    "residual",
    "skip",
    "local",
    "order.swap_next",
    "erasure",
    "attribution",
    "weights",
    "truncation.repeat",
]


def _offloaded(module: nn.Module, how: str, folder: Path) -> nn.Module:
    if how == "cpu":
        accelerate.cpu_offload(module, execution_device=CPU)
    elif how == "cpu, buffers too":
        accelerate.cpu_offload(module, execution_device=CPU, offload_buffers=True)
    else:
        accelerate.disk_offload(module, folder, execution_device=CPU)
    assert all(p.is_meta for p in module.parameters())
    return module


def assert_same(found: depthsig.Signature, wanted: depthsig.Signature) -> None:
    assert [c["passed"] for c in found.info["certificates"]] == [c["passed"] for c in wanted.info["certificates"]]
    assert found.info["plan"] == wanted.info["plan"] and found.info["warnings"] == wanted.info["warnings"]
    for name in ("profiles", "matrices", "scores", "samples_table", "tokens_table"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert len(ours) == len(theirs) and ours.columns.equals(theirs.columns), name
        if len(ours):
            np.testing.assert_allclose(ours["value"], theirs["value"], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("how", ["cpu", "cpu, buffers too", "disk"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_live_model_that_is_offloaded(family: str, how: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"tokenizer": TOKENIZER, "metrics": METRICS, "parts": "layer,attn,mlp", "progress": False}
    wanted = depthsig.analyze(build(family), PROMPTS[:3], **asked)
    module = _offloaded(build(family), how, tmp_path)
    assert_same(depthsig.analyze(module, PROMPTS[:3], **asked), wanted)
    assert all(p.is_meta for p in module.parameters())


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_a_loop_that_is_run_inside_its_own_forward(how: str, tmp_path: Path) -> None:
    edits = [None, depthsig.Skip(1), depthsig.Skip(2, "mlp"), depthsig.Repeat(0, 1, times=2)]
    wanted = depthsig.load(looped_model(), TOKENIZER).run(PROMPTS[:2], edits)
    found = depthsig.load(_offloaded(looped_model(), how, tmp_path), TOKENIZER).run(PROMPTS[:2], edits)
    for ours, theirs in zip(found, wanted, strict=True):
        for a, b in zip(ours.logits, theirs.logits, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_half_precision(tmp_path: Path) -> None:
    wanted = depthsig.load(build("llama").bfloat16(), TOKENIZER).run(PROMPTS[:2], [None, depthsig.Skip(1)])
    module = _offloaded(build("llama").bfloat16(), "disk", tmp_path)
    found = depthsig.load(module, TOKENIZER).run(PROMPTS[:2], [None, depthsig.Skip(1)])
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


# --- what is read of the weights ---


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_weights_are_read_from_where_they_are(how: str, tmp_path: Path) -> None:
    plain, module = build("llama"), _offloaded(build("llama"), how, tmp_path)
    assert not is_offloaded(plain) and is_offloaded(module) and device_of(module) == device_of(plain) == CPU
    there = dict(plain.named_parameters())
    for name, value in stored(module):
        assert value is not None and torch.equal(value, there[name])
    assert fingerprint(module) == fingerprint(plain)
    inside = dict(stored(module.model.layers[1]))
    assert all(torch.equal(inside[n], p) for n, p in plain.model.layers[1].named_parameters())


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_weights_that_are_no_numbers_are_refused(how: str, tmp_path: Path) -> None:
    module = build("llama")
    with torch.no_grad():
        module.model.layers[2].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"'model\.layers\.2\.mlp\.up_proj\.weight' holds values that are not finite"):
        depthsig.load(_offloaded(module, how, tmp_path), TOKENIZER)


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_layers_that_are_one_are_one(how: str, tmp_path: Path) -> None:
    def tied() -> nn.Module:
        module = build("llama")
        for (_, a), (name, _) in zip(
            module.model.layers[0].named_parameters(), list(module.model.layers[1].named_parameters()), strict=True
        ):
            path, _, last = name.rpartition(".")
            setattr(module.model.layers[1].get_submodule(path), last, a)
        return module

    wanted = depthsig.load(tied(), TOKENIZER).plan
    found = depthsig.load(_offloaded(tied(), how, tmp_path), TOKENIZER).plan
    assert found.layers == wanted.layers == (0, 0, 2, 3)


def test_what_copies_weights_says_that_it_cannot(tmp_path: Path) -> None:
    module = _offloaded(build("llama"), "cpu", tmp_path)
    with pytest.raises(InputError, match="offloaded by accelerate"):
        depthsig.export(depthsig.load(module, TOKENIZER), tmp_path / "out", order="0:2,0:4")


# --- device maps ---


def _split(last: str) -> dict[str, str]:
    found = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": last}
    return {**found, **{f"model.layers.{i}": last if i % 2 else "cpu" for i in range(4)}}


def _folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("depthsig-offload-*")}


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("given", [{"": "cpu"}, _split("cpu"), _split("disk"), "auto"], ids=["", "cpu", "disk", "auto"])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_device_map(checkpoint: Path, given: Any, dtype: str) -> None:
    asked: dict[str, Any] = {"metrics": METRICS, "progress": False, "dtype": dtype}
    wanted = depthsig.analyze(checkpoint, PROMPTS[:3], **asked)
    found = depthsig.analyze(checkpoint, PROMPTS[:3], device_map=given, recheck=True, **asked)
    assert_same(found, wanted)


def test_the_disks_share_goes_with_the_model(checkpoint: Path) -> None:
    model = depthsig.load(checkpoint, device_map=_split("disk"))
    assert is_offloaded(model.module) and len(_folders()) == 1
    assert len(model.run(PROMPTS[:1], [None])[0].logits) == 1
    depthsig.analyze(model, PROMPTS[:2], metrics=["lens.kl"])  # its weights are still those that were loaded
    del model
    gc.collect()
    assert _folders() == set()


def test_nothing_is_left_where_loading_fails(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from depthsig.checkpoint.pretrained import Target

    def fails(*_: Any) -> None:
        assert len(_folders()) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Target, "_check_runs", fails)
    with pytest.raises(KeyboardInterrupt):
        depthsig.load(checkpoint, device_map=_split("disk"))
    assert _folders() == set()
