"""Models whose use of depth is known, because it was put there: edits of trained weights, and tiny made ones.

Everything takes a Llama of transformers and gives a new one; the given one stays as it is. Edits that keep
the function are exact up to rounding, dead layers to the bit.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
KINDS = ("permuted", "rotated", "noisy", "fresh")
NOISE = 0.01
"""Of weight noise that changes nothing of interest, in units of each matrix's standard deviation."""
BIG = 100.0
"""A coordinate that no layer writes to, so large that it alone makes the norm: RMSNorm becomes a division by it."""
OPEN = 10.0
"""The gate's bias of an MLP that is linear: silu of it is a constant."""


@cache
def _trained(arm: str) -> hf.LlamaForCausalLM:
    return hf.LlamaForCausalLM.from_pretrained(CHECKPOINTS / f"family-{arm}", dtype=torch.float32).eval()


def trained(arm: str = "baseline") -> hf.LlamaForCausalLM:
    """A member of the reference family in float32, a copy of one's own."""
    return _copy(_trained(arm))


def small_llama(rng: np.random.Generator, layers: int, width: int, vocab: int = 64, **more: Any) -> Any:
    """A Llama with random weights; norm gains differ from one."""
    config = hf.LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, eos_token_id=None,
        bos_token_id=None, tie_word_embeddings=False, **more,
    )  # fmt: skip
    return _fresh(config, rng)


def _fresh(config: Any, rng: np.random.Generator) -> Any:
    torch.manual_seed(int(rng.integers(1 << 31)))
    model = hf.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.mul_(1 + 0.1 * torch.randn_like(p))
    return model


def _copy(model: Any, **changes: Any) -> Any:
    """A model with the same weights; those whose names the new configuration lacks are left out."""
    config = hf.LlamaConfig(**{**model.config.to_dict(), "dtype": "float32", **changes})
    new = hf.LlamaForCausalLM(config).float().eval()
    state = model.state_dict()
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = model.lm_head.weight.detach()
    new.load_state_dict({k: v.clone() for k, v in state.items() if k in new.state_dict()}, strict=False)
    return new


# Edits that keep the function.


@torch.no_grad()
def permuted(model: Any, rng: np.random.Generator) -> Any:
    """Heads and neurons in another order, and factors moved between neighbouring weights.

    Norm gains are divided by factors that the weights behind them are multiplied by, and of every neuron the
    linear half by one that its output undoes.
    """
    new = _copy(model)
    heads, groups = new.config.num_attention_heads, new.config.num_key_value_heads
    for layer in new.model.layers:
        attn, mlp = layer.self_attn, layer.mlp
        of_groups = torch.from_numpy(rng.permutation(groups))
        each = heads // groups
        of_heads = (of_groups[:, None] * each + torch.arange(each)).reshape(-1)
        _rows(attn.q_proj.weight, _parts(of_heads, new.config.head_dim))
        for projection in (attn.k_proj, attn.v_proj):
            _rows(projection.weight, _parts(of_groups, new.config.head_dim))
        attn.o_proj.weight.copy_(attn.o_proj.weight[:, _parts(of_heads, new.config.head_dim)])
        neurons = torch.from_numpy(rng.permutation(mlp.up_proj.weight.shape[0]))
        for projection in (mlp.gate_proj, mlp.up_proj):
            _rows(projection.weight, neurons)
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, neurons])
        up = _factors(len(neurons), rng)
        mlp.up_proj.weight.mul_(up[:, None])
        mlp.down_proj.weight.div_(up)
        for norm, readers in _readers(layer):
            gain = _factors(len(norm.weight), rng)
            norm.weight.div_(gain)
            for reader in readers:
                reader.weight.mul_(gain)
    return new


def _parts(order: Tensor, size: int) -> Tensor:
    return (order[:, None] * size + torch.arange(size)).reshape(-1)


def _rows(weight: Tensor, order: Tensor) -> None:
    weight.copy_(weight[order])


