"""Files of a tuned lens, as tuned-lens itself writes and reads them; and bad ones."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import build
from lenses import STEPS, WIDTH, random_prompts, some_lens, write_as_tuned_lens
from torch import nn

import depthsig
from depthsig.checkpoint.translators import read_lens, unembed_hash
from depthsig.errors import InputError


@pytest.mark.parametrize("bias", [True, False])
def test_reads_what_tuned_lens_writes(tmp_path: Path, bias: bool) -> None:
    translators = write_as_tuned_lens(tmp_path / "lens", bias)
    lens = read_lens(tmp_path / "lens")
    state = torch.randn(3, 5, WIDTH)
    for depth, translator in enumerate(translators):
        torch.testing.assert_close(lens.translate(state, depth), state + translator(state))
    assert lens.config["base_model_name_or_path"] == "some/model" and len(lens) == STEPS


@pytest.mark.parametrize("word", ["translator", "adapter", "probe"])
def test_reads_the_layout_before_april_2023(tmp_path: Path, word: str) -> None:
    translators = write_as_tuned_lens(tmp_path)
    state = OrderedDict({"layer_norm.weight": torch.ones(WIDTH), "unembedding.weight": torch.ones(272, WIDTH)})
    for depth, translator in enumerate(translators):
        stem = f"input_{word}" if depth == 0 else f"layer_{word}s.{depth - 1}"
        state |= {f"{stem}.weight": translator.weight.data, f"{stem}.bias": translator.bias.data}
    torch.save(state, tmp_path / "params.pt")
    old = {"d_model": WIDTH, "num_layers": STEPS, "vocab_size": 272, "bias": True, "extra_layers": 0}
    (tmp_path / "config.json").write_text(json.dumps(old | {"include_input": True, "reuse_unembedding": True}))
    lens = read_lens(tmp_path)
    for depth, translator in enumerate(translators):
        assert torch.equal(lens.weights[depth], translator.weight)
        assert torch.equal(lens.biases[depth], translator.bias)


def test_safetensors_hold_the_same_lens(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    translators = write_as_tuned_lens(tmp_path)
    before = read_lens(tmp_path)
    (tmp_path / "params.pt").unlink()
    save_file({k: v.contiguous() for k, v in translators.state_dict().items()}, tmp_path / "params.safetensors")
    after = read_lens(tmp_path)
    assert after.content_hash == before.content_hash
    assert after.content_hash != some_lens().content_hash


def test_what_is_written_loads_as_tuned_lens_loads_it(tmp_path: Path) -> None:
    fitted = depthsig.fit_lens(build("llama"), random_prompts(6), steps=2, out=tmp_path / "lens")
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    assert set(config) == {
        "base_model_name_or_path", "d_model", "num_hidden_layers", "bias", "base_model_revision", "unembed_hash",
        "lens_type",
    }  # fmt: skip
    shape = {"in_features": config["d_model"], "out_features": config["d_model"], "bias": config["bias"]}
    translators = nn.ModuleList([nn.Linear(**shape) for _ in range(config["num_hidden_layers"])])
    translators.load_state_dict(torch.load(tmp_path / "lens" / "params.pt", weights_only=True))
    state = torch.randn(7, WIDTH)
    for depth, translator in enumerate(translators):
        torch.testing.assert_close(fitted.lens.translate(state, depth), state + translator(state))
    assert read_lens(tmp_path / "lens").content_hash == fitted.lens.content_hash
    assert sorted(p.name for p in (tmp_path / "lens").iterdir()) == ["config.json", "lens.json", "params.pt"]
    assert [p.name for p in tmp_path.iterdir()] == ["lens"]


def test_mark_of_the_unembedding_does_not_depend_on_print_options() -> None:
    weight = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    mark = unembed_hash(weight)
    # As tuned-lens' ``tensor_hash`` has it, under NumPy's defaults: the matrix' corners at one digit.
    assert mark == hashlib.sha256(np.array_str(weight.numpy(), precision=1).encode()).hexdigest()
    with np.printoptions(precision=8, threshold=10**6, edgeitems=5):
        assert unembed_hash(weight) == mark
    assert unembed_hash(weight.flip(0)) != mark


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def _spoil(folder: Path, kind: str) -> str:
    """A bad lens, and a word of the message."""
    params, config = folder / "params.pt", folder / "config.json"
    state = torch.load(params, weights_only=True)
    said = json.loads(config.read_text())
    if kind == "bomb":
        torch.save({"0.weight": _Bomb(folder / "exploded")}, params)
        return "more than tensors"
    if kind == "raw pickle":
        params.write_bytes(pickle.dumps(_Bomb(folder / "exploded"), protocol=2))
        return "more than tensors"
    if kind == "truncated":
        params.write_bytes(params.read_bytes()[:500])
        return "truncated"
    if kind == "no params":
        params.unlink()
        return "no params.pt"
    if kind == "no config":
        config.unlink()
        return "no config.json"
    if kind == "config":
        config.write_text("{ not json")
        return "damaged"
    if kind == "list":
        config.write_text("[1]")
        return "list"
    changed = {
        "lens type": ({"lens_type": "causal_basis"}, "causal_basis"),
        "count": ({"num_hidden_layers": 7}, "num_hidden_layers"),
        "extra layers": ({"extra_layers": 1}, "layers"),
    }
    if kind in changed:
        new, word = changed[kind]
        config.write_text(json.dumps(said | new))
        return word
    new_state, word = {
        "missing": ({k: v for k, v in state.items() if k != "2.bias"}, "2.bias"),
        "unknown": (state | {"readme": torch.ones(1)}, "readme"),
        "shape": (state | {"1.weight": torch.ones(WIDTH, 3)}, "1.weight"),
        "dtype": (state | {"3.weight": torch.ones(WIDTH, WIDTH, dtype=torch.int8)}, "int8"),
        "nan": (state | {"3.bias": torch.full((WIDTH,), math.nan)}, "finite"),
        "nested": ({"lens": state}, "state dict"),
        "scalar": (state | {"0.weight": torch.zeros(())}, "shape"),
        "other keys": ({"foo": torch.ones(1)}, "foo"),
    }[kind]
    torch.save(new_state, params)
    return word


BAD = [
    "bomb", "raw pickle", "truncated", "no params", "no config", "config", "list", "lens type", "count",
    "extra layers", "missing", "unknown", "shape", "dtype", "nan", "nested", "scalar", "other keys",
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    write_as_tuned_lens(tmp_path)
    word = _spoil(tmp_path, kind)
    with pytest.raises(InputError, match=word) as caught:
        read_lens(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_a_lens_that_overflows_is_refused(tmp_path: Path) -> None:
    write_as_tuned_lens(tmp_path)
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    torch.save({k: v / v.abs().max() * 3e38 for k, v in state.items()}, tmp_path / "params.pt")
    with pytest.raises(InputError, match="not finite on this model"):
        depthsig.analyze(build("llama"), random_prompts(2), metrics=["tuned"], lens=tmp_path)


@pytest.mark.parametrize("kind", ["meta", "sparse", "view"])
def test_tensors_that_are_not_all_there(kind: str, tmp_path: Path) -> None:
    write_as_tuned_lens(tmp_path)
    state = torch.load(tmp_path / "params.pt", weights_only=True)
    odd = {
        "meta": torch.zeros(WIDTH, WIDTH, device="meta"), "sparse": torch.eye(WIDTH).to_sparse(),
        "view": torch.zeros(1).expand(10**7, 10**7),
    }  # fmt: skip
    torch.save({**state, "0.weight": odd[kind]}, tmp_path / "params.pt")
    with pytest.raises(InputError, match=r"0\.weight.*(plain tensors can be read|more than the file)"):
        read_lens(tmp_path)


def test_json_that_is_nested_too_deep(tmp_path: Path) -> None:
    write_as_tuned_lens(tmp_path)
    (tmp_path / "lens.json").write_text("[" * 100_000)  # another program's file of that name may hold anything
    assert read_lens(tmp_path).record == {}
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        read_lens(tmp_path)
