"""Lenses and models of the tuned lens' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from families import GPT2
from torch import nn

from depthsig.checkpoint.jacobian.jacobians import JacobianLens
from depthsig.checkpoint.translators import TunedLens

WIDTH, STEPS = 32, 4
"""Of the tiny models in ``families``."""


def some_lens(scale: float = 0.2, depths: int = STEPS, width: int = WIDTH, bias: bool = True) -> TunedLens:
    generator = torch.Generator().manual_seed(5)
    weights = tuple(scale * torch.randn(width, width, generator=generator) for _ in range(depths))
    biases = tuple(scale * torch.randn(width, generator=generator) for _ in range(depths))
    return TunedLens(weights, biases if bias else None)


def affine_model() -> nn.Module:
    """A GPT-2 whose last two layers are affine maps of the state: no attention, no norm, no activation."""
    torch.manual_seed(3)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, activation_function="linear", bos_token_id=1)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(0.1 * torch.randn(p.shape)) if p.ndim == 1 else p.mul_(6.0)
            if ".mlp." in name and p.ndim == 2:
                p.mul_(0.5)
        model.transformer.ln_f.weight.mul_(4.0)
        for layer in model.transformer.h[2:]:
            layer.attn.c_proj.weight.zero_()
            layer.attn.c_proj.bias.zero_()
            layer.ln_2 = nn.Identity()
    return model


def true_maps(model: nn.Module) -> TunedLens:
    """The translators of depths 2 and 3 in closed form; zero where there is none."""
    weights, biases = [torch.zeros(WIDTH, WIDTH)] * 2, [torch.zeros(WIDTH)] * 2
    weight, bias = torch.eye(WIDTH), torch.zeros(WIDTH)
    later = []
    for layer in reversed(model.transformer.h[2:]):
        own = layer.mlp
        a = torch.eye(WIDTH) + (own.c_fc.weight @ own.c_proj.weight).T.detach()
        b = (own.c_fc.bias @ own.c_proj.weight + own.c_proj.bias).detach()
        weight, bias = weight @ a, weight @ b + bias
        later.append((weight - torch.eye(WIDTH), bias))
    for w, b in reversed(later):
        weights, biases = [*weights, w], [*biases, b]
    return TunedLens(tuple(weights), tuple(biases))


def random_prompts(count: int, length: int = 24) -> list[list[int]]:
    return torch.randint(2, 272, (count, length), generator=torch.Generator().manual_seed(1)).tolist()


def write_as_tuned_lens(folder: Path, bias: bool = True, **changes: Any) -> nn.ModuleList:
    """As ``TunedLens.save`` of tuned-lens does."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(9)
    translators = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(STEPS)])
    torch.save(translators.state_dict(), folder / "params.pt")
    config = {
        "base_model_name_or_path": "some/model", "d_model": WIDTH, "num_hidden_layers": STEPS, "bias": bias,
        "base_model_revision": None, "unembed_hash": None, "lens_type": "linear_tuned_lens", **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return translators


def some_jacobians(scale: float = 0.2, depths: int = STEPS, width: int = WIDTH, first: bool = True) -> JacobianLens:
    """Near the identity, as those of a residual stream are; ``first`` is whether there is a J_0."""
    generator = torch.Generator().manual_seed(6)
    made = [torch.eye(width) + scale * torch.randn(width, width, generator=generator) for _ in range(depths)]
    return JacobianLens((made[0] if first else None, *made[1:]), config={"n_prompts": 3})