def _factors(n: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(np.exp(0.3 * rng.standard_normal(n))).float()


def _readers(layer: Any) -> list[tuple[Any, list[nn.Linear]]]:
    """Norms of a layer with what reads them."""
    attn, mlp = layer.self_attn, layer.mlp
    return [
        (layer.input_layernorm, [attn.q_proj, attn.k_proj, attn.v_proj]),
        (layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]),
    ]


@torch.no_grad()
def rotated(model: Any, rng: np.random.Generator) -> Any:
    """The residual stream in another orthogonal basis.

    Gains go into the weights behind them, for RMSNorm without gains does not see a rotation; the head gets
    weights of its own.
    """
    new = _copy(model, tie_word_embeddings=False)
    width = new.config.hidden_size
    basis, upper = np.linalg.qr(rng.standard_normal((width, width)))
    turn = torch.from_numpy(basis * np.sign(np.diag(upper))).double()
    for norm, readers in [pair for layer in new.model.layers for pair in _readers(layer)] + [
        (new.model.norm, [new.lm_head])
    ]:
        for reader in readers:
            reader.weight.copy_((reader.weight.double() * norm.weight.double()) @ turn)
        norm.weight.fill_(1.0)
    for layer in new.model.layers:
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.copy_(turn.T @ writer.weight.double())
    embedding = new.model.embed_tokens.weight
    embedding.copy_(embedding.double() @ turn)
    return new


# Edits that plant something, or nothing much.


@torch.no_grad()
def noisy(model: Any, rng: np.random.Generator, size: float = NOISE) -> Any:
    """Normal noise on every matrix of every layer, in units of the matrix's own standard deviation."""
    new = _copy(model)
    for p in new.model.layers.parameters():
        if p.ndim == 2:
            p.add_(torch.from_numpy(rng.standard_normal(p.shape)).float(), alpha=size * float(p.std()))
    return new


def fresh(model: Any, rng: np.random.Generator) -> Any:
    """The same shape with random weights."""
    return _fresh(hf.LlamaConfig(**{**model.config.to_dict(), "dtype": "float32"}), rng)


@torch.no_grad()
def in_order(model: Any, order: Sequence[int | None], rng: np.random.Generator | None = None) -> Any:
    """A model whose layers are copies of the given one's, in this order; None is a dead layer.

    A dead layer has weights, drawn anew each, but for the two matrices that write to the residual stream:
    these are zero, so that it is the identity to the bit.
    """
    new = _copy(model, num_hidden_layers=len(order))
    rng = rng or np.random.default_rng(0)
    for layer, source in zip(new.model.layers, order, strict=True):
        layer.load_state_dict(model.model.layers[source or 0].state_dict())
        if source is None:
            for p in layer.parameters():
                if p.ndim == 2:
                    p.copy_(torch.from_numpy(rng.standard_normal(p.shape)).float() * p.std())
            for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
                for p in writer.parameters():
                    p.zero_()
    return new


@torch.no_grad()
def scaled(model: Any, factors: Sequence[float]) -> Any:
    """What each layer adds, attention and MLP, multiplied by its factor (of what it would add to the same state)."""
    new = _copy(model)
    for layer, factor in zip(new.model.layers, factors, strict=True):
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.mul_(factor)
    return new


def periodic(model: Any, block: int, strength: float) -> Any:
    """Every block's first layer adds 1 + ``strength`` times as much."""
    layers = model.config.num_hidden_layers
    return scaled(model, [1 + strength * (i % block == 0) for i in range(layers)])


# Made models.


@torch.no_grad()
def token_wise(
    rng: np.random.Generator, layers: int, sizes: Sequence[float], attention: float = 1.0, width: int = 32
) -> Any:
    """Random layers of which none looks at another position, so that all there is to know is a table over tokens.

    Attention adds a constant (its output's bias), MLPs are random functions of the state.

    Args:
        sizes: how much each layer adds. attention: what attention adds, times what an MLP does.
    """
    new = small_llama(rng, layers, width, vocab=48, attention_bias=True, mlp_bias=True)
    for p in new.parameters():
        p.copy_(torch.from_numpy(rng.standard_normal(p.shape)).float() * (0.3 if p.ndim == 2 else 1.0))
    new.model.embed_tokens.weight.mul_(3.0)
    for name, p in new.named_parameters():
        if name.endswith("norm.weight"):
            p.copy_(1 + 0.1 * p)
    for layer, size in zip(new.model.layers, sizes, strict=True):
        layer.self_attn.o_proj.weight.zero_()
        layer.self_attn.o_proj.bias.mul_(0.4 * size * attention)
        layer.mlp.down_proj.weight.mul_(0.4 * size)
        layer.mlp.down_proj.bias.mul_(0.2 * size)
    return new


