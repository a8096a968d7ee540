"""Looped checkpoints as folders with their own code, and what a plain hooked forward needs to know about each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import looped
import looped_remote as remote
import torch
from families import byte_tokenizer
from looped_cases import CASES, Case, shaken
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


def remote_folder(folder: Path, module: Any, source: ModuleType) -> Path:
    """Save a model of a class of ``source`` as a checkpoint that brings that code."""
    every = {name: tensor.clone() for name, tensor in module.state_dict().items()}  # shared ones under each name
    module.save_pretrained(folder, state_dict=every)
    byte_tokenizer().save_pretrained(folder)
    assert source.__file__ is not None
    shutil.copy(source.__file__, folder / "modeling_own.py")
    config = json.loads((folder / "config.json").read_text())
    kinds = {"AutoConfig": type(module.config), "AutoModelForCausalLM": type(module)}
    config["auto_map"] = {auto: f"modeling_own.{kind.__name__}" for auto, kind in kinds.items()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_own_code(folder: Path) -> nn.Module:
    """The model of such a folder as transformers alone loads it."""
    found: nn.Module = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(found).__module__.startswith("transformers_modules.")
    return found


def _build(name: str, scale: float = 2.0, **config: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        made = getattr(remote, f"{name}RemoteForCausalLM")(getattr(remote, f"{name}RemoteConfig")(**config))
        return shaken(made, scale)

    return build


def _retrofitted() -> nn.Module:
    torch.manual_seed(0)
    return shaken(looped.RetrofittedForCausalLM(looped.RavenConfig(mean_recurrence=3)), 1.5)


def _norm(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(m.model.norm(x))


def _head(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(x)


def _norm_f(m: Any, x: Tensor) -> Tensor:
    return m.lm_head(m.transformer["norm_f"](x))


def _decoder(m: Any, x: Tensor) -> Tensor:
    return m.decoder.lm_head(m.decoder.norm(x))


def _all_passes(m: Any, ids: Tensor) -> Any:
    """Every pass of LoopUS for every token."""
    m.q_threshold = 1.0
    return m(ids)


def _layers(m: Any) -> list[nn.Module]:
    return list(m.model.layers)


def _blocks(m: Any) -> list[nn.Module]:
    return list(m.transformer["h"].blocks)


L3 = (0, 1, 2)
_SEQUENCE = {"sharing": "sequence", "num_recursion": 2}
REMOTE: dict[str, Case] = {
    "nanbeige": Case(
        _build("Nanbeige"), _layers, L3 * 2, _norm, _head, normed=(3,), passed=(3, 4, 5),
        boundaries={3: "norm(model.norm)"},
    ),
    "iquest": Case(
        _build("IQuest"), _layers, L3 * 2, _norm, _head, passed=(3, 4, 5), call=lambda m, ids: m(ids, use_cache=True),
    ),
    "routed": Case(_build("Routed"), _layers, L3 * 3, _norm, _head, passed=(3, 4, 5)),
    "mobile": Case(_build("Mobile"), _layers, (0, 0, 1, 1, 2, 2), _norm, _head, passed=(1, 3)),
    "recursion": Case(
        _build("Recursion", num_hidden_layers=4), _layers, (0, 1, 2, 3), _norm, _head, passed=(2, 3),
    ),
    "recursion, norms too": Case(
        _build("Recursion", num_hidden_layers=4, recursive={**_SEQUENCE, "ln_share": True}),
        _layers, (0, 0, 2, 2), _norm, _head, passed=(1, 3),
    ),
    "base loop": Case(
        _build("BaseLoop", 1.5, tie_word_embeddings=True), _blocks, L3 * 8, _norm_f, _head, passed=(3, 4, 5),
        call=lambda m, ids: m(ids, ids),
    ),
    "loopformer": Case(
        _build("LoopFormer", 1.5), _blocks, L3 * 8, _norm_f, _head, passed=(3, 4, 5), call=lambda m, ids: m(ids, ids),
    ),
    "loopformer, 1 block": Case(
        _build("LoopFormer", 1.5, n_layer=1), _blocks, (0,) * 8, _norm_f, _head, passed=(3,),
        call=lambda m, ids: m(ids, ids),
    ),
    "loopus": Case(
        _build("LDS"), lambda m: [*m.encoder.layers, *m.reasoning.layers, *m.decoder.layers],
        (0, 1, 2, 1, 2, 1, 2, 3), _decoder, lambda m, x: m.decoder.lm_head(x), passed=(3, 4), call=_all_passes,
        boundaries=dict.fromkeys((3, 5, 7), "map(reasoning.gate)"),
    ),
    "retrofitted": Case(
        _retrofitted, CASES["huginn"].layers, CASES["huginn"].order, CASES["huginn"].read, _head, normed=(7,),
        passed=(3, 4), call=CASES["huginn"].call, boundaries=CASES["huginn"].boundaries,
    ),
    "parcae": CASES["parcae"],
    "albert": CASES["albert"],
    "ouro": CASES["ouro"],
}  # fmt: skip
OLDER = ("retrofitted", "parcae", "albert", "ouro")
"""Those whose code is in ``looped``."""


def source_of(kind: str) -> ModuleType:
    """The code that a case's folder brings."""
    return looped if kind in OLDER else remote
