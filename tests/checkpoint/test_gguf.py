"""GGUF files: what they say is what runs, or they are refused by the name of what would be dropped."""

from __future__ import annotations

import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from gguf_files import small_llama, write_gguf
from torch import nn

import depthsig
from depthsig.checkpoint.gguf.gguf_header import read_header
from depthsig.checkpoint.loading import LoadOptions
from depthsig.checkpoint.open import open_checkpoint
from depthsig.errors import InputError, UnsupportedModelError

IDS = torch.tensor([[1, 5, 9, 2, 33, 7, 60, 21, 4, 8, 15, 16, 23, 42]])
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def logits(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(IDS).logits


@pytest.mark.parametrize("name", ["plain.gguf", "LOUD.GGUF"])
def test_a_file_is_the_model_that_it_was_made_from(name: str, tmp_path: Path) -> None:
    module = small_llama()
    found = open_checkpoint(write_gguf(module, tmp_path / name))
    assert torch.allclose(logits(found.module), logits(module), atol=1e-5)
    assert (found.name, found.kind, found.model_max, found.notes) == (name.split(".")[0], "gguf", 64, ())
    assert open_checkpoint(tmp_path / name, options=LoadOptions(dtype="auto")).module.dtype == torch.float32


def test_the_rope_factors_of_llama_3_are_applied(tmp_path: Path) -> None:
    stretched = small_llama(rope_parameters=LLAMA3)
    plain = hf.LlamaForCausalLM(hf.LlamaConfig(**{**stretched.config.to_dict(), "rope_parameters": None})).eval()
    plain.load_state_dict(stretched.state_dict())
    factors = plain.model.rotary_emb.inv_freq / stretched.model.rotary_emb.inv_freq
    assert len(set(factors.tolist())) > 2 and not torch.allclose(logits(plain), logits(stretched), atol=1e-4)
    path = write_gguf(stretched, tmp_path / "a.gguf", extra={"rope_freqs.weight": factors.numpy()})
    found = open_checkpoint(path)
    assert torch.allclose(logits(found.module), logits(stretched), atol=1e-5)
    again = type(found.module)(found.config)  # the config says it, so that an export and a control have it, too
    assert torch.allclose(again.model.rotary_emb.inv_freq, stretched.model.rotary_emb.inv_freq)
    assert found.model_max == 64


def test_linear_scaling_is_applied(tmp_path: Path) -> None:
    stretched = small_llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    for keys in ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope.scale_linear": 4.0}):
        found = open_checkpoint(write_gguf(stretched, tmp_path / "a.gguf", keys=keys))
        assert torch.allclose(logits(found.module), logits(stretched), atol=1e-5)


def test_base_and_epsilon_are_those_of_the_file(tmp_path: Path) -> None:
    module = small_llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    module.config.rms_norm_eps = 0.01
    for part in module.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 0.01
    found = open_checkpoint(write_gguf(module, tmp_path / "a.gguf", keys={"rope.freq_base": 500.0}))
    assert torch.allclose(logits(found.module), logits(module), atol=1e-5)


DROPPED: dict[str, dict[str, Any]] = {
    "attention.sliding_window": {"attention.sliding_window": 8},
    "attn_logit_softcapping": {"attn_logit_softcapping": 50.0},
    "final_logit_softcapping": {"final_logit_softcapping": 30.0},
    "logit_scale": {"logit_scale": 0.5},
    "residual_scale": {"residual_scale": 0.22},
    "embedding_scale": {"embedding_scale": 12.0},
    "attention.scale": {"attention.scale": 0.5},
    "expert_weights_scale": {"expert_weights_scale": 2.5},
    "expert_count": {"expert_count": 8},
    "rope.scaling.type": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
    "rope.scaling.attn_factor": {"rope.scaling.attn_factor": 1.2},
    "rope.dimension_count": {"rope.dimension_count": 8, "attention.key_length": 16},
    "attention.value_length": {"attention.value_length": 8},
    "something_new": {"something_new": 3},
}


@pytest.mark.parametrize("name", list(DROPPED))
def test_keys_that_would_be_dropped_are_named(name: str, tmp_path: Path) -> None:
    path = write_gguf(small_llama(), tmp_path / "a.gguf", keys=DROPPED[name])
    with pytest.raises(UnsupportedModelError, match=name.replace(".", r"\.")):
        open_checkpoint(path)


def test_keys_that_change_nothing_are_no_reason(tmp_path: Path) -> None:
    keys = {
        "attention.sliding_window": 64, "logit_scale": 1.0, "expert_count": 0, "rope.scaling.type": "none",
        "attention.key_length": 16, "attention.value_length": 16, "final_logit_softcapping": 0.0,
        "=quantize.imatrix.file": "x", "=general.type": "model",
    }  # fmt: skip
    assert not open_checkpoint(write_gguf(small_llama(), tmp_path / "a.gguf", keys=keys)).notes


@pytest.mark.parametrize("name", ["attention.layer_norm_rms_epsilon", "context_length", "block_count"])
def test_keys_that_are_needed_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_checkpoint(write_gguf(small_llama(), tmp_path / "a.gguf", without=(name,)))


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.9.ffn_up.weight", "strange.weight"])
def test_tensors_without_a_place_are_named(name: str, tmp_path: Path) -> None:
    path = write_gguf(small_llama(), tmp_path / "a.gguf", extra={name: np.ones(32, dtype=np.float32)})
    with pytest.raises(UnsupportedModelError, match=name.replace(".", r"\.")):
        open_checkpoint(path)


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks 1 weights"):
        open_checkpoint(write_gguf(small_llama(), tmp_path / "a.gguf", without=("blk.1.ffn_up.weight",)))


def test_pieces_and_adapters_are_refused(tmp_path: Path) -> None:
    piece = write_gguf(small_llama(), tmp_path / "a-00001-of-00002.gguf", keys={"=split.count": 2})
    with pytest.raises(UnsupportedModelError, match="one of 2 pieces"):
        open_checkpoint(piece)
    adapter = write_gguf(small_llama(), tmp_path / "b.gguf", keys={"=general.type": "adapter"})
    with pytest.raises(UnsupportedModelError, match="adapter"):
        open_checkpoint(adapter)
    beside = Path(shutil.copy(write_gguf(small_llama(), tmp_path / "c.gguf"), tmp_path / "d.gguf"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="PEFT adapter"):
        open_checkpoint(beside)


def _header(tensors: int, keys: int, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


LIES = {
    "too short": b"GGUF",
    "does not begin": b"PK\3\4" * 20,
    "its version": b"GGUF" + bytes(60),
    "tensors, more than": _header(2**62, 0, bytes(40)),
    "keys, more than": _header(0, 2**63, bytes(40)),
    "bytes of a key, more": _header(0, 1, struct.pack("<Q", 2**61) + bytes(40)),
    "entries of the key 'a', more": _header(0, 1, _key(b"a", 9, struct.pack("<IQ", 4, 2**60)) + bytes(40)),
    "bytes of the key 'a', more": _header(0, 1, _key(b"a", 9, struct.pack("<IQ", 8, 1)) + b"\xff" * 40),
    "unknown type 77": _header(0, 1, _key(b"a", 77, bytes(40))),
    "no general.architecture": _header(0, 0, bytes(40)),
    "ends within": _header(0, 1, _key(b"a", 10, b"")),
}


@pytest.mark.parametrize("reason", list(LIES))
def test_a_damaged_header_is_named_at_once(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(LIES[reason])
    started = time.perf_counter()
    with pytest.raises(InputError, match=r"bad\.gguf") as told:
        read_header(path)
    assert reason in str(told.value) and "\n" not in str(told.value)
    assert time.perf_counter() - started < 1


def test_a_tensor_beyond_the_end_is_named(tmp_path: Path) -> None:
    path = write_gguf(small_llama(), tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"ends beyond the end of the file; is it truncated\?"):
        depthsig.load(path)