@torch.no_grad()
def one_constant(rng: np.random.Generator, sizes: Sequence[float], known: int = 16) -> Any:
    """Every layer adds so much of one direction, which makes the first ``known`` tokens likelier.

    With equal sizes no step matters more than another.
    """
    layers = len(sizes)
    new = token_wise(rng, layers, [0.0] * layers)
    direction = new.lm_head.weight[:known].mean(0) - new.lm_head.weight[known:].mean(0)
    for layer, size in zip(new.model.layers, sizes, strict=True):
        layer.mlp.down_proj.bias.copy_(size * direction / direction.norm())
    return new


@torch.no_grad()
def linear_loop(rng: np.random.Generator, radius: float, layers: int = 2, push: float = 1.0, width: int = 16) -> Any:
    """Layers of which one pass is x ← ``radius``·x + c, in all coordinates but one; c ∝ ``push``.

    One coordinate is so large that RMSNorm divides by it alone, and open gates make MLPs linear. For a radius
    below 1 the fixed point is c / (1 − radius).
    """
    new = token_wise(rng, layers, [0.0] * layers, width=width)
    each = radius ** (1 / layers)
    new.model.embed_tokens.weight.copy_(torch.randn_like(new.model.embed_tokens.weight))
    new.model.embed_tokens.weight[:, 0] = BIG * math.sqrt(width)
    constant = push * torch.from_numpy(rng.standard_normal(width)).float()
    constant[0] = 0.0
    gate = float(nn.functional.silu(torch.tensor(OPEN)))
    for layer in new.model.layers:
        layer.post_attention_layernorm.weight.fill_(1.0)
        mlp = layer.mlp
        for p in mlp.parameters():
            p.zero_()
        mlp.gate_proj.bias.fill_(OPEN)
        places = torch.arange(1, width)
        mlp.up_proj.weight[places, places] = (each - 1) * BIG / gate
        mlp.down_proj.weight[places, places] = 1.0
        mlp.down_proj.bias.copy_(constant)
    new.lm_head.weight.mul_(BIG)
    return new


# Null models for others.


def null_models(
    n: int, seed: int, folder: str | Path, *, kinds: Sequence[str] = KINDS[:3], grown: str | None = "0:24/4"
) -> list[Path]:
    """Checkpoint folders of models in which nothing was planted: the trained baseline, changed without consequence.

    Args:
        n: how many. seed: of all that is drawn.
        folder: where ``null-000``, ``null-001`` … are written; those that are whole are kept.
        kinds: in turn: ``permuted`` and ``rotated`` (the baseline's function up to rounding), ``noisy`` (1 % of
            noise), ``fresh`` (random weights).
        grown: a span that the folders declare, which is a lie: nothing grew. None declares nothing.

    Returns:
        The folders, in order.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"unknown kinds of null models: {', '.join(unknown) or 'none'}; there are {', '.join(KINDS)}")
    makers = {"permuted": permuted, "rotated": rotated, "noisy": noisy, "fresh": fresh}
    paths = []
    for number in range(n):
        path = Path(folder) / f"null-{number:03d}"
        paths.append(path)
        if path.exists():
            continue
        rng = np.random.default_rng((seed, number))
        scratch = path.with_name(path.name + ".tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        makers[kinds[number % len(kinds)]](_trained("baseline"), rng).save_pretrained(scratch)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(CHECKPOINTS / "family-baseline" / name, scratch / name)
        declared = {"prompts": "lookup", "arm": "null", "seed": number, **({"grown": grown} if grown else {})}
        config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
        (scratch / "config.json").write_text(json.dumps({**config, "depthsig": declared}, indent=1), encoding="utf-8")
        scratch.rename(path)
    return paths
