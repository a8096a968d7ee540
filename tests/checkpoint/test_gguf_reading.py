"""A GGUF file read once is bit for bit what transformers and gguf read by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from gguf import GGMLQuantizationType as Kind
from gguf_files import add_tokenizer, small_llama, write_gguf
from smollm2 import gguf as smollm2

from depthsig.checkpoint.gguf.gguf_header import read_header
from depthsig.checkpoint.gguf.gguf_reading import _unpacked, read_once
from depthsig.checkpoint.open import open_checkpoint
from depthsig.progress import Progress

BLOCKS = [kind for kind in gguf.GGML_QUANT_SIZES if gguf.GGML_QUANT_SIZES[kind][0] > 1 or kind is Kind.BF16]


def plain(path: Path) -> tuple[Any, Any]:
    """The model and tokenizer as transformers reads them."""
    whole = {"quantization_config": hf.GgufConfig(dequantize=True)} if hasattr(hf, "GgufConfig") else {}
    module = hf.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, **whole
    )  # fmt: skip
    return module, hf.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def assert_alike(path: Path) -> None:
    found, (module, tokenizer) = open_checkpoint(path), plain(path)
    ours, theirs = found.module.state_dict(), module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
    for text in ("Hello there, 12 of them.", "  two\n\nlines é世界", "<|im_start|>user", ""):
        assert found.tokenizer(text).input_ids == tokenizer(text).input_ids
    assert found.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert found.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert found.tokenizer.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_small_file_is_alike(kind: str, tmp_path: Path) -> None:
    module = small_llama(intermediate=64)
    assert_alike(write_gguf(module, tmp_path / "a.gguf", keys=add_tokenizer(64), kind=Kind[kind]))


@pytest.mark.slow
def test_a_real_file_is_alike() -> None:
    assert_alike(smollm2())


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_blocks_are_unpacked_alike(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    shape = (7, 5, max(1, 512 // per_block) * size)
    data = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with np.errstate(all="ignore"):
        try:
            wanted = gguf.dequantize(data, kind)
        except NotImplementedError:
            pytest.skip("gguf cannot unpack it")
        for at_once in (1, 1500, 1 << 20):
            monkeypatch.setattr("depthsig.checkpoint.gguf.gguf_reading._AT_ONCE", at_once)
            found = _unpacked(data, kind, gguf.dequantize)
            assert found.dtype == wanted.dtype and found.shape == wanted.shape
            assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32))  # of what is not a number, too


def test_the_file_is_read_once_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(small_llama(), tmp_path / "a.gguf", keys=add_tokenizer(64))
    header, told, read = read_header(path), [], []
    names = ("GGUFReader", "dequantize", "get_tensor_name_map")
    reader = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: read.append(path) or reader(path))
    before = [getattr(gguf, name) for name in names]
    with read_once(header, told.append):
        plain(path)
        assert not read and sum(told) == sum(4 * held.count for held in header.tensors)
        other = write_gguf(small_llama(), tmp_path / "b.gguf")
        assert {t.name for t in gguf.GGUFReader(other).tensors} == {t.name for t in header.tensors}
        assert read == [other]
    assert [getattr(gguf, name) for name in names] == before
    with pytest.raises(ZeroDivisionError), read_once(header, told.append):
        raise ZeroDivisionError
    assert [getattr(gguf, name) for name in names] == before


def test_what_is_given_is_what_gguf_reads(tmp_path: Path) -> None:
    keys = {"=some.list": [1, 2, 3], "=some.names": ["a", "é"], "=some.one": ["x"], "=some.flag": True, "=some.f": 0.1}
    path = write_gguf(small_llama(), tmp_path / "a.gguf", keys=keys | add_tokenizer(64))
    theirs = gguf.GGUFReader(path)
    from transformers.modeling_gguf_pytorch_utils import read_field

    with read_once(read_header(path), lambda amount: None):
        ours = gguf.GGUFReader(path)
        assert [k for k in theirs.fields if not k.startswith("GGUF.")] == list(ours.fields)
        for key in ours.fields:
            assert read_field(ours, key) == read_field(theirs, key), key
    for one, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (one.name, one.tensor_type, one.data.dtype) == (other.name, other.tensor_type, other.data.dtype)
        assert np.array_equal(one.data, other.data)


def test_loading_shows_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr("depthsig.progress._is_terminal", lambda: True)
    path = write_gguf(small_llama(), tmp_path / "a.gguf")
    open_checkpoint(path)
    assert capsys.readouterr().err == ""
    open_checkpoint(path, progress=Progress(True))
    assert "loading a.gguf" in (said := capsys.readouterr().err) and "quantizing" not in said
